//! The cache of open models.
//!
//! Owns finding a model, opening it (header, tokenizer, chat template: what a request needs before
//! the engine does) and keeping it open. Opening runs off the engine thread and off the runtime's
//! workers.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::limits;
use ingle_protocol::error::ErrorBody;
use ingle_protocol::wire::models::EngineKind;

use crate::engine_choice::EngineChoice;
use crate::lru::LruCache;
use crate::single_flight::SingleFlight;
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
use ingle_models::{ModelFormat, ModelSource, ModelStore};
use ingle_text::constraint::{ConstraintError, Grammars};
use ingle_text::{TextError, TextModel, hf_text};

/// An open model: its header, tokenizer and chat template are in memory.
#[derive(Debug)]
pub struct OpenModel {
    /// Its files, to notice that they have changed.
    source: ModelSource,
    /// The part that the engine loads.
    pub engine: EngineModel,
    /// The tokenizer and the chat template.
    pub text: TextModel,
    /// The context length in tokens.
    pub context_tokens: usize,
    /// The length of a vector, if the header of an embedding model has it.
    pub dimensions: Option<usize>,
    /// The grammar compiler, once a request has needed it.
    grammars: OnceLock<Result<Grammars, ConstraintError>>,
}

impl OpenModel {
    /// The grammar compiler of the model's vocabulary.
    ///
    /// Blocks, on one of `cores`, while the vocabulary is read for the first time.
    ///
    /// # Errors
    /// [`ConstraintError::Vocabulary`].
    pub(crate) fn grammars(&self, cores: &Cores) -> Result<&Grammars, ConstraintError> {
        let made = self.grammars.get_or_init(|| {
            let _core = cores.reserve();
            Grammars::new(&self.text)
        });
        made.as_ref().map_err(Clone::clone)
    }
}

/// A lookup on a disk that takes longer than this is joined instead of repeated.
const SLOW_DISK: Duration = Duration::from_secs(1);

/// A model's name and the engine whose tokenizer it was opened with.
type OpenKey = (String, EngineKind);

/// Reads the tokenizer and the chat templates of a GGUF file, for the engine that will run it.
///
/// The engine matters because llama.cpp's own tokenizer reads every vocabulary that llama.cpp runs.
pub type GgufTextReader = fn(&GgufFile, EngineKind) -> Result<TextModel, TextError>;

/// The models on disk, with a cache of the open ones.
#[derive(Debug)]
pub struct ModelCache {
    store: ModelStore,
    default_model: String,
    settings: EngineSettings,
    engines: Engines,
    gguf_text: GgufTextReader,
    cores: Cores,
    opened: Arc<Mutex<LruCache<OpenKey, OpenModel>>>,
    /// Ten first requests read a header once. The key has the version, because changed files are
    /// another model.
    opening: SingleFlight<(String, String), Arc<OpenModel>>,
    /// A mount that hangs takes one thread, however many requests name a model on it.
    resolving: SingleFlight<String, ModelSource>,
}

impl ModelCache {
    /// A cache over the models of `store`, without an open one.
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
            opened: Arc::new(Mutex::new(LruCache::new(limits::OPEN_MODELS))),
            opening: SingleFlight::shared(),
            resolving: SingleFlight::joined_after(SLOW_DISK),
        }
    }

    /// Finds and opens the model of this name or path; `None` is the default model.
    ///
    /// Without an `engine` it is opened for the one that `resident` gives because the model is
    /// loaded on it, else for the one that the settings prefer, else for the format's own.
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
        let choice = EngineChoice {
            required: engine,
            preferred: resident(&source.name).or(self.settings.prefer),
        };
        let engine = choice.of(&source, &self.engines)?;
        let version = (source.name.clone(), version(&source, engine));
        if let Some(open) = cached(&self.opened, &source, engine) {
            return Ok(open);
        }
        let (settings, cores) = (self.settings.clone(), self.cores.clone());
        let gguf_text = self.gguf_text;
        let opened = Arc::clone(&self.opened);
        let work = move || {
            // Another request may have opened it since the check above.
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

    /// Finds the files of a model. Disks can be slow, and network mounts can hang.
    pub(crate) async fn resolve(&self, name: Option<&str>) -> Result<ModelSource, ErrorBody> {
        let store = self.store.clone();
        let name = name.unwrap_or(&self.default_model).to_owned();
        self.resolving.run(name.clone(), move || Ok(store.resolve(Some(&name))?)).await
    }

    /// The model of requests that name none.
    pub(crate) fn default_model(&self) -> &str {
        &self.default_model
    }

    /// The models on disk.
    pub(crate) fn store(&self) -> &ModelStore {
        &self.store
    }

    /// Drops an open model of this name from the cache.
    pub(crate) fn forget(&self, name: &str) {
        lock(&self.opened).retain(|(opened, _)| opened != name);
    }
}

fn cached(
    opened: &Mutex<LruCache<OpenKey, OpenModel>>,
    source: &ModelSource,
    engine: EngineKind,
) -> Option<Arc<OpenModel>> {
    lock(opened).get(&(source.name.clone(), engine), |open| open.source == *source)
}

fn lock<T>(opened: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every statement leaves the cache whole, so a panic elsewhere cannot have torn it.
    opened.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The version of a model's files. The same files on another engine are another model to the
/// engine thread.
pub(crate) fn version(source: &ModelSource, engine: EngineKind) -> String {
    format!("{} {:016x} {engine}", source.path.display(), source.stamp)
}

/// The context length of a GGUF model; llama.cpp's default where the file has none.
fn context_tokens(gguf: &GgufFile) -> Result<usize, GgufError> {
    const DEFAULT_TOKENS: u32 = 2_048;
    let metadata = gguf.metadata();
    let architecture = metadata.string("general.architecture")?;
    let tokens = metadata.u32_opt(&format!("{architecture}.context_length"))?;
    Ok(usize::try_from(tokens.unwrap_or(DEFAULT_TOKENS)).unwrap_or(usize::MAX))
}
