//! Names of the timeout settings, and of derived values, which cannot be set.
//!
//! Owns the names. Pure.

use ingle_protocol::timeouts::{Class, Layer, WorkTimeouts};

/// The prefix of our own variables.
pub(super) const VARIABLE_PREFIX: &str = "INGLE_TIMEOUT_";

/// One number that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Setting {
    /// W of a class.
    Work(Class),
    /// One attempt at a provider that has no limit of its own.
    Upstream,
    /// One attempt at GLM.
    UpstreamGlm,
    /// One attempt at Kimi.
    UpstreamKimi,
    /// One attempt at Kimi when it searches the web.
    UpstreamKimiWebSearch,
    /// The whole of a call of the HTTP client.
    Http,
}

impl Setting {
    /// Every setting, in the order in which they are shown.
    pub const ALL: [Self; 12] = [
        Self::Work(Class::Simple),
        Self::Work(Class::Workflow),
        Self::Work(Class::ExpertAnalysis),
        Self::Work(Class::Chat),
        Self::Work(Class::Completions),
        Self::Work(Class::Embeddings),
        Self::Work(Class::Job),
        Self::Upstream,
        Self::UpstreamGlm,
        Self::UpstreamKimi,
        Self::UpstreamKimiWebSearch,
        Self::Http,
    ];

    /// Its key in the table `[timeouts]` of `config.toml`.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Work(class) => class.as_str(),
            Self::Upstream => "upstream",
            Self::UpstreamGlm => "upstream_glm",
            Self::UpstreamKimi => "upstream_kimi",
            Self::UpstreamKimiWebSearch => "upstream_kimi_web_search",
            Self::Http => "http",
        }
    }

    /// Its name in messages: `timeouts.workflow`.
    #[must_use]
    pub fn name(self) -> String {
        format!("timeouts.{}", self.key())
    }

    /// Its variable in the environment and in `.env`.
    #[must_use]
    pub fn variable(self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key().to_ascii_uppercase())
    }

    /// Variables of other programs for the same limit.
    #[must_use]
    pub const fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::Work(Class::Simple) => &["SIMPLE_TOOL_TIMEOUT_SECS"],
            Self::Work(Class::Workflow) => &["WORKFLOW_TOOL_TIMEOUT_SECS"],
            Self::Work(Class::ExpertAnalysis) => &["EXPERT_ANALYSIS_TIMEOUT_SECS"],
            Self::Work(Class::Chat) => &["MLX_SERVER_TIMEOUT_CHAT_SECONDS"],
            Self::Work(Class::Completions) => &["MLX_SERVER_TIMEOUT_COMPLETIONS_SECONDS"],
            Self::Work(Class::Embeddings) => &["MLX_SERVER_TIMEOUT_EMBEDDINGS_SECONDS"],
            Self::Work(Class::Job) | Self::Upstream => &[],
            Self::UpstreamGlm => &["GLM_TIMEOUT_SECS"],
            Self::UpstreamKimi => &["KIMI_TIMEOUT_SECS"],
            Self::UpstreamKimiWebSearch => &["KIMI_WEB_SEARCH_TIMEOUT_SECS"],
            Self::Http => &["EX_HTTP_TIMEOUT_SECONDS"],
        }
    }

    /// The setting with this key.
    #[must_use]
    pub fn of_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.key() == key)
    }

    /// The setting with this variable.
    #[must_use]
    pub fn of_variable(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|setting| setting.aliases().contains(&name) || setting.variable() == name)
    }

    /// Its value, in milliseconds.
    #[must_use]
    pub const fn ms(self, timeouts: &WorkTimeouts) -> u64 {
        match self {
            Self::Work(class) => timeouts.work_ms(class),
            Self::Upstream => timeouts.upstream_ms,
            Self::UpstreamGlm => timeouts.upstream_glm_ms,
            Self::UpstreamKimi => timeouts.upstream_kimi_ms,
            Self::UpstreamKimiWebSearch => timeouts.upstream_kimi_web_search_ms,
            Self::Http => timeouts.http_ms,
        }
    }

    /// The field of its value.
    pub(super) const fn slot(self, timeouts: &mut WorkTimeouts) -> &mut u64 {
        match self {
            Self::Work(Class::Simple) => &mut timeouts.simple_ms,
            Self::Work(Class::Workflow) => &mut timeouts.workflow_ms,
            Self::Work(Class::ExpertAnalysis) => &mut timeouts.expert_analysis_ms,
            Self::Work(Class::Chat) => &mut timeouts.chat_ms,
            Self::Work(Class::Completions) => &mut timeouts.completions_ms,
            Self::Work(Class::Embeddings) => &mut timeouts.embeddings_ms,
            Self::Work(Class::Job) => &mut timeouts.job_ms,
            Self::Upstream => &mut timeouts.upstream_ms,
            Self::UpstreamGlm => &mut timeouts.upstream_glm_ms,
            Self::UpstreamKimi => &mut timeouts.upstream_kimi_ms,
            Self::UpstreamKimiWebSearch => &mut timeouts.upstream_kimi_web_search_ms,
            Self::Http => &mut timeouts.http_ms,
        }
    }
}

/// A limit that follows from W and cannot be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DerivedLimit {
    /// The layer.
    pub layer: Layer,
    /// The class: workflow, where the name has none.
    pub class: Class,
}

impl DerivedLimit {
    /// The limit that a key of the table `[timeouts]` stands for: `daemon`, `chat_shim`.
    #[must_use]
    pub fn of_key(key: &str) -> Option<Self> {
        Self::of_words(key.to_ascii_uppercase().split('_'))
    }

    /// The limit that a variable stands for: `INGLE_DAEMON_TIMEOUT`, `EXAI_WS_SHIM_TIMEOUT_SECS`,
    /// `INGLE_TIMEOUT_CHAT_CLIENT`.
    #[must_use]
    pub fn of_variable(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("INGLE_").or_else(|| name.strip_prefix("EXAI_WS_"))?;
        let is_timeout = rest.split('_').any(|word| word == "TIMEOUT");
        is_timeout.then(|| Self::of_words(rest.split('_'))).flatten()
    }

    /// Reads one layer, and a class or none; words for the time and its unit are skipped.
    fn of_words<'a>(words: impl Iterator<Item = &'a str>) -> Option<Self> {
        const OF_TIME: [&str; 7] = ["TIMEOUT", "SECS", "SECONDS", "SEC", "S", "MS", "TOOL"];
        let (mut layer, mut class) = (None, Vec::new());
        for word in words.filter(|word| !OF_TIME.contains(word)) {
            let named = Layer::DERIVED.into_iter().find(|layer| is_word(layer.as_str(), word));
            match (named, layer) {
                (Some(named), None) => layer = Some(named),
                (Some(_), Some(_)) => return None,
                (None, _) => class.push(word.to_ascii_lowercase()),
            }
        }
        let class =
            if class.is_empty() { Some(Class::Workflow) } else { Class::named(&class.join("_")) };
        Some(Self { layer: layer?, class: class? })
    }
}

fn is_word(name: &str, word: &str) -> bool {
    name.eq_ignore_ascii_case(word)
}
