//! The timeout ladder: one configured number for each class of work, the others derived.
//!
//! Owns the classes, their defaults, the ratios, the order that must hold between them, and the
//! arithmetic. Reads no clock and no configuration: times come in and go out as
//! whole milliseconds. `ingle_client::timeout_settings` reads them.

use serde::{Deserialize, Serialize};

/// Shortest work timeout that may be configured, in milliseconds.
pub const MIN_WORK_MS: u64 = 100;
/// Longest work timeout that may be configured: ten days, in milliseconds.
pub const MAX_WORK_MS: u64 = 10 * 24 * 60 * 60 * 1_000;

/// One attempt at a cloud provider, in milliseconds: until its first byte, and every gap after it.
pub const DEFAULT_UPSTREAM_MS: u64 = 30_000;
/// The same for GLM.
pub const DEFAULT_UPSTREAM_GLM_MS: u64 = 90_000;
/// The same for Kimi.
pub const DEFAULT_UPSTREAM_KIMI_MS: u64 = 120_000;
/// The same for Kimi when it searches the web.
pub const DEFAULT_UPSTREAM_KIMI_WEB_SEARCH_MS: u64 = 150_000;
/// Outer limit of the HTTP client, in milliseconds, where W of the class is not longer.
pub const DEFAULT_HTTP_MS: u64 = 300_000;

/// Classes of work. Each has one work timeout W; see [`Ladder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Small tools: tokenize, list, load state.
    Simple,
    /// MCP generation tools; the default class.
    Workflow,
    /// A model reviewing another's output.
    ExpertAnalysis,
    /// `generate` with messages.
    Chat,
    /// `generate` with a raw prompt.
    Completions,
    /// Embeddings of batches.
    Embeddings,
    /// Background jobs that name no timeout of their own.
    Job,
}

impl Class {
    /// Every class, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::Simple,
        Self::Workflow,
        Self::ExpertAnalysis,
        Self::Chat,
        Self::Completions,
        Self::Embeddings,
        Self::Job,
    ];

    /// The name in settings and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Workflow => "workflow",
            Self::ExpertAnalysis => "expert_analysis",
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Job => "job",
        }
    }

    /// The class of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }

    /// The class's work timeout W when nothing is configured, in milliseconds.
    #[must_use]
    pub const fn default_work_ms(self) -> u64 {
        match self {
            Self::Simple => 60_000,
            Self::Workflow => 300_000,
            Self::ExpertAnalysis => 180_000,
            Self::Chat => 900_000,
            Self::Completions => 600_000,
            Self::Embeddings | Self::Job => 120_000,
        }
    }

    /// The class's ladder when nothing is configured.
    #[must_use]
    pub const fn default_ladder(self) -> Ladder {
        Ladder::derive(self.default_work_ms())
    }
}

/// The layers that a request passes, innermost first. Each may end it by a timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// The engine, at a token boundary: 1 W.
    Work,
    /// The daemon's edge: 1.5 W.
    Daemon,
    /// The shim: 2 W.
    Shim,
    /// The client library: 2.5 W.
    Client,
}

impl Layer {
    /// The layers whose limits are derived, innermost first.
    pub const DERIVED: [Self; 3] = [Self::Daemon, Self::Shim, Self::Client];

    /// The name in settings and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Daemon => "daemon",
            Self::Shim => "shim",
            Self::Client => "client",
        }
    }

    /// The layer's share of W.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "the shares are small")]
    pub const fn ratio(self) -> f64 {
        self.halves() as f64 / 2.0
    }

    /// The layer's share of W, in halves.
    const fn halves(self) -> u64 {
        match self {
            Self::Work => 2,
            Self::Daemon => 3,
            Self::Shim => 4,
            Self::Client => 5,
        }
    }
}

/// The four limits of one class, in whole milliseconds, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ladder {
    /// W: the limit of the work itself.
    pub work_ms: u64,
    /// 1.5 W: queue, load and work, as the daemon sees it.
    pub daemon_ms: u64,
    /// 2 W.
    pub shim_ms: u64,
    /// 2.5 W.
    pub client_ms: u64,
}

impl Ladder {
    /// Derives the ladder from W in milliseconds. `work_ms` is taken as it is; configuration
    /// checks it against [`MIN_WORK_MS`] and [`MAX_WORK_MS`].
    #[must_use]
    pub const fn derive(work_ms: u64) -> Self {
        Self {
            work_ms,
            daemon_ms: share(work_ms, Layer::Daemon),
            shim_ms: share(work_ms, Layer::Shim),
            client_ms: share(work_ms, Layer::Client),
        }
    }

