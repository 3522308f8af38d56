//! Model load: the loader thread builds model and context, the engine thread receives them.
//!
//! Owns the way from a checked header to a generator. Does not know sequences.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits;
use ingle_protocol::wire::models::EngineKind;
use llama_guard::{
    Context, ContextOptions, ErrorKind, LoadOptions, Model, ModelFacts, Pooling, physical_cores,
};

use super::check;
use super::embedder::LlamaEmbedder;
use super::generator::{LlamaGenerator, Shape};
use super::sizes::{self, BATCH_TOKENS};
use crate::error::native;
use ingle_engine::backend::{Builder, Embedder, EmbedderBuilder, Generator, ModelInfo};
use ingle_engine::error::EngineError;
use ingle_engine::loader::{self, LoadSink, LoadStream};
use ingle_engine::role::Role;
use ingle_engine::settings::EngineSettings;
use ingle_engine::tensor::HostTensor;
use ingle_formats::gguf::GgufFile;

/// The architecture whose KV cache asserts that only whole sequences are shared.
const NEVER_CUT: &str = "deepseek4";

/// Passes the built model from the loader thread to the engine thread.
struct ModelHandoff<T>(Arc<Mutex<Option<T>>>);

/// Starts the load of a generator.
///
/// The stream reports the progress, and [`Builder::finish`] returns the model.
///
/// # Errors
/// When llama.cpp must not load a file with this header, or the thread cannot be started.
pub(super) fn load(
    gguf: &Arc<GgufFile>,
    settings: &EngineSettings,
    cancel: Arc<AtomicBool>,
) -> Result<(Box<dyn Builder>, LoadStream), EngineError> {
    check::check(gguf, Role::Generates)?;
    let (handoff, stream) = spawn(gguf, settings, cancel, |gguf, settings, sink| {
        let (model, facts) = load_model(gguf, settings, sink)?;
        if facts.has_encoder || !facts.has_decoder {
            return Err(check::unsupported(gguf, check::ENCODER));
        }
        if facts.is_diffusion {
            return Err(check::unsupported(gguf, check::DIFFUSION));
        }
        with_context(gguf, model, settings, BATCH_TOKENS)
    })?;
    Ok((Box::new(handoff), stream))
}

/// Starts the load of an embedder.
///
/// # Errors
/// As [`load`].
pub(super) fn load_embedder(
    gguf: &Arc<GgufFile>,
    settings: &EngineSettings,
    cancel: Arc<AtomicBool>,
) -> Result<(Box<dyn EmbedderBuilder>, LoadStream), EngineError> {
    check::check(gguf, Role::Embeds)?;
    let (handoff, stream) = spawn(gguf, settings, cancel, |gguf, settings, sink| {
        let (model, _) = load_model(gguf, settings, sink)?;
        embedder_of(gguf, model, settings)
    })?;
    Ok((Box::new(handoff), stream))
}

/// Starts a loader thread that builds a whole model.
fn spawn<T: Send + 'static>(
    gguf: &Arc<GgufFile>,
    settings: &EngineSettings,
    cancel: Arc<AtomicBool>,
    build: impl FnOnce(&GgufFile, &EngineSettings, &LoadSink) -> Result<T, EngineError> + Send + 'static,
) -> Result<(ModelHandoff<T>, LoadStream), EngineError> {
    crate::log::forward_log();
    let handoff = ModelHandoff(Arc::default());
    let (file, settings, target) = (Arc::clone(gguf), settings.clone(), Arc::clone(&handoff.0));
    let stream = loader::spawn_work(cancel, move |sink| {
        let built = build(&file, &settings, sink)?;
        *target.lock().unwrap_or_else(PoisonError::into_inner) = Some(built);
        Ok(())
    })?;
    Ok((handoff, stream))
}

impl<T> ModelHandoff<T> {
    fn take(&self) -> Result<T, EngineError> {
        let built = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        built.ok_or_else(|| EngineError::Native("the loader thread built no model".to_owned()))
    }
}

