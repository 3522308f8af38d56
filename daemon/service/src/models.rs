//! Models on disk as requests name them: found, opened, loaded, fetched.
//!
//! Owns the cache of opened models (header, tokenizer, template: what a request needs before the
//! engine does). Opening runs off the engine thread and off the runtime's workers.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::models::{
    EngineKind, LoadEstimate, LoadParams, LoadedModel, ModelEntry, ModelList, ModelState,
    ProgressEvent, PullParams, PullResult, UnloadResult,
};
use tokio::sync::{mpsc, oneshot};

use super::Service;
use super::engine_choice::EngineChoice;
use super::flights::Flights;
use super::opened::Opened;
use crate::request::RequestContext;
use ingle_engine::cores::Cores;
use ingle_engine::engines::Engines;
use ingle_engine::error::EngineError;
use ingle_engine::model::{EngineModel, Weights};
use ingle_engine::role::Role;
use ingle_engine::settings::EngineSettings;
#[cfg(feature = "sim")]
use ingle_engine::sim::SimConfig;
use ingle_formats::gguf::{GgufError, GgufFile};
use ingle_formats::hf::ModelFolder;
use ingle_models::{ModelFormat, ModelSource, ModelStore, PullOutcome, PullProgress};
use ingle_scheduler::command::Command;
use ingle_scheduler::error::EngineFailure;
use ingle_scheduler::memory::ModelOptions;
use ingle_scheduler::quarantine::{Deaths, version_hash};
use ingle_text::constraint::{ConstraintError, Grammars};
use ingle_text::{TextError, TextModel, hf_text};

/// A model whose header and text half are in memory.
#[derive(Debug)]
pub struct OpenModel {
    /// Where it came from, to notice that it has changed.
    source: ModelSource,
    /// What the engine needs.
    pub engine: EngineModel,
    /// What turns text into tokens and back.
    pub text: TextModel,
    /// Tokens of context.
    pub context_tokens: usize,
    /// Numbers of a vector, where the header of an embedding model says so.
    pub dimensions: Option<usize>,
    /// What holds its texts to a form, once somebody has asked for one.
    grammars: OnceLock<Result<Grammars, ConstraintError>>,
}

impl OpenModel {
    /// What holds its texts to a form. Blocks while the vocabulary is read for the first time, on
    /// one of `cores`.
    ///
    /// # Errors
    /// [`ConstraintError::Vocabulary`].
    pub(super) fn grammars(&self, cores: &Cores) -> Result<&Grammars, ConstraintError> {
        let made = self.grammars.get_or_init(|| {
            let _core = cores.reserve();
            Grammars::new(&self.text)
        });
        made.as_ref().map_err(Clone::clone)
    }
}

/// A look at a disk that takes longer is not repeated while it goes on.
const SLOW_DISK: Duration = Duration::from_secs(1);

/// A model's name and the engine whose tokenizer it was opened with.
type OpenKey = (String, EngineKind);

/// Reads the tokenizer and the templates of a GGUF file, for the engine that is to run it: llama.cpp's
/// own tokenizer reads every vocabulary that llama.cpp runs.
pub type GgufTextReader = fn(&GgufFile, EngineKind) -> Result<TextModel, TextError>;

/// The models on disk, and those opened so far.
#[derive(Debug)]
pub struct Models {
    store: ModelStore,
    default_model: String,
    settings: EngineSettings,
    engines: Engines,
    gguf_text: GgufTextReader,
    cores: Cores,
    opened: Arc<Mutex<Opened<OpenKey, OpenModel>>>,
    /// So that ten first requests read a header once. By version: changed files are another model.
    opening: Flights<(String, String), Arc<OpenModel>>,
    /// So that a mount that hangs takes one thread, however often a model on it is asked for.
    resolving: Flights<String, ModelSource>,
}

impl Models {
    /// The models of `store`.
    #[must_use]
    pub fn new(
        store: ModelStore,
        default_model: String,
        settings: EngineSettings,
        engines: Engines,
        gguf_text: GgufTextReader,
        cores: Cores,
    ) -> Self {
        Self {
            store,
            default_model,
            settings,
            engines,
            gguf_text,
            cores,
            opened: Arc::new(Mutex::new(Opened::new(limits::OPEN_MODELS))),
            opening: Flights::shared(),
            resolving: Flights::joined_after(SLOW_DISK),
        }
    }