    /// The limit of one layer, in milliseconds.
    #[must_use]
    pub const fn limit_ms(&self, layer: Layer) -> u64 {
        match layer {
            Layer::Work => self.work_ms,
            Layer::Daemon => self.daemon_ms,
            Layer::Shim => self.shim_ms,
            Layer::Client => self.client_ms,
        }
    }
}

const fn share(work_ms: u64, layer: Layer) -> u64 {
    work_ms.saturating_mul(layer.halves()).div_ceil(2)
}

/// The margin that a layer keeps from the limit it hands inwards, so that the inner answer arrives
/// first: W/50, at least 5 ms and at most 1 s.
#[must_use]
pub const fn margin_ms(work_ms: u64) -> u64 {
    let share = work_ms / 50;
    if share < 5 {
        5
    } else if share > 1_000 {
        1_000
    } else {
        share
    }
}

/// The limit of `layer` for work of `work_ms`, when its caller has `remaining_ms` left:
/// `min(ratio x W, remaining - margin)`.
#[must_use]
pub const fn layer_limit_ms(layer: Layer, work_ms: u64, remaining_ms: Option<u64>) -> u64 {
    let own = share(work_ms, layer);
    match remaining_ms {
        Some(remaining_ms) => {
            let handed_down = remaining_ms.saturating_sub(margin_ms(work_ms));
            if handed_down < own { handed_down } else { own }
        }
        None => own,
    }
}

/// W of every class, and the limits towards cloud providers: all that is configured, as the daemon
/// resolved it. `hello` carries it to shim and client; what a daemon leaves out is the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct WorkTimeouts {
    /// Milliseconds of [`Class::Simple`].
    pub simple_ms: u64,
    /// Milliseconds of [`Class::Workflow`].
    pub workflow_ms: u64,
    /// Milliseconds of [`Class::ExpertAnalysis`].
    pub expert_analysis_ms: u64,
    /// Milliseconds of [`Class::Chat`].
    pub chat_ms: u64,
    /// Milliseconds of [`Class::Completions`].
    pub completions_ms: u64,
    /// Milliseconds of [`Class::Embeddings`].
    pub embeddings_ms: u64,
    /// Milliseconds of [`Class::Job`].
    pub job_ms: u64,
    /// Milliseconds of one attempt at a provider that has no limit of its own: until its first
    /// byte, and every gap after it.
    pub upstream_ms: u64,
    /// The same for GLM.
    pub upstream_glm_ms: u64,
    /// The same for Kimi.
    pub upstream_kimi_ms: u64,
    /// The same for Kimi when it searches the web.
    pub upstream_kimi_web_search_ms: u64,
    /// Milliseconds a whole call of the HTTP client may take, for classes whose W is not longer;
    /// see [`WorkTimeouts::http_limit_ms`].
    pub http_ms: u64,
}

/// The defaults.
const DEFAULTS: WorkTimeouts = WorkTimeouts {
    simple_ms: Class::Simple.default_work_ms(),
    workflow_ms: Class::Workflow.default_work_ms(),
    expert_analysis_ms: Class::ExpertAnalysis.default_work_ms(),
    chat_ms: Class::Chat.default_work_ms(),
    completions_ms: Class::Completions.default_work_ms(),
    embeddings_ms: Class::Embeddings.default_work_ms(),
    job_ms: Class::Job.default_work_ms(),
    upstream_ms: DEFAULT_UPSTREAM_MS,
    upstream_glm_ms: DEFAULT_UPSTREAM_GLM_MS,
    upstream_kimi_ms: DEFAULT_UPSTREAM_KIMI_MS,
    upstream_kimi_web_search_ms: DEFAULT_UPSTREAM_KIMI_WEB_SEARCH_MS,
    http_ms: DEFAULT_HTTP_MS,
};

impl Default for WorkTimeouts {
    fn default() -> Self {
        DEFAULTS
    }
}

impl WorkTimeouts {
    /// W of one class, in milliseconds.
    #[must_use]
    pub const fn work_ms(&self, class: Class) -> u64 {
        match class {
            Class::Simple => self.simple_ms,
            Class::Workflow => self.workflow_ms,
            Class::ExpertAnalysis => self.expert_analysis_ms,
            Class::Chat => self.chat_ms,
            Class::Completions => self.completions_ms,
            Class::Embeddings => self.embeddings_ms,
            Class::Job => self.job_ms,
        }
    }

