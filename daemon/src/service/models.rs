//! Models on disk as requests name them: found, opened, loaded, fetched.
//!
//! Owns the cache of opened models (header, tokenizer, template: what a request needs before the
//! engine does). Opening runs off the engine thread and off the runtime's workers.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::limits;
use ingle_protocol::wire::models::{
    EngineKind, LoadEstimate, LoadParams, LoadedModel, ModelEntry, ModelList, ModelState,
    ProgressEvent, PullParams, PullResult, UnloadResult,
};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::Service;
use super::engine_choice::EngineChoice;
use super::flights::Flights;
use super::opened::Opened;
use crate::engine::backend::EngineError;
use crate::engine::cores::Cores;
use crate::engine::handle::{Command, EngineFailure, EngineModel, Weights};
use crate::engine::memory::ModelOptions;
use crate::engine::quarantine::{Deaths, version_hash};
use crate::engine::role::Role;
use crate::engine::settings::EngineSettings;
use crate::engine::sim::SimConfig;
use crate::formats::gguf::{GgufError, GgufFile};
use crate::formats::hf::{FolderError, ModelFolder};
use crate::models::{ModelFormat, ModelSource, ModelStore, PullOutcome, PullProgress};
use crate::request::RequestContext;
use crate::text::constraint::{ConstraintError, Grammars};
use crate::text::{TextError, TextModel, gguf_vocab, hf_text};

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
            let _core = cores.borrow();
            Grammars::new(&self.text)
        });
        made.as_ref().map_err(Clone::clone)
    }
}

/// A look at a disk that takes longer is not repeated while it goes on.
const SLOW_DISK: Duration = Duration::from_secs(1);

/// A model's name and the engine whose tokenizer it was opened with.
type OpenKey = (String, EngineKind);

/// The models on disk, and those opened so far.
#[derive(Debug)]
pub struct Models {
    store: ModelStore,
    default_model: String,
    settings: EngineSettings,
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
        cores: Cores,
    ) -> Self {
        Self {
            store,
            default_model,
            settings,
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
        let engine = choice.of(&source)?;
        let version = (source.name.clone(), version(&source, engine));
        if let Some(open) = cached(&self.opened, &source, engine) {
            return Ok(open);
        }
        let (settings, cores) = (self.settings.clone(), self.cores.clone());
        let opened = Arc::clone(&self.opened);
        let work = move || {
            // It may have been opened between the look above and now.
            if let Some(open) = cached(&opened, &source, engine) {
                return Ok(open);
            }
            let _core = cores.borrow();
            let key = (source.name.clone(), engine);
            let open = Arc::new(open_model(source, engine, &settings)?);
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
) -> Result<OpenModel, ErrorBody> {
    let name = source.name.clone();
    let (weights, role, text, trained_tokens) = match source.format {
        ModelFormat::Gguf => {
            let gguf = Arc::new(GgufFile::open(&source.path)?);
            let role = Role::of_gguf(&gguf)?;
            let text = gguf_text_model(&gguf, engine)?;
            let trained_tokens = context_tokens(&gguf)?;
            (Weights::Gguf(gguf), role, text, trained_tokens)
        }
        ModelFormat::Safetensors => {
            let text = hf_text::text_model(&source.path)?;
            let folder = Arc::new(ModelFolder::open(&source.path)?);
            let role = Role::of_folder(&folder)?;
            let trained_tokens = folder.context_tokens()?;
            (Weights::Safetensors(folder), role, text, trained_tokens)
        }
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
        (Weights::Safetensors(folder), Role::Embeds) => folder.config().size_opt("hidden_size")?,
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

/// The tokenizer follows the engine: llama.cpp's own reads every vocabulary that llama.cpp runs.
fn gguf_text_model(gguf: &GgufFile, engine: EngineKind) -> Result<TextModel, TextError> {
    match engine {
        #[cfg(feature = "gguf")]
        EngineKind::Gguf => {
            crate::engine::gguf::forward_log();
            crate::text::llama_vocab::text_model(gguf)
        }
        _ => gguf_vocab::text_model(gguf),
    }
}

/// Tokens of context of a GGUF model; a file that does not say gets what llama.cpp assumes.
fn context_tokens(gguf: &GgufFile) -> Result<usize, GgufError> {
    const DEFAULT_TOKENS: u32 = 2_048;
    let metadata = gguf.metadata();
    let architecture = metadata.string("general.architecture")?;
    let tokens = metadata.u32_opt(&format!("{architecture}.context_length"))?;
    Ok(usize::try_from(tokens.unwrap_or(DEFAULT_TOKENS)).unwrap_or(usize::MAX))
}

impl From<GgufError> for ErrorBody {
    fn from(error: GgufError) -> Self {
        // One mapping: a file at fault is the same error wherever it is found out.
        EngineError::from(error).into()
    }
}

impl From<FolderError> for ErrorBody {
    fn from(error: FolderError) -> Self {
        EngineError::from(error).into()
    }
}

impl From<TextError> for ErrorBody {
    fn from(error: TextError) -> Self {
        let code = match &error {
            TextError::Gguf(error) => return error.clone().into(),
            TextError::Unsupported { .. } => ErrorCode::ModelUnsupported,
            TextError::InvalidVocabulary { .. } | TextError::ChatTemplateLimit { .. } => {
                ErrorCode::ModelInvalid
            }
            TextError::UnknownToken { .. }
            | TextError::Encode(_)
            | TextError::NoChatTemplate
            | TextError::ChatTemplate(_)
            | TextError::EmptyStop => ErrorCode::InvalidParams,
        };
        let field = match &error {
            TextError::NoChatTemplate => Some("model"),
            TextError::ChatTemplate(_) => Some("messages"),
            TextError::EmptyStop => Some("stop"),
            _ => None,
        };
        let body = Self::new(code, error.to_string());
        match field {
            Some(field) => body.with_details(json!({ "field": field })),
            None => body,
        }
    }
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
        self.engine.send(Command::Load { model, options, force, progress, done })?;
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

impl SimConfig {
    /// Reads `config.json` of a sim model's folder.
    ///
    /// # Errors
    /// When it cannot be read or says something unknown.
    fn read(folder: &std::path::Path) -> Result<Self, EngineError> {
        let file = folder.join("config.json");
        let text = std::fs::read_to_string(&file)
            .map_err(|error| EngineError::Io { file: file.clone(), problem: error.to_string() })?;
        serde_json::from_str(&text)
            .map_err(|error| EngineError::InvalidModel { file, problem: error.to_string() })
    }
}