    /// Finds and opens the model of that name or path (the default one for `None`), for the engine
    /// asked for. Without one it is the engine that `resident` says the model is on already, the
    /// one that the settings prefer, or the format's own, whichever of these is there first.
    ///
    /// # Errors
    /// `MODEL_NOT_FOUND`, `MODEL_INVALID` or `MODEL_UNSUPPORTED`, naming the file and the problem.
    pub async fn open(
        &self,
        name: Option<&str>,
        engine: Option<EngineKind>,
        resident: impl Fn(&str) -> Option<EngineKind>,
    ) -> Result<Arc<OpenModel>, ErrorBody> {
        let source = self.resolve(name).await?;
        let choice =
            EngineChoice { asked: engine, wished: resident(&source.name).or(self.settings.prefer) };
        let engine = choice.of(&source, &self.engines)?;
        let version = (source.name.clone(), version(&source, engine));
        if let Some(open) = cached(&self.opened, &source, engine) {
            return Ok(open);
        }
        let (settings, cores) = (self.settings.clone(), self.cores.clone());
        let gguf_text = self.gguf_text;
        let opened = Arc::clone(&self.opened);
        let work = move || {
            // It may have been opened between the look above and now.
            if let Some(open) = cached(&opened, &source, engine) {
                return Ok(open);
            }
            let _core = cores.reserve();
            let key = (source.name.clone(), engine);
            let open = Arc::new(open_model(source, engine, &settings, gguf_text)?);
            lock(&opened).insert(key, Arc::clone(&open));
            Ok(open)
        };
        self.opening.run(version, work).await
    }

    /// Where the model of that name or path lies. Disks can be slow, and network mounts can hang.
    async fn resolve(&self, name: Option<&str>) -> Result<ModelSource, ErrorBody> {
        let store = self.store.clone();
        let name = name.unwrap_or(&self.default_model).to_owned();
        self.resolving.run(name.clone(), move || Ok(store.resolve(Some(&name))?)).await
    }

    fn forget(&self, name: &str) {
        lock(&self.opened).retain(|(opened, _)| opened != name);
    }
}

fn cached(
    opened: &Mutex<Opened<OpenKey, OpenModel>>,
    source: &ModelSource,
    engine: EngineKind,
) -> Option<Arc<OpenModel>> {
    lock(opened).get(&(source.name.clone(), engine), |open| open.source == *source)
}

fn lock<T>(opened: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // It is whole after every statement, so a panic elsewhere cannot have torn it.
    opened.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs work that may block on the pool for it.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ErrorBody> + Send + 'static,
) -> Result<T, ErrorBody> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?
}

fn open_model(
    source: ModelSource,
    engine: EngineKind,
    settings: &EngineSettings,
    gguf_text: GgufTextReader,
) -> Result<OpenModel, ErrorBody> {
    let name = source.name.clone();
    let (weights, role, text, trained_tokens) = match source.format {
        ModelFormat::Gguf => {
            let gguf = Arc::new(GgufFile::open(&source.path).map_err(EngineError::from)?);
            let role = Role::of_gguf(&gguf).map_err(EngineError::from)?;
            let text = gguf_text(&gguf, engine)?;
            let trained_tokens = context_tokens(&gguf).map_err(EngineError::from)?;
            (Weights::Gguf(gguf), role, text, trained_tokens)
        }
        ModelFormat::Safetensors => {
            let text = hf_text::text_model(&source.path)?;
            let folder = Arc::new(ModelFolder::open(&source.path).map_err(EngineError::from)?);
            let role = Role::of_folder(&folder).map_err(EngineError::from)?;
            let trained_tokens = folder.context_tokens().map_err(EngineError::from)?;
            (Weights::Safetensors(folder), role, text, trained_tokens)
        }
        #[cfg(not(feature = "sim"))]
        ModelFormat::Sim => {
            return Err(EngineError::Unsupported {
                file: source.path,
                problem: "this daemon was built without the sim engine".to_owned(),
            }
            .into());
        }
        #[cfg(feature = "sim")]
        ModelFormat::Sim => {
            let config = SimConfig::read(&source.path)?;
            let context_tokens = config.context_tokens;
            let role = if config.embeds { Role::Embeds } else { Role::Generates };
            let text = TextModel::simulated(config.chat_template.as_deref(), config.fills_gaps);
            (Weights::Sim(Box::new(config)), role, text, context_tokens)
        }
    };
    let version = version(&source, engine);
    let context_tokens = settings.context_tokens(engine, trained_tokens);
    let dimensions = match (&weights, role) {
        (Weights::Safetensors(folder), Role::Embeds) => {
            folder.config().size_opt("hidden_size").map_err(EngineError::from)?
        }
        _ => None,
    };
    let engine = EngineModel { name, version, engine, role, weights };
    let grammars = OnceLock::new();
    Ok(OpenModel { source, engine, text, context_tokens, dimensions, grammars })
}