    /// The ladder of one class.
    #[must_use]
    pub const fn ladder(&self, class: Class) -> Ladder {
        Ladder::derive(self.work_ms(class))
    }

    /// The outer limit of the HTTP client for one class, in milliseconds: never under its W, so
    /// that the same class has the same W whether it is worked on here or elsewhere.
    #[must_use]
    pub const fn http_limit_ms(&self, class: Class) -> u64 {
        let work_ms = self.work_ms(class);
        if work_ms > self.http_ms { work_ms } else { self.http_ms }
    }

    /// Checks what every request relies on: no class above the one that contains it, and each layer
    /// later than the one inside it.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub const fn check_order(&self) -> Result<(), Disorder> {
        if self.simple_ms > self.workflow_ms {
            return Err(Disorder::SimpleAboveWorkflow);
        }
        if self.expert_analysis_ms > self.workflow_ms {
            return Err(Disorder::ExpertAboveWorkflow);
        }
        if self.http_ms < self.workflow_ms {
            return Err(Disorder::HttpBelowWorkflow);
        }
        let mut index = 0;
        while index < Class::ALL.len() {
            let class = Class::ALL[index];
            let Ladder { work_ms, daemon_ms, shim_ms, client_ms } = self.ladder(class);
            if work_ms >= daemon_ms || daemon_ms >= shim_ms || shim_ms >= client_ms {
                return Err(Disorder::Layers(class));
            }
            index += 1;
        }
        Ok(())
    }
}

/// A rule of the ladder that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disorder {
    /// A simple tool must not take longer than a workflow.
    SimpleAboveWorkflow,
    /// One step of a workflow must not take longer than the workflow.
    ExpertAboveWorkflow,
    /// The HTTP client must not end before the workflow that waits for it.
    HttpBelowWorkflow,
    /// Two layers of this class answer at the same time, or in the wrong order.
    Layers(Class),
}

// The order every request relies on, checked for the defaults before anything can run.
const _: () = {
    let mut index = 0;
    while index < Class::ALL.len() {
        let work_ms = Class::ALL[index].default_work_ms();
        assert!(work_ms >= MIN_WORK_MS && work_ms <= MAX_WORK_MS);
        index += 1;
    }
    assert!(DEFAULTS.check_order().is_ok());
    let workflow = Class::Workflow.default_ladder();
    assert!(workflow.daemon_ms == 450_000);
    assert!(workflow.shim_ms == 600_000);
    assert!(workflow.client_ms == 750_000);
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_ladder_is_ordered(work_ms in MIN_WORK_MS..=MAX_WORK_MS) {
            let ladder = Ladder::derive(work_ms);
            prop_assert!(ladder.work_ms < ladder.daemon_ms);
            prop_assert!(ladder.daemon_ms < ladder.shim_ms);
            prop_assert!(ladder.shim_ms < ladder.client_ms);
            prop_assert_eq!(ladder.shim_ms, work_ms * 2);
            for (layer, tenths) in [(Layer::Daemon, 15), (Layer::Client, 25)] {
                let exact_tenths = work_ms * tenths;
                let rounded_tenths = ladder.limit_ms(layer) * 10;
                prop_assert!(rounded_tenths >= exact_tenths && rounded_tenths < exact_tenths + 10);
            }
        }

        /// From client to shim to daemon to work, whatever the outermost has left.
        #[test]
        fn limit_never_grows_across_a_hop(
            work_ms in MIN_WORK_MS..=MAX_WORK_MS,
            remaining_ms in 0..=MAX_WORK_MS * 3,
        ) {
            let client = layer_limit_ms(Layer::Client, work_ms, Some(remaining_ms));
            let shim = layer_limit_ms(Layer::Shim, work_ms, Some(client));
            let daemon = layer_limit_ms(Layer::Daemon, work_ms, Some(shim));
            prop_assert!(client <= remaining_ms);
            for (inner, outer) in [(shim, client), (daemon, shim)] {
                prop_assert!(inner < outer || outer == 0);
            }
        }
    }

    #[test]
    fn odd_milliseconds_round_up() {
        assert_eq!(Ladder::derive(101).daemon_ms, 152);
        assert_eq!(Ladder::derive(101).client_ms, 253);
    }
}
