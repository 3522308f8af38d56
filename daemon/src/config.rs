//! Configuration: read once from `config.toml` in the Ingle folder, checked, then immutable.
//!
//! Owns the file's keys and their ranges, except the timeouts: they have other sources too, and
//! `ingle` reads them as well, so they are in the client crate (`timeout_settings`). Does not know
//! the users of a setting.

mod http;
mod jobs;
mod mcp;
mod memory;
#[cfg(test)]
mod reference;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ingle_client::paths::Paths;
use ingle_client::timeout_settings::{self, SettingError, SettingName, Sources};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::WorkTimeouts;
use ingle_protocol::wire::models::EngineKind;
use serde::Deserialize;
use serde::de::IgnoredAny;

use self::http::HttpTable;
use self::jobs::JobsTable;
use self::mcp::McpTable;
use self::memory::{MemoryTable, MlxTable, ModelTable};
use ingle_engine::settings::EngineSettings;
use ingle_http::settings::HttpSettings;
use ingle_jobs::settings::JobSettings;
use ingle_mcp::settings::McpSettings;
use ingle_models::hub::Secret;
use ingle_models::library_paths::{LibrarySetting, LibrarySettings};
use ingle_scheduler::memory::MemoryOptions;

/// All settings of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// W of every class, and the limits towards cloud providers.
    pub timeouts: WorkTimeouts,
    /// Environment variables that look like timeouts and are none, for the log.
    pub unknown_variables: Vec<SettingName>,
    /// The model of requests that name none; the catalogue's default when absent.
    pub default_model: Option<String>,
    /// Settings of the engines.
    pub engine: EngineSettings,
    /// The stall limit of the engine thread; `limits::ENGINE_STALL_MS` when absent.
    pub stall: Option<Duration>,
    /// The folders of other programs' models, and the access to Hugging Face.
    pub library: LibrarySettings,
    /// The memory budget of models and how long they stay loaded, without the machine's memory.
    pub memory: MemoryOptions,
    /// The workers of jobs and the retention of ended ones.
    pub jobs: JobSettings,
    /// HTTP over TCP and its access control.
    pub http: HttpSettings,
    /// The limits of MCP hosts.
    pub mcp: McpSettings,
}

/// The contents of the file, with durations in seconds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    default_model: Option<String>,
    #[serde(default)]
    library: LibraryTable,
    /// The client crate reads this table.
    #[serde(default, rename = "timeouts")]
    _timeouts: IgnoredAny,
    #[serde(default)]
    engine: EngineTable,
    #[serde(default)]
    memory: MemoryTable,
    #[serde(default)]
    mlx: MlxTable,
    #[serde(default)]
    jobs: JobsTable,
    #[serde(default)]
    http: HttpTable,
    #[serde(default)]
    mcp: McpTable,
    /// By the model's name.
    #[serde(default)]
    models: BTreeMap<String, ModelTable>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EngineTable {
    prefer: Option<EngineKind>,
    threads: Option<u32>,
    gpu_layers: Option<u32>,
    stall_s: Option<f64>,
    gguf_context_tokens: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LibraryTable {
    huggingface: Option<SwitchOrPath>,
    lm_studio: Option<SwitchOrPath>,
    #[serde(default)]
    folders: Vec<String>,
    huggingface_endpoint: Option<String>,
    huggingface_token: Option<Secret>,
}

/// `true`, `false` or a path.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "it must be true, false or a path")]
enum SwitchOrPath {
    Switch(bool),
    Path(String),
}

/// The reason why the settings are invalid.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A source cannot be read, or its timeouts are invalid.
    #[error(transparent)]
    Settings(#[from] SettingError),
    /// The file is invalid.
    #[error("`{}`: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The problem and its place.
        problem: String,
    },
}

impl From<&ConfigError> for ErrorBody {
    fn from(error: &ConfigError) -> Self {
        match error {
            ConfigError::Settings(error) => Self::from(error),
            ConfigError::Invalid { .. } => Self::new(ErrorCode::ConfigInvalid, error.to_string()),
        }
    }
}

impl Config {
    /// Reads the settings of an Ingle folder, and what this process's environment says of
    /// timeouts; a missing file means the defaults.
    ///
    /// # Errors
    /// When a file cannot be read, has an unknown key, or a value out of range.
    pub fn load(paths: &Paths) -> Result<Self, ConfigError> {
        let sources = Sources::read(paths)?;
        let mut config = Self::parse(sources.config.text()?).map_err(|problem| {
            ConfigError::Invalid { path: sources.config.path.clone(), problem }
        })?;
        let resolved = timeout_settings::resolve(&sources)?;
        config.timeouts = resolved.timeouts;
        config.unknown_variables = resolved.unknown;
        Ok(config)
    }

