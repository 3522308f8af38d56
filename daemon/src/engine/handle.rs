//! The rest of the daemon's only way to the engine thread: commands in, events out.
//!
//! Owns the command and result types and the thread's start. No engine type crosses it: token ids,
//! text and plain numbers do. Nothing here waits for the thread.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ingle_protocol::deadline::Deadline;
use ingle_protocol::limits;
use ingle_protocol::timeouts::Layer;
use ingle_protocol::wire::generate::{FinishReason, GenerateEvent, Timings, TokenLogprob, Usage};
use ingle_protocol::wire::models::{EngineKind, LoadEstimate, LoadedModel, ProgressEvent};
use ingle_protocol::wire::status::Phase;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::backend::EngineError;
use super::cores::Cores;
use super::counters::EngineCounters;
use super::crash_journal::CrashJournal;
use super::ledger::Shortage;
use super::memory::{MemoryOptions, ModelOptions};
use super::quarantine::Deaths;
use super::role::Role;
use super::sampling::{PenaltySettings, SamplerSettings};
use super::settings::EngineSettings;
use super::sim::SimConfig;
use super::status::{EngineStatus, StatusCell};
use super::worker::Worker;
use crate::formats::gguf::GgufFile;
use crate::formats::hf::ModelFolder;
use crate::text::constraint::Constraint;
use crate::text::output::TextOutput;

/// A model as the engine knows it: its name and where its weights come from.
#[derive(Debug, Clone)]
pub struct EngineModel {
    /// The name everything about it is filed under.
    pub name: String,
    /// Which state of its files this is. Weights of one state must not meet the vocabulary of
    /// another.
    pub version: String,
    /// What runs it.
    pub engine: EngineKind,
    /// What it is for.
    pub role: Role,
    /// Its weights.
    pub weights: Weights,
}

/// Where a model's weights come from. The format decides which engines can run it.
#[derive(Debug, Clone)]
pub enum Weights {
    /// A GGUF file whose header has been read and checked.
    Gguf(Arc<GgufFile>),
    /// A folder of safetensors whose config and headers have been read and checked.
    Safetensors(Arc<ModelFolder>),
    /// The sim engine's settings.
    Sim(Box<SimConfig>),
}

impl Weights {
    /// The file they come from, for messages; sim models have none.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf(gguf) => gguf.path(),
            Self::Safetensors(folder) => folder.path(),
            Self::Sim(_) => Path::new("config.json"),
        }
    }
}

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

/// Why a command came to nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineFailure {
    /// The engine reported an error.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A limit of the ladder was reached.
    #[error("{what} took longer than {limit_ms} ms")]
    Timeout {
        /// What the time was used up by.
        what: &'static str,
        /// Who stopped it.
        layer: Layer,
        /// The limit, in milliseconds.
        limit_ms: u64,
        /// How long it took, in milliseconds.
        elapsed_ms: u64,
    },
    /// The caller cancelled or went away.
    #[error("the request was cancelled")]
    Cancelled,
    /// A queue is full.
    #[error("{waiting} {what} are waiting already")]
    Overloaded {
        /// How many.
        waiting: usize,
        /// Of what.
        what: &'static str,
    },
    /// The model is in use, or wanted as it is.
    #[error("the model `{model}` is in use by {active} requests")]
    Busy {
        /// The model.
        model: String,
        /// How many run on it or wait for it.
        active: usize,
    },
    /// The prompt has a token that the model's weights do not know.
    #[error(
        "the prompt has token {token}, and the weights of `{model}` end at {}",
        vocab_size.saturating_sub(1)
    )]
    UnknownToken {
        /// The model.
        model: String,
        /// The token.
        token: u32,
        /// How many the weights know.
        vocab_size: usize,
    },
    /// The memory budget has no room for it, and never will as things are.
    #[error("{0}")]
    InsufficientMemory(Box<Shortage>),
    /// The model has ended the daemon twice in a row.
    #[error("the model `{model}` {deaths}")]
    Quarantined {
        /// The model.
        model: String,
        /// What happened.
        deaths: Box<Deaths>,
    },
    /// The engine thread stands still.
    #[error("{0}")]
    Stalled(Stall),
    /// The daemon is going down.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The engine thread has ended.
    #[error("the engine thread has ended")]
    ThreadEnded,
}

