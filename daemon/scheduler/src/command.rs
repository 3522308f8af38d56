//! Commands to the engine thread, and what they come to.
//!
//! Owns the request and result types. No compute type is among them: token ids, text and plain
//! numbers are.

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

use crate::error::EngineFailure;
use crate::memory::ModelOptions;

/// One generation.
#[derive(Debug)]
pub struct GenerateRequest {
    /// The daemon's name of the request.
    pub request_id: String,
    /// What runs it.
    pub model: EngineModel,
    /// Turns tokens into text and finds the stop strings.
    pub output: TextOutput,
    /// The form that the text must have.
    pub constraint: Option<Constraint>,
    /// Tokens that end the text.
    pub end_tokens: Vec<u32>,
    /// The prompt, at least one token.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most.
    pub max_tokens: usize,
    /// How tokens are drawn.
    pub settings: SamplerSettings,
    /// How the text's past is held against its tokens.
    pub penalties: PenaltySettings,
    /// What is added to the logits of which tokens; each token once.
    pub logit_bias: Arc<[(u32, f32)]>,
    /// Seed of the draws.
    pub seed: u64,
    /// Whether to report log-probabilities, and with how many alternatives for each token.
    pub logprobs: Option<usize>,
    /// Whether text is wanted as it comes.
    pub stream_text: bool,
    /// The daemon's limit, and W.
    pub deadline: Deadline,
    /// Which of the texts its caller asked for this is.
    pub choice: ChoiceOf,
    /// Once it is set, the text ends with its next sentence.
    pub wrap_up: Arc<AtomicBool>,
    /// Ends the work at the next token boundary: that of all its choices. One that fails fires it.
    pub cancel: CancellationToken,
    /// Events on the way; a closed receiver cancels the work.
    pub events: mpsc::Sender<GenerateEvent>,
    /// The one terminal event.
    pub done: oneshot::Sender<Result<Completion, EngineFailure>>,
}

/// Texts to turn into vectors.
#[derive(Debug)]
pub struct EmbedRequest {
    /// The daemon's name of the request.
    pub request_id: String,
    /// What runs it.
    pub model: EngineModel,
    /// The texts' token ids, none of them empty.
    pub inputs: Vec<Vec<u32>>,
    /// The daemon's limit, and W.
    pub deadline: Deadline,
    /// Ends the work between two slices.
    pub cancel: CancellationToken,
    /// The one terminal event: a vector for each text.
    pub done: oneshot::Sender<Result<Vec<Vec<f32>>, EngineFailure>>,
}

/// A generation's place among those of one request: they have its id, its prompt, its cancel token
/// and its events in common, and each has a slot of its own.
#[derive(Debug, Clone, Default)]
pub struct ChoiceOf {
    /// Which it is. Choice 0 comes first and reads the prompt; the others go on from there.
    pub index: usize,
    /// When the first of them got its slot: W runs from there for all.
    pub work_since: Arc<OnceLock<Instant>>,
}

impl GenerateRequest {
    /// Says how far the request has come; the first choice speaks for all. An event that finds no
    /// room is not missed.
    pub fn report(&self, event: GenerateEvent) {
        if self.choice.index == 0 {
            let _ = self.events.try_send(event);
        }
    }
}

/// A finished generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// All of the text.
    pub text: String,
    /// Bytes of `text` that went out as deltas already; the rest is the last delta.
    pub sent_bytes: usize,
    /// Every token, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Entries of `logprobs` that went out already.
    pub sent_logprobs: usize,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The stop string that ended it.
    pub stop_string: Option<String>,
    /// Tokens in and out.
    pub usage: Usage,
    /// Where the time went, `total_ms` not filled in.
    pub timings: Timings,
}

/// What the engine thread can be told.
#[derive(Debug)]
pub enum Command {
    /// Generate text.
    Generate(Box<GenerateRequest>),
    /// Turn texts into vectors.
    Embed(Box<EmbedRequest>),
    /// Make a model resident.
    Load {
        /// The model.
        model: EngineModel,
        /// How long it stays.
        options: ModelOptions,
        /// Whether it is given one more chance if it is in quarantine.
        force: bool,
        /// Its progress; dropped events are not missed.
        progress: mpsc::Sender<ProgressEvent>,
        /// The outcome.
        done: oneshot::Sender<Result<LoadedModel, EngineFailure>>,
    },
    /// Tell what a load would take and evict.
    Estimate {
        /// The model.
        model: EngineModel,
        /// The answer.
        done: oneshot::Sender<Result<LoadEstimate, EngineFailure>>,
    },
    /// Drop a model.
    Unload {
        /// The model's name.
        name: String,
        /// Whether it was in memory, or on its way there.
        done: oneshot::Sender<Result<bool, EngineFailure>>,
    },
    /// End the thread, after the work in flight or at once.
    Shutdown {
        /// Cancel work in flight.
        now: bool,
    },
}

/// How the engine thread ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineExit {
    /// It was told to.
    Finished,
    /// It panicked; what was in flight has been failed.
    Panicked(String),
}
