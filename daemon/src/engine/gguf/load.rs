//! A load: the loader thread builds model and context, the engine thread takes them over.
//!
//! Owns the way from a checked header to a generator. Knows nothing of sequences.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use ingle_protocol::limits;
use ingle_protocol::wire::models::EngineKind;
use llama_guard::{Context, ContextOptions, ErrorKind, LoadOptions, Model, physical_cores};

use super::check;
use super::generator::{GgufGenerator, Shape};
use crate::engine::backend::{Builder, EngineError, Generator, ModelInfo};
use crate::engine::loader::{self, LoadStream, Outlet};
use crate::engine::settings::EngineSettings;
use crate::engine::tensor::HostTensor;
use crate::formats::gguf::GgufFile;

/// Tokens that one call of llama.cpp takes at most.
pub(super) const BATCH_TOKENS: u32 = 2_048;
/// Tokens that llama.cpp computes together; its own default. The pacing's largest chunk is as many.
pub(super) const MICRO_BATCH_TOKENS: u32 = 512;

/// Where the loader thread leaves the finished generator.
type Slot = Arc<Mutex<Option<GgufGenerator>>>;

/// Starts the load of a GGUF file. Its progress comes through the stream, and the model itself
/// through [`Builder::finish`].
///
/// # Errors
/// When the header shows that llama.cpp must not be given the file, or the system gives no thread.
pub fn load(
    gguf: &Arc<GgufFile>,
    settings: &EngineSettings,
    cancel: Arc<AtomicBool>,
) -> Result<(Box<dyn Builder>, LoadStream), EngineError> {
    super::forward_log();
    check::check(gguf)?;
    let slot = Slot::default();
    let (file, settings, target) = (Arc::clone(gguf), settings.clone(), Arc::clone(&slot));
    let stream = loader::spawn_work(cancel, move |outlet| {
        let generator = build(&file, &settings, outlet)?;
        *target.lock().unwrap_or_else(PoisonError::into_inner) = Some(generator);
        Ok(())
    })?;
    Ok((Box::new(Finished { slot }), stream))
}

/// The engine thread's side: takes what the loader thread has built.
struct Finished {
    slot: Slot,
}

impl Builder for Finished {
    fn adopt(&mut self, tensor: HostTensor) -> Result<(), EngineError> {
        let problem = format!("a tensor `{}` for a model that is built whole", tensor.name);
        Err(EngineError::Native(problem))
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn Generator>, EngineError> {
        let generator = self.slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        match generator {
            Some(generator) => Ok(Box::new(generator)),
            None => Err(EngineError::Native("the loader thread built no model".to_owned())),
        }
    }
}

fn build(
    gguf: &GgufFile,
    settings: &EngineSettings,
    outlet: &Outlet,
) -> Result<GgufGenerator, EngineError> {
    let bytes_total = gguf.tensor_bytes();
    let options = LoadOptions { gpu_layers: settings.gpu_layers, check_tensors: true };
    let mut listened = Ok(());
    let mut progress = |share: f32| {
        listened = outlet.report(share_of(bytes_total, share), bytes_total);
        listened.is_ok()
    };
    let model = Model::load(gguf.path(), &options, &mut progress);
    let model = model.map_err(|error| file_error(gguf, error))?;
    let facts = model.facts().map_err(native)?;
    if facts.has_encoder || !facts.has_decoder {
        return Err(check::unsupported(gguf, check::ENCODER));
    }
    if facts.is_diffusion {
        return Err(check::unsupported(gguf, check::DIFFUSION));
    }
    outlet.check_cancel()?;
    with_context(gguf, Arc::new(model), settings, BATCH_TOKENS)
}

/// Gives a model its context.
pub(super) fn with_context(
    gguf: &GgufFile,
    model: Arc<Model>,
    settings: &EngineSettings,
    batch_tokens: u32,
) -> Result<GgufGenerator, EngineError> {
    let facts = model.facts().map_err(native)?;
    let context_tokens = settings.context_tokens(EngineKind::Gguf, facts.trained_context);
    // One sequence can fill the pool; of models with a short context several can.
    let several = context_tokens.saturating_mul(limits::CONCURRENT_GENERATIONS);
    let pool_tokens = several.min(settings.gguf_context_tokens).max(context_tokens);
    let options = ContextOptions {
        context_tokens: u32::try_from(pool_tokens).unwrap_or(u32::MAX),
        batch_tokens,
        micro_batch_tokens: MICRO_BATCH_TOKENS,
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
        "a llama.cpp context was made"
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
        cuts: !(facts.is_recurrent || facts.is_hybrid),
        has_state_only: facts.is_recurrent,
    };
    Ok(GgufGenerator::new(context, info, shape))
}

/// Threads to compute on.
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

fn native(error: llama_guard::Error) -> EngineError {
    EngineError::Native(format!("llama.cpp: {error}"))
}

/// What a failed load tells: mostly what is wrong with the file.
pub(super) fn file_error(gguf: &GgufFile, error: llama_guard::Error) -> EngineError {
    let file = gguf.path().to_owned();
    let message = error.message;
    match error.kind {
        ErrorKind::Cancelled => EngineError::Cancelled,
        ErrorKind::NoMemory => EngineError::Native(format!("llama.cpp: {message}")),
        _ if message.contains("allocate") => EngineError::Native(format!("llama.cpp: {message}")),
        _ if message.contains("unknown model architecture") => {
            EngineError::Unsupported { file, problem: format!("llama.cpp: {message}") }
        }
        ErrorKind::Assertion => EngineError::InvalidModel {
            file,
            problem: format!("llama.cpp expects something else of such a model: {message}"),
        },
        _ => EngineError::InvalidModel { file, problem: format!("llama.cpp: {message}") },
    }
}