/// An engine thread that stands still.
#[derive(Debug, Clone, PartialEq)]
pub struct Stall {
    /// What it was doing.
    pub phase: Phase,
    /// How long it has said nothing, in milliseconds.
    pub silent_ms: u64,
}

impl std::fmt::Display for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { phase, silent_ms } = self;
        write!(f, "the engine has stood still for {silent_ms} ms while {phase}")
    }
}

/// The news that the engine thread stands still, for everybody who waits for it.
#[derive(Debug, Clone, Default)]
pub struct StallAlarm {
    rung: CancellationToken,
    stall: Arc<OnceLock<Stall>>,
}

impl StallAlarm {
    /// Tells everybody, now and later.
    pub fn ring(&self, stall: Stall) {
        // Only the first one counts.
        let _ = self.stall.set(stall);
        self.rung.cancel();
    }

    /// Waits for a stall.
    pub async fn stalled(&self) -> EngineFailure {
        self.rung.cancelled().await;
        self.failure().unwrap_or(EngineFailure::ThreadEnded)
    }

    fn failure(&self) -> Option<EngineFailure> {
        self.stall.get().cloned().map(EngineFailure::Stalled)
    }
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

/// Commands to the engine thread, and its cached status.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    commands: SyncSender<Command>,
    status: StatusCell,
    cores: Cores,
    alarm: StallAlarm,
}

impl EngineHandle {
    /// Starts the engine thread.
    ///
    /// The receiver resolves when the thread has ended, however it ended.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(
        settings: EngineSettings,
        memory: MemoryOptions,
        journal: CrashJournal,
    ) -> std::io::Result<(Self, oneshot::Receiver<EngineExit>)> {
        let (commands, inbox) = sync_channel(limits::ENGINE_COMMANDS);
        let status = StatusCell::new(Instant::now());
        let (exit_tx, exit_rx) = oneshot::channel();
        let cores = Cores::default();
        let (worker_status, worker_cores) = (status.clone(), cores.clone());
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let exit =
                Worker::run_thread(inbox, worker_status, settings, memory, worker_cores, journal);
            // The daemon may be gone already.
            let _ = exit_tx.send(exit);
        })?;
        let alarm = StallAlarm::default();
        Ok((Self { commands, status, cores, alarm }, exit_rx))
    }

    /// Queues a command, or refuses it at once.
    ///
    /// # Errors
    /// [`EngineFailure::Overloaded`] when the thread's inbox is full;
    /// [`EngineFailure::ThreadEnded`] when there is no thread; [`EngineFailure::Stalled`] when it
    /// stands still.
    pub fn send(&self, command: Command) -> Result<(), EngineFailure> {
        if let Some(stalled) = self.alarm.failure() {
            return Err(stalled);
        }
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => EngineFailure::Overloaded {
                waiting: limits::ENGINE_COMMANDS,
                what: "commands to the engine",
            },
            TrySendError::Disconnected(_) => EngineFailure::ThreadEnded,
        })
    }

    /// What the thread does, and when it last said so.
    #[must_use]
    pub fn heartbeat(&self) -> (Phase, Instant) {
        self.status.heartbeat()
    }

    /// Where a stall of the thread becomes known.
    #[must_use]
    pub fn alarm(&self) -> &StallAlarm {
        &self.alarm
    }

    /// What the thread counts.
    #[must_use]
    pub fn counters(&self) -> &EngineCounters {
        self.status.counters()
    }

    /// The cores that the thread shares with work beside it.
    #[must_use]
    pub fn cores(&self) -> Cores {
        self.cores.clone()
    }

    /// The thread's status at its last heartbeat.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        self.status.read()
    }

    /// Changes whenever a model comes into memory, begins to, or leaves it, and at every
    /// [`Self::announce_models`].
    #[must_use]
    pub fn model_changes(&self) -> watch::Receiver<u64> {
        self.status.changes()
    }

    /// Tells whoever follows the models that there is another one on disk.
    pub fn announce_models(&self) {
        self.status.announce();
    }
}

/// Milliseconds as a float, for timings.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