    /// Everything but the timeouts, which are left at their defaults.
    fn parse(text: &str) -> Result<Self, String> {
        let file: ConfigFile =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let stall = stall(file.engine.stall_s)?;
        let mut engine = engine_settings(&file.engine)?;
        if let Some(stall) = stall {
            engine.load_stall = stall;
        }
        memory::set_mlx_limits(&mut engine, &file.mlx)?;
        let library = library(file.library)?;
        let memory = memory::options(&file.memory, file.models)?;
        let jobs = file.jobs.settings()?;
        let http = file.http.settings()?;
        let mcp = file.mcp.settings()?;
        Ok(Self {
            timeouts: WorkTimeouts::default(),
            unknown_variables: Vec::new(),
            default_model: file.default_model,
            engine,
            stall,
            library,
            memory,
            jobs,
            http,
            mcp,
        })
    }
}

fn engine_settings(table: &EngineTable) -> Result<EngineSettings, String> {
    const THREADS: RangeInclusive<usize> = 1..=512;
    const CONTEXT_TOKENS: RangeInclusive<usize> = 256..=(1 << 24);
    let defaults = EngineSettings::default();
    let check = |key: &str, found: usize, range: RangeInclusive<usize>| {
        if range.contains(&found) {
            return Ok(());
        }
        let (first, last) = range.into_inner();
        Err(format!("engine.{key} is {found}; it must be from {first} to {last}"))
    };
    if let Some(threads) = table.threads {
        check("threads", threads as usize, THREADS)?;
    }
    let gguf_context_tokens = table.gguf_context_tokens.unwrap_or(defaults.gguf_context_tokens);
    check("gguf_context_tokens", gguf_context_tokens, CONTEXT_TOKENS)?;
    if let Some(engine) = table.prefer.filter(|&engine| !crate::engines::is_built_in(engine)) {
        return Err(format!("engine.prefer is {engine}, which this daemon was built without"));
    }
    Ok(EngineSettings {
        prefer: table.prefer,
        threads: table.threads,
        gpu_layers: table.gpu_layers,
        gguf_context_tokens,
        ..defaults
    })
}

fn stall(seconds: Option<f64>) -> Result<Option<Duration>, String> {
    const SECONDS: RangeInclusive<f64> = 0.1..=86_400.0;
    match seconds {
        Some(seconds) if !SECONDS.contains(&seconds) => {
            let (first, last) = SECONDS.into_inner();
            Err(format!("engine.stall_s is {seconds}; it must be from {first} to {last} seconds"))
        }
        seconds => Ok(seconds.map(Duration::from_secs_f64)),
    }
}

fn library(table: LibraryTable) -> Result<LibrarySettings, String> {
    let setting = |key: &str, value: Option<SwitchOrPath>| match value {
        None | Some(SwitchOrPath::Switch(true)) => Ok(LibrarySetting::Usual),
        Some(SwitchOrPath::Switch(false)) => Ok(LibrarySetting::Off),
        Some(SwitchOrPath::Path(path)) => absolute(key, &path).map(LibrarySetting::At),
    };
    let folders = table.folders.iter().map(|path| absolute("library.folders", path));
    let endpoint = table.huggingface_endpoint;
    if let Some(endpoint) = endpoint.as_deref()
        && !endpoint.starts_with("https://")
        && !endpoint.starts_with("http://")
    {
        return Err(format!(
            "library.huggingface_endpoint is `{endpoint}`; it must begin with https:// or http://"
        ));
    }
    Ok(LibrarySettings {
        huggingface: setting("library.huggingface", table.huggingface)?,
        lm_studio: setting("library.lm_studio", table.lm_studio)?,
        folders: folders.collect::<Result<_, _>>()?,
        huggingface_endpoint: endpoint,
        huggingface_token: table.huggingface_token,
    })
}

