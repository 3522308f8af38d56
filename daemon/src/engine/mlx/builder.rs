//! From tensors to a generator: the MLX side of a load.

use std::collections::HashSet;

use super::Device;
use super::generator::MlxGenerator;
use super::models::{self, Assembly, Plan, Source};
use super::weights::Weights;
use crate::engine::backend::{Builder, EngineError, Generator, ModelInfo};
use crate::engine::tensor::HostTensor;
use crate::formats::gguf::GgufFile;
use crate::formats::hf::ModelFolder;

/// Takes the tensors of one model.
pub(super) struct ModelBuilder {
    architecture: String,
    plan: Box<dyn Plan>,
    weights: Weights,
    /// The model in the making, once every tensor is there.
    assembly: Option<Box<dyn Assembly>>,
    device: Device,
}

impl ModelBuilder {
    /// Reads the hyperparameters and lists the tensors to come.
    pub(super) fn from_gguf(gguf: &GgufFile, device: Device) -> Result<Self, EngineError> {
        let (architecture, plan) = models::plan(&Source::Gguf(gguf))?;
        let weights = Weights::new(gguf.path().to_owned(), plan.tensors(), device);
        Ok(Self { architecture, plan, weights, assembly: None, device })
    }

    /// The same for a folder, and checks that its tensors are those of the architecture.
    pub(super) fn from_folder(folder: &ModelFolder, device: Device) -> Result<Self, EngineError> {
        let (architecture, plan) = models::plan(&Source::Folder(folder))?;
        let weights = Weights::new(folder.path().to_owned(), plan.tensors(), device);
        let mut names = HashSet::new();
        for tensor in folder.tensors() {
            weights.check(&tensor.name, &tensor.shape).map_err(|error| match error {
                EngineError::InvalidModel { problem, .. } => {
                    let file = folder.file_of(tensor.main_part()).to_owned();
                    EngineError::InvalidModel { file, problem }
                }
                other => other,
            })?;
            names.insert(tensor.name.as_str());
        }
        weights.check_all_in(|name| names.contains(name))?;
        Ok(Self { architecture, plan, weights, assembly: None, device })
    }
}

impl ModelBuilder {
    /// What has been assembled so far; the first call checks that every tensor is there.
    fn assembly(&mut self) -> Result<Box<dyn Assembly>, EngineError> {
        if let Some(assembly) = self.assembly.take() {
            return Ok(assembly);
        }
        self.weights.check_complete()?;
        self.plan.assembly(&mut self.weights, self.device)
    }
}

impl Builder for ModelBuilder {
    fn adopt(&mut self, tensor: HostTensor) -> Result<(), EngineError> {
        self.weights.adopt(tensor)
    }

    fn advance(&mut self, has_all: bool) -> Result<bool, EngineError> {
        if !self.weights.copy_piece() {
            return Ok(false);
        }
        if !has_all {
            return Ok(true);
        }
        let mut assembly = self.assembly()?;
        let is_whole = assembly.step(&mut self.weights)?;
        self.assembly = Some(assembly);
        Ok(is_whole)
    }

    fn finish(mut self: Box<Self>) -> Result<Box<dyn Generator>, EngineError> {
        let mut assembly = self.assembly()?;
        while !assembly.step(&mut self.weights)? {}
        let info = ModelInfo {
            architecture: self.architecture,
            vocab_size: self.plan.vocab_size(),
            weight_bytes: self.weights.bytes(),
        };
        let model = assembly.finish(&mut self.weights)?;
        Ok(Box::new(MlxGenerator::new(model, info, self.plan.context_tokens(), self.device)))
    }
}