impl Builder for ModelHandoff<LlamaGenerator> {
    fn adopt(&mut self, tensor: HostTensor) -> Result<(), EngineError> {
        let problem = format!("a tensor `{}` for a model that is built whole", tensor.name);
        Err(EngineError::Native(problem))
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Generator>, EngineError> {
        Ok(Box::new(self.take()?))
    }
}

impl EmbedderBuilder for ModelHandoff<LlamaEmbedder> {
    fn finish(self: Box<Self>) -> Result<Box<dyn Embedder>, EngineError> {
        Ok(Box::new(self.take()?))
    }
}

/// Maps and checks the weights, and reports the progress.
fn load_model(
    gguf: &GgufFile,
    settings: &EngineSettings,
    sink: &LoadSink,
) -> Result<(Arc<Model>, ModelFacts), EngineError> {
    check_weights(gguf, sink)?;
    let bytes_total = gguf.model_bytes();
    // Of a model split over several files only the first has been checked.
    let check_tensors = gguf.part_count() > 1;
    let options = LoadOptions { gpu_layers: settings.gpu_layers, check_tensors };
    let mut progress =
        |share: f32| sink.report(share_of(bytes_total, 0.5 + share / 2.0), bytes_total).is_ok();
    let model = Model::load(gguf.path(), &options, &mut progress);
    let model = model.map_err(|error| file_error(gguf, error))?;
    let facts = model.facts().map_err(native)?;
    sink.check_cancel()?;
    Ok((Arc::new(model), facts))
}

/// Refuses weights that are NaN or infinite, naming the tensor.
///
/// Reads the file once, on this thread alone; the mapping then finds it in the page cache.
fn check_weights(gguf: &GgufFile, sink: &LoadSink) -> Result<(), EngineError> {
    const CHUNK_BYTES: usize = 1 << 20;
    let bytes_total = gguf.model_bytes();
    let mut bytes_read = 0;
    let mut buffer = Vec::new();
    for tensor in gguf.tensors() {
        let block_bytes = tensor.ggml_type.block_bytes();
        let chunk_bytes = (CHUNK_BYTES / block_bytes * block_bytes) as u64;
        let mut offset = 0;
        while offset < tensor.bytes {
            let len = chunk_bytes.min(tensor.bytes - offset);
            buffer.resize(usize::try_from(len).unwrap_or(0), 0);
            gguf.read_tensor(tensor, offset, &mut buffer)?;
            if !llama_guard::is_finite(tensor.ggml_type.id(), &buffer) {
                return Err(EngineError::InvalidModel {
                    file: gguf.path().to_owned(),
                    problem: format!(
                        "tensor `{}`: a value or scale in bytes {offset} to {} is NaN or infinite, \
                         expected finite numbers",
                        tensor.name,
                        offset + len
                    ),
                });
            }
            offset += len;
            sink.check_cancel()?;
        }
        bytes_read += tensor.bytes;
        // The check is the first half of the progress, llama.cpp's own load the second.
        let reported = sink.report(bytes_read / 2, bytes_total);
        reported.map_err(|_| EngineError::Cancelled)?;
    }
    Ok(())
}

/// Creates the context of an embedding model.
pub(super) fn embedder_of(
    gguf: &GgufFile,
    model: Arc<Model>,
    settings: &EngineSettings,
) -> Result<LlamaEmbedder, EngineError> {
    let facts = model.facts().map_err(native)?;
    let architecture = check::architecture(gguf)?.to_owned();
    let context_tokens = settings.context_tokens(EngineKind::Gguf, facts.trained_context);
    let batch_tokens = sizes::embedding_batch_tokens(context_tokens);
    let batch = u32::try_from(batch_tokens).unwrap_or(u32::MAX);
    let options = ContextOptions {
        context_tokens: batch,
        batch_tokens: batch,
        micro_batch_tokens: batch,
        sequences: u32::try_from(limits::GGUF_SEQUENCES).unwrap_or(u32::MAX),
        threads: threads(settings),
        embeddings: true,
    };
    let context = Context::new(model, options).map_err(|error| {
        let message = format!("no context of {batch_tokens} tokens: {error}");
        file_error(gguf, llama_guard::Error { message, ..error })
    })?;
    match context.pooling() {
        Pooling::Mean | Pooling::First | Pooling::Last => {}
        Pooling::Rank => {
            let problem = "it is a reranker, whose scores are not supported yet";
            return Err(check::unsupported(gguf, problem));
        }
        Pooling::None => {
            let key = format!("{architecture}.pooling_type");
            let problem = format!(
                "metadata key `{key}` does not say how the tokens' embeddings become the text's, \
                 expected 1 (mean), 2 (first token) or 3 (last token)"
            );
            return Err(check::unsupported(gguf, &problem));
        }
    }
    let info = ModelInfo { architecture, vocab_size: facts.vocab_size, weight_bytes: facts.bytes };
    // Embedders with a generator's architecture keep a KV cache; the others have none.
    let has_memory = context.kv_bytes() > 0;
    let batch = (limits::GGUF_SEQUENCES, batch_tokens);
    let dimensions = facts.embedding_size;
    Ok(LlamaEmbedder::new(context, info, dimensions, context_tokens, batch, has_memory))
}

/// Creates the context of a generator.
pub(super) fn with_context(
    gguf: &GgufFile,
    model: Arc<Model>,
    settings: &EngineSettings,
    batch_tokens: u32,
) -> Result<LlamaGenerator, EngineError> {
    let facts = model.facts().map_err(native)?;
    let context_tokens = settings.context_tokens(EngineKind::Gguf, facts.trained_context);
    let pool_tokens = sizes::pool_tokens(context_tokens, settings);
    let options = ContextOptions {
        context_tokens: u32::try_from(pool_tokens).unwrap_or(u32::MAX),
        batch_tokens,
        micro_batch_tokens: sizes::MICRO_BATCH_TOKENS,
        sequences: u32::try_from(limits::GGUF_SEQUENCES).unwrap_or(u32::MAX),
        threads: threads(settings),
        embeddings: false,
    };
    let context = Context::new(model, options).map_err(|error| {
        let message = format!("no context of {pool_tokens} tokens: {error}");
        file_error(gguf, llama_guard::Error { message, ..error })
    })?;
    tracing::debug!(
        kv_bytes = context.kv_bytes(),
        compute_bytes = context.compute_bytes(),
        pool_tokens,
        "llama.cpp context created"
    );
    let info = ModelInfo {
        architecture: check::architecture(gguf)?.to_owned(),
        vocab_size: facts.vocab_size,
        weight_bytes: facts.bytes,
    };
    let shape = Shape {
        context_tokens,
        sequences: limits::GGUF_SEQUENCES,
        batch_tokens: batch_tokens as usize,
        cuts: !(facts.is_recurrent || facts.is_hybrid || info.architecture == NEVER_CUT),
        has_state_only: facts.is_recurrent,
    };
    Ok(LlamaGenerator::new(context, info, shape))
}

/// Number of compute threads.
pub(super) fn threads(settings: &EngineSettings) -> u32 {
    settings.threads.unwrap_or_else(|| u32::try_from(physical_cores()).unwrap_or(1))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "bytes for a progress bar"
)]
fn share_of(bytes: u64, share: f32) -> u64 {
    (bytes as f64 * f64::from(share.clamp(0.0, 1.0))) as u64
}

/// The error of a failed load; most are faults of the file.
pub(super) fn file_error(gguf: &GgufFile, error: llama_guard::Error) -> EngineError {
    let file = gguf.path().to_owned();
    let message = error.message.clone();
    match error.kind {
        ErrorKind::Cancelled => EngineError::Cancelled,
        ErrorKind::NoMemory => {
            EngineError::NoMemory { file, problem: format!("llama.cpp: {message}") }
        }
        _ if message.contains("allocate") => {
            EngineError::NoMemory { file, problem: format!("llama.cpp: {message}") }
        }
        _ if message.contains("unknown model architecture") => {
            EngineError::Unsupported { file, problem: format!("llama.cpp: {message}") }
        }
        ErrorKind::Assertion => EngineError::InvalidModel {
            file,
            problem: format!("llama.cpp refuses the model: {message}"),
        },
        _ => EngineError::InvalidModel { file, problem: format!("llama.cpp: {message}") },
    }
}
