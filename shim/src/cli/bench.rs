//! The options of `ingle bench`.
//!
//! Owns their names, bounds and help. Must not know how anything is measured.

use clap::Args;
use ingle_protocol::limits;
use ingle_protocol::wire::models::EngineKind;

/// Most tokens of a benchmark's prompt or text: what one frame can carry for any tokenizer.
const MAX_BENCH_TOKENS: i64 = 131_072;

fn at_once(text: &str) -> Result<usize, String> {
    let most = limits::IN_FLIGHT_PER_CONNECTION;
    let value: usize = text.parse().map_err(|_| "not a whole number".to_owned())?;
    let is_fine = (1..=most).contains(&value);
    is_fine.then_some(value).ok_or_else(|| format!("must be from 1 to {most}"))
}

/// What to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchOptions {
    /// Name or path of the model; the default one when absent
    pub(crate) model: Option<String>,
    /// The engine to run it on, where its format leaves a choice
    #[arg(long, value_name = "gguf|mlx")]
    pub(crate) engine: Option<EngineKind>,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_BENCH_TOKENS))]
    pub(crate) prompt_tokens: u32,
    /// Tokens to generate in each request
    #[arg(long, value_name = "N", default_value_t = 128)]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=MAX_BENCH_TOKENS))]
    pub(crate) gen_tokens: u32,
    /// How often to measure
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// How many requests to run at once; several numbers are measured one after the other
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,2")]
    #[arg(value_parser = at_once)]
    pub(crate) concurrency: Vec<usize>,
    /// Drop the model first, so that its load is measured
    #[arg(long, conflicts_with = "warm")]
    pub(crate) cold: bool,
    /// Take the model as it is in memory (the default)
    #[arg(long)]
    pub(crate) warm: bool,
    /// Fetch the model first, if need be, without asking
    #[arg(long, short)]
    pub(crate) yes: bool,
}