/// Which state of its files a model is in. The same files on another engine are another model to
/// the engine thread.
fn version(source: &ModelSource, engine: EngineKind) -> String {
    format!("{} {:016x} {engine}", source.path.display(), source.stamp)
}

/// Tokens of context of a GGUF model; a file that does not say gets what llama.cpp assumes.
fn context_tokens(gguf: &GgufFile) -> Result<usize, GgufError> {
    const DEFAULT_TOKENS: u32 = 2_048;
    let metadata = gguf.metadata();
    let architecture = metadata.string("general.architecture")?;
    let tokens = metadata.u32_opt(&format!("{architecture}.context_length"))?;
    Ok(usize::try_from(tokens.unwrap_or(DEFAULT_TOKENS)).unwrap_or(usize::MAX))
}

impl Service {
    /// Finds and opens a model for the engine asked for, or else the one it is on already.
    ///
    /// # Errors
    /// As [`Models::open`].
    pub(super) async fn open(
        &self,
        name: Option<&str>,
        engine: Option<EngineKind>,
    ) -> Result<Arc<OpenModel>, ErrorBody> {
        let status = self.engine.status();
        // A load under way or waited for is joined too: another engine's would be refused.
        let resident = |name: &str| {
            let mut engines = status.engines.iter();
            engines.find(|(model, _)| model == name).map(|&(_, engine)| engine)
        };
        self.models.open(name, engine, resident).await
    }

    /// The model of calls that name none.
    #[must_use]
    pub fn default_model(&self) -> &str {
        &self.models.default_model
    }

    /// All models that are here or in the catalogue.
    ///
    /// # Errors
    /// When the models folder cannot be read.
    pub async fn list_models(&self) -> Result<ModelList, ErrorBody> {
        let store = self.models.store.clone();
        let engine = self.engine.status();
        let crashed = engine.quarantined;
        let (entries, crashed) = blocking(move || {
            let is_same = |(name, deaths): &(String, Deaths)| {
                let source = store.resolve(Some(name));
                source.is_ok_and(|source| {
                    let engines = EngineKind::ALL.into_iter();
                    engines
                        .map(|engine| version_hash(&version(&source, engine)))
                        .any(|version| deaths.version == version)
                })
            };
            let crashed: Vec<_> = crashed.into_iter().filter(is_same).collect();
            Ok((store.list()?, crashed))
        })
        .await?;
        let models = entries.into_iter().map(|entry| {
            let entry = ModelEntry::from(entry);
            let crashed = crashed.iter().find(|(crashed, _)| *crashed == entry.name);
            let crashed = crashed.map(|(_, deaths)| format!("it {deaths}"));
            let state = if engine.models.iter().any(|loaded| loaded.name == entry.name) {
                ModelState::Loaded
            } else if engine.loading.contains(&entry.name) {
                ModelState::Loading
            } else if entry.state == ModelState::OnDisk && crashed.is_some() {
                ModelState::Quarantined
            } else {
                entry.state
            };
            let description = match crashed {
                Some(crashed) if state == ModelState::Quarantined => crashed,
                _ => entry.description,
            };
            ModelEntry { state, description, ..entry }
        });
        Ok(ModelList { default: self.models.default_model.clone(), models: models.collect() })
    }

