//! Builders: assemble a generator or an embedder from tensors, the MLX side of a load.

use std::collections::HashSet;

use super::embedder::MlxEmbedder;
use super::generator::MlxGenerator;
use super::models::{self, Assembly, Encoder, Model, Plan, Source};
use super::weights::Weights;
use crate::device::Device;
use crate::error::MlxError;
use ingle_engine::backend::{Builder, Embedder, EmbedderBuilder, Generator, ModelInfo};
use ingle_engine::error::EngineError;
use ingle_engine::tensor::HostTensor;
use ingle_formats::gguf::GgufFile;
use ingle_formats::hf::{ModelFolder, Pooling};

/// Takes the tensors of one model, which becomes an `M`.
pub(super) struct ModelBuilder<M: ?Sized> {
    architecture: String,
    plan: Box<dyn Plan<M>>,
    weights: Weights,
    /// The model in the making, once every tensor is there.
    assembly: Option<Box<dyn Assembly<M>>>,
    device: Device,
}

impl ModelBuilder<dyn Model> {
    /// Reads the hyperparameters and lists the tensors to come.
    pub(super) fn from_gguf(gguf: &GgufFile, device: Device) -> Result<Self, MlxError> {
        let (architecture, plan) = models::plan(&Source::Gguf(gguf))?;
        let weights = Weights::new(gguf.path().to_owned(), plan.tensors(), device);
        Ok(Self { architecture, plan, weights, assembly: None, device })
    }

    /// The same for a folder, and checks that its tensors are those of the architecture.
    pub(super) fn from_folder(folder: &ModelFolder, device: Device) -> Result<Self, MlxError> {
        let (architecture, plan) = models::plan(&Source::Folder(folder))?;
        Self::of_folder(folder, architecture, plan, device)
    }
}

impl<M: ?Sized> ModelBuilder<M> {
    fn of_folder(
        folder: &ModelFolder,
        architecture: String,
        plan: Box<dyn Plan<M>>,
        device: Device,
    ) -> Result<Self, MlxError> {
        let weights = Weights::new(folder.path().to_owned(), plan.tensors(), device);
        let mut names = HashSet::new();
        for tensor in folder.tensors() {
            weights.check(&tensor.name, &tensor.shape).map_err(|error| match EngineError::from(
                error,
            ) {
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

    /// What has been assembled so far; the first call checks that every tensor is there.
    fn assembly(&mut self) -> Result<Box<dyn Assembly<M>>, MlxError> {
        if let Some(assembly) = self.assembly.take() {
            return Ok(assembly);
        }
        self.weights.check_complete()?;
        self.plan.assembly(&mut self.weights, self.device)
    }

    /// As [`Builder::advance`].
    fn step(&mut self, has_all: bool) -> Result<bool, MlxError> {
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

    /// The model and its description.
    fn assemble(mut self) -> Result<(Box<M>, ModelInfo), MlxError> {
        let mut assembly = self.assembly()?;
        while !assembly.step(&mut self.weights)? {}
        let info = ModelInfo {
            architecture: self.architecture,
            vocab_size: self.plan.vocab_size(),
            weight_bytes: self.weights.bytes(),
        };
        Ok((assembly.finish(&mut self.weights)?, info))
    }
}

impl Builder for ModelBuilder<dyn Model> {
    fn adopt(&mut self, tensor: HostTensor) -> Result<(), EngineError> {
        Ok(self.weights.adopt(tensor)?)
    }

    fn advance(&mut self, has_all: bool) -> Result<bool, EngineError> {
        Ok(self.step(has_all)?)
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Generator>, EngineError> {
        let (context_tokens, device) = (self.plan.context_tokens(), self.device);
        let (model, info) = self.assemble()?;
        Ok(Box::new(MlxGenerator::new(model, info, context_tokens, device)))
    }
}

/// The builder of a model that embeds, and what becomes of its tokens' vectors.
pub(super) struct EncoderBuilder {
    model: ModelBuilder<dyn Encoder>,
    pooling: Pooling,
    /// Bytes of what a pass computes on the way, at most.
    pass_bytes: u64,
}

impl EncoderBuilder {
    /// Reads the hyperparameters of a folder, and checks its tensors and how it pools.
    pub(super) fn from_folder(folder: &ModelFolder, device: Device) -> Result<Self, MlxError> {
        let (architecture, plan) = models::encoder_plan(folder)?;
        // Guessed wrong, vectors would look well and mean little.
        let Some(sentence) = folder.sentence() else {
            return Err(EngineError::InvalidModel {
                file: folder.path().to_owned(),
                problem: "the folder has no modules.json, which names the pooling that makes one \
                          vector of a text's tokens; fetch the model again with all of its files"
                    .to_owned(),
            }
            .into());
        };
        let model = ModelBuilder::of_folder(folder, architecture, plan, device)?;
        let pass_bytes = crate::embedder::pass_bytes(folder);
        Ok(Self { model, pooling: sentence.pooling, pass_bytes })
    }
}

impl EmbedderBuilder for EncoderBuilder {
    fn adopt(&mut self, tensor: HostTensor) -> Result<(), EngineError> {
        Ok(self.model.weights.adopt(tensor)?)
    }

    fn advance(&mut self, has_all: bool) -> Result<bool, EngineError> {
        Ok(self.model.step(has_all)?)
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Embedder>, EngineError> {
        let Self { model, pooling, pass_bytes } = *self;
        let (context_tokens, device) = (model.plan.context_tokens(), model.device);
        let (encoder, info) = model.assemble()?;
        let sizes = (context_tokens, pass_bytes);
        Ok(Box::new(MlxEmbedder::new(encoder, info, pooling, sizes, device)))
    }
}
