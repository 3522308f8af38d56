//! The options of `ingle load`.
//!
//! Owns their names and help. Must not know what a load does.

use clap::Args;
use ingle_protocol::keep_alive::KeepAlive;
use ingle_protocol::wire::models::EngineKind;

/// What to load, and how long it stays.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LoadOptions {
    /// The model; the default one when absent
    pub(crate) model: Option<String>,
    /// Only say what the load would take, and what would be evicted for it
    #[arg(long, conflicts_with_all = ["keep_alive", "pin", "no_pin", "force"])]
    pub(crate) estimate: bool,
    /// The engine to run it on, where its format leaves a choice
    #[arg(long, value_name = "gguf|mlx")]
    pub(crate) engine: Option<EngineKind>,
    /// Keep it so long after its last use, such as 10m, 2h, 0 or forever
    #[arg(long, value_name = "TIME")]
    pub(crate) keep_alive: Option<KeepAlive>,
    /// Never evict it, and never let it expire
    #[arg(long)]
    pub(crate) pin: bool,
    /// Take the pin back
    #[arg(long, conflicts_with = "pin")]
    pub(crate) no_pin: bool,
    /// Load it although it ended the daemon twice in a row
    #[arg(long)]
    pub(crate) force: bool,
    /// Fetch the model first, if need be, without asking
    #[arg(long, short)]
    pub(crate) yes: bool,
}