/// A path that does not depend on the daemon's working folder.
fn absolute(key: &str, path: &str) -> Result<PathBuf, String> {
    let home = || std::env::home_dir().filter(|home| home.is_absolute());
    let found = match path.strip_prefix("~/") {
        Some(rest) => home().map(|home| home.join(rest)),
        None => Some(PathBuf::from(path)),
    };
    found.filter(|path| path.is_absolute()).ok_or_else(|| {
        format!("{key} is `{path}`; it must be an absolute path, or one that begins with ~/")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_by_the_client_crate() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path().to_owned(), None).unwrap();
        let load = |text: &str| {
            std::fs::write(paths.config_file(), text).unwrap();
            Config::load(&paths)
        };
        let config = load("default_model = \"a\"\n[timeouts]\nchat = 1.5\n").unwrap();
        assert_eq!(config.timeouts.chat_ms, 1_500);
        assert_eq!(config.default_model.as_deref(), Some("a"));
        let error = ErrorBody::from(&load("[timeouts]\ndaemon = 3\n").unwrap_err());
        assert_eq!(error.code, ErrorCode::ConfigInvalid);
        assert!(error.remediation().contains("timeouts.workflow"), "{error:?}");
    }

    #[test]
    fn library_settings_are_read_and_hide_the_token() {
        let config = Config::parse(
            "[library]\nhuggingface = false\nlm_studio = \"/m\"\nfolders = [\"/a\"]\n\
             huggingface_token = \"hf_secret\"\n",
        )
        .unwrap();
        assert_eq!(config.library.huggingface, LibrarySetting::Off);
        assert_eq!(config.library.lm_studio, LibrarySetting::At("/m".into()));
        assert_eq!(config.library.folders, [PathBuf::from("/a")]);
        assert!(!format!("{config:?}").contains("hf_secret"), "{config:?}");
        assert_eq!(Config::parse("").unwrap().library.huggingface, LibrarySetting::Usual);
    }

    #[test]
    fn memory_settings_are_read() {
        let text = "[memory]\nbudget = \"70%\"\nkeep_alive = \"5m\"\n\
                    [models.\"SmolLM2\"]\nkeep_alive = 0\npin = true\n\
                    [mlx]\ncache_limit = \"512 MiB\"\n";
        let Config { memory, engine, .. } = Config::parse(text).unwrap();
        assert_eq!(memory.keep_alive, "5m".parse().unwrap());
        assert_eq!(memory.models["smollm2"].keep_alive, Some("0".parse().unwrap()));
        assert_eq!(memory.models["smollm2"].pin, Some(true));
        assert_eq!((engine.mlx_cache_bytes, engine.mlx_wired_bytes), (Some(512 << 20), None));
    }

    #[test]
    fn bad_settings_are_refused_by_name() {
        for (text, named) in [
            ("[timeout]\nchat = 3\n", "timeout"),
            ("[engine]\nthreads = 0\n", "engine.threads"),
            ("[engine]\nstall_s = 0\n", "engine.stall_s"),
            ("[engine]\nstall_s = nan\n", "engine.stall_s"),
            ("[engine]\ngguf_context_tokens = 7\n", "engine.gguf_context_tokens"),
            ("[engine]\nprefer = \"cuda\"\n", "cuda"),
            ("[library]\nhuggingface = 3\n", "true, false or a path"),
            ("[library]\nlm_studio = \"models\"\n", "library.lm_studio"),
            ("[library]\nfolders = [\"/a\", \"b\"]\n", "library.folders"),
            ("[library]\nhuggingface_endpoint = \"hub.example\"\n", "https://"),
            ("[memory]\nbudget = \"much\"\n", "memory.budget"),
            ("[memory]\nkeep_alive = \"soon\"\n", "`soon`"),
            ("[mlx]\nwired_limit = \"1 G\"\n", "mlx.wired_limit"),
            ("[models.\"a\"]\npinned = true\n", "pinned"),
            ("[jobs]\nworkers = 0\n", "jobs.workers"),
            ("[jobs]\nkeep_days = 0\n", "jobs.keep_days"),
            ("[jobs]\nkeep_count = 0\n", "jobs.keep_count"),
            ("[http]\nlisten = \"11711\"\n", "http.listen"),
            ("[http]\nauth = \"basic\"\n", "basic"),
            ("[http]\nlisten = \"0.0.0.0:1\"\nauth = \"none\"\n", "http.auth"),
            ("[http]\nallowed_hosts = [\"http://a\"]\n", "http.allowed_hosts"),
            ("[http]\ncors_origins = [\"a.example\"]\n", "http.cors_origins"),
            ("[http]\nauth = \"none\"\ncors_origins = [\"*\"]\n", "any page"),
            ("[mcp]\nprompt_chars = 0\n", "mcp.prompt_chars"),
        ] {
            let problem = Config::parse(text).unwrap_err();
            assert!(problem.contains(named), "{problem}");
        }
    }
}
