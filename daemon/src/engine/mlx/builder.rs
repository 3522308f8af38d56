//! From tensors to a generator: the MLX side of a load.

use super::Device;
use super::generator::MlxGenerator;
use super::models::{self, Plan};
use super::weights::Weights;
use crate::engine::backend::{Builder, EngineError, Generator, ModelInfo};
use crate::engine::tensor::HostTensor;
use crate::formats::gguf::GgufFile;

/// Takes the tensors of one model.
pub(super) struct ModelBuilder {
    architecture: String,
    plan: Box<dyn Plan>,
    weights: Weights,
    device: Device,
}

impl ModelBuilder {
    /// Reads the hyperparameters and lists the tensors to come.
    pub(super) fn new(gguf: &GgufFile, device: Device) -> Result<Self, EngineError> {
        let (architecture, plan) = models::plan(gguf)?;
        let weights = Weights::new(gguf.path().to_owned(), plan.tensors());
        Ok(Self { architecture, plan, weights, device })
    }
}

impl Builder for ModelBuilder {
    fn adopt(&mut self, tensor: HostTensor) -> Result<(), EngineError> {
        self.weights.adopt(tensor)
    }

    fn finish(mut self: Box<Self>) -> Result<Box<dyn Generator>, EngineError> {
        self.weights.check_complete()?;
        let info = ModelInfo {
            architecture: self.architecture,
            vocab_size: self.plan.vocab_size(),
            weight_bytes: self.weights.bytes(),
        };
        let model = self.plan.build(&mut self.weights, self.device)?;
        Ok(Box::new(MlxGenerator::new(model, info, self.plan.context_tokens(), self.device)))
    }
}
