//! Commands to the engine thread, and their results.
//!
//! Owns the request and result types. They hold token ids, text and plain numbers, and no compute
//! type.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ingle_engine::model::EngineModel;
use ingle_engine::sampling::{PenaltySettings, SamplerSettings};
use ingle_protocol::deadline::Deadline;
use ingle_protocol::wire::generate::{FinishReason, GenerateEvent, Timings, TokenLogprob, Usage};
use ingle_protocol::wire::models::{LoadEstimate, LoadedModel, ProgressEvent};
use ingle_text::constraint::Constraint;
use ingle_text::output::TextOutput;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::error::EngineFailure;
use crate::memory::ModelOptions;

/// One generation.
#[derive(Debug)]
pub struct GenerateRequest {
    /// The request's id in the daemon. The crash journal names it.
    pub request_id: String,
    /// The request's tracing span. What the scheduler logs about the request is logged in it.
    pub span: Span,
    /// The model that generates.
    pub model: EngineModel,
    /// Detokenizer and stop string matcher.
    pub output: TextOutput,
    /// The constraint on the output, if any.
    pub constraint: Option<Constraint>,
    /// Tokens that end the completion.
    pub end_tokens: Vec<u32>,
    /// The prompt, at least one token.
    pub prompt: Vec<u32>,
    /// Maximum number of tokens to generate.
    pub max_tokens: usize,
    /// Sampler settings.
    pub settings: SamplerSettings,
    /// Repetition, frequency and presence penalties.
    pub penalties: PenaltySettings,
    /// Bias added to the logits of single tokens; each token occurs once.
    pub logit_bias: Arc<[(u32, f32)]>,
    /// Random seed.
    pub seed: u64,
    /// Number of alternatives to report per token, if log-probabilities are requested.
    pub logprobs: Option<usize>,
    /// Whether the text is sent in deltas.
    pub stream_text: bool,
    /// The daemon's limit, and W.
    pub deadline: Deadline,
    /// The choice of the request that this generation makes.
    pub choice: RequestChoice,
    /// Once it is set, the completion ends with its next sentence.
    pub finish_at_sentence: Arc<AtomicBool>,
    /// Ends the work of all choices at the next token boundary. A choice that fails triggers it.
    pub cancel: CancellationToken,
    /// Progress events and deltas; a closed receiver cancels the work.
    pub events: mpsc::Sender<GenerateEvent>,
    /// The one terminal event.
    pub done: oneshot::Sender<Result<Completion, EngineFailure>>,
}

/// One request for embeddings.
#[derive(Debug)]
pub struct EmbedRequest {
    /// The request's id in the daemon. The crash journal names it.
    pub request_id: String,
    /// The request's tracing span. What the scheduler logs about the request is logged in it.
    pub span: Span,
    /// The model that embeds.
    pub model: EngineModel,
    /// Token ids of each input; none is empty.
    pub inputs: Vec<Vec<u32>>,
    /// The daemon's limit, and W.
    pub deadline: Deadline,
    /// Ends the work between two slices.
    pub cancel: CancellationToken,
    /// The one terminal event: a vector for each input.
    pub done: oneshot::Sender<Result<Vec<Vec<f32>>, EngineFailure>>,
}

/// One choice of a request.
///
/// The choices of a request share its id, prompt, cancel token and events. Each is a sequence of
/// its own.
#[derive(Debug, Clone, Default)]
pub struct RequestChoice {
    /// Index of the choice. Choice 0 reads the prompt; the others fork its KV cache.
    pub index: usize,
    /// When the first choice was admitted: W runs from there for all choices.
    pub work_since: Arc<OnceLock<Instant>>,
}

impl GenerateRequest {
    /// Sends a progress event; only the first choice of a request does.
    ///
    /// The event is dropped when the channel is full: a later one replaces it.
    pub fn report(&self, event: GenerateEvent) {
        if self.choice.index == 0 {
            let _ = self.events.try_send(event);
        }
    }
}

/// The result of a generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// The whole text.
    pub text: String,
    /// Bytes of `text` that were sent as deltas already; the rest is the last delta.
    pub sent_bytes: usize,
    /// Log-probabilities of every token, if they were requested.
    pub logprobs: Vec<TokenLogprob>,
    /// Entries of `logprobs` that were sent already.
    pub sent_logprobs: usize,
    /// Why the generation ended.
    pub finish_reason: FinishReason,
    /// The stop string that ended it.
    pub stop_string: Option<String>,
    /// Prompt, cached and completion tokens.
    pub usage: Usage,
    /// Time spent in each stage; `total_ms` is not filled in.
    pub timings: Timings,
}

/// A command to the engine thread.
#[derive(Debug)]
pub enum Command {
    /// Generate text.
    Generate(Box<GenerateRequest>),
    /// Embed texts.
    Embed(Box<EmbedRequest>),
    /// Make a model resident.
    Load {
        /// The model.
        model: EngineModel,
        /// Keep-alive and pin.
        options: ModelOptions,
        /// Whether a model in quarantine is tried once more.
        force: bool,
        /// The caller's tracing span.
        span: Span,
        /// Progress events. An event that does not fit into the channel is dropped.
        progress: mpsc::Sender<ProgressEvent>,
        /// The outcome.
        done: oneshot::Sender<Result<LoadedModel, EngineFailure>>,
    },
    /// Estimate the memory and evictions of a load, without loading.
    Estimate {
        /// The model.
        model: EngineModel,
        /// The estimate.
        done: oneshot::Sender<Result<LoadEstimate, EngineFailure>>,
    },
    /// Unload a model.
    Unload {
        /// The model's name.
        name: String,
        /// Whether the model was in memory or being loaded.
        done: oneshot::Sender<Result<bool, EngineFailure>>,
    },
    /// End the thread, after the running work or at once.
    Shutdown {
        /// Whether running work is cancelled.
        now: bool,
    },
}

/// How the engine thread ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineExit {
    /// It was shut down.
    Finished,
    /// It panicked; all requests in flight have failed.
    Panicked(String),
}