    /// Makes a model resident, or waits for the load under way.
    ///
    /// # Errors
    /// What opening or loading reports; `TIMEOUT` at the daemon's limit.
    pub async fn load_model(
        &self,
        params: &LoadParams,
        progress: mpsc::Sender<ProgressEvent>,
        context: &RequestContext,
    ) -> Result<LoadedModel, ErrorBody> {
        let open = self
            .in_time(
                "opening the model",
                context,
                self.open(params.model.as_deref(), params.engine),
            )
            .await?;
        let (done, outcome) = oneshot::channel();
        let model = open.engine.clone();
        let options = ModelOptions { keep_alive: params.keep_alive, pin: params.pin };
        let force = params.force;
        let span = tracing::Span::current();
        self.engine.send(Command::Load { model, options, force, span, progress, done })?;
        self.within_limit("loading the model", context, outcome).await
    }

    /// What a load would take and evict. Loads nothing.
    ///
    /// # Errors
    /// What opening the model reports; `TIMEOUT` at the daemon's limit.
    pub async fn estimate_model(
        &self,
        params: &LoadParams,
        context: &RequestContext,
    ) -> Result<LoadEstimate, ErrorBody> {
        let open = self
            .in_time(
                "opening the model",
                context,
                self.open(params.model.as_deref(), params.engine),
            )
            .await?;
        let (done, outcome) = oneshot::channel();
        self.engine.send(Command::Estimate { model: open.engine.clone(), done })?;
        self.within_limit("estimating the load", context, outcome).await
    }

    /// Drops a model from memory.
    ///
    /// # Errors
    /// `CONFLICT` while generations run on it.
    pub async fn unload_model(
        &self,
        name: Option<&str>,
        context: &RequestContext,
    ) -> Result<UnloadResult, ErrorBody> {
        let model =
            match self.in_time("finding the model", context, self.models.resolve(name)).await {
                Ok(source) => source.name,
                // A model whose files have gone can still be in memory.
                Err(error) => match name.filter(|name| self.is_in_memory(name)) {
                    Some(name) => name.to_owned(),
                    None => return Err(error),
                },
            };
        // First, so that the engine, which gives free memory back, gives this back too.
        self.models.forget(&model);
        let (done, outcome) = oneshot::channel();
        self.engine.send(Command::Unload { name: model.clone(), done })?;
        let was_loaded = self.within_limit("unloading the model", context, outcome).await?;
        Ok(UnloadResult { model, was_loaded })
    }

    /// Fetches a model. Two callers share one fetch.
    ///
    /// # Errors
    /// `PULL_FAILED` with what to do about it.
    pub async fn pull_model(
        &self,
        params: &PullParams,
        progress: mpsc::Sender<ProgressEvent>,
        context: &RequestContext,
    ) -> Result<PullResult, ErrorBody> {
        let mut report = |now: PullProgress| {
            // Progress that finds no room is not missed.
            let _ = progress.try_send(ProgressEvent::Progress {
                phase: now.phase.as_str().to_owned(),
                done_bytes: now.done_bytes,
                total_bytes: now.total_bytes,
            });
        };
        let pull = self.puller.pull(&params.model, params.name.as_deref(), &mut report);
        let limit = Duration::from_millis(limits::PULL_MS);
        tokio::select! {
            () = context.cancel.cancelled() => Err(EngineFailure::Cancelled.into()),
            outcome = tokio::time::timeout(limit, pull) => match outcome {
                Ok(outcome) => {
                    let PullOutcome { name, size_bytes, sha256, already_here } = outcome?;
                    self.engine.announce_models();
                    Ok(PullResult { model: name, size_bytes, sha256, already_here })
                }
                Err(_) => Err(ErrorBody::new(
                    ErrorCode::Timeout,
                    format!("the model was not here after {} minutes", limits::PULL_MS / 60_000),
                )),
            },
        }
    }

    fn is_in_memory(&self, name: &str) -> bool {
        let status = self.engine.status();
        status.models.iter().any(|model| model.name == name)
            || status.loading.iter().any(|loading| loading == name)
    }
}
