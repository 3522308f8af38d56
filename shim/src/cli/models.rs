//! Options of `ingle load`.
//!
//! Owns their names and help. Does not load anything.

use clap::Args;
use ingle_protocol::keep_alive::KeepAlive;
use ingle_protocol::wire::models::EngineKind;

/// The model to load, and how long it stays.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LoadOptions {
    /// The model; the default one when absent
    pub(crate) model: Option<String>,
    /// Only print the memory that the load needs, and the evictions
    #[arg(long, conflicts_with_all = ["keep_alive", "pin", "no_pin", "force"])]
    pub(crate) estimate: bool,
    /// The engine to run it on, where its format allows several
    #[arg(long, value_name = "gguf|mlx")]
    pub(crate) engine: Option<EngineKind>,
    /// Time to keep it after its last use, such as 10m, 2h, 0 or forever
    #[arg(long, value_name = "TIME")]
    pub(crate) keep_alive: Option<KeepAlive>,
    /// Pin the model: it is never evicted and never expires
    #[arg(long)]
    pub(crate) pin: bool,
    /// Unpin the model
    #[arg(long, conflicts_with = "pin")]
    pub(crate) no_pin: bool,
    /// Load it although it crashed the daemon twice in a row
    #[arg(long)]
    pub(crate) force: bool,
    /// Fetch a missing model without asking
    #[arg(long, short)]
    pub(crate) yes: bool,
}
