//! Options of `ingle bench`.
//!
//! Owns their names, bounds and help. Does not measure anything.

use clap::Args;
use ingle_protocol::limits;
use ingle_protocol::wire::models::EngineKind;

/// Maximum tokens of a benchmark's prompt or output: they fit one frame with any tokenizer.
const MAX_BENCH_TOKENS: i64 = 131_072;

fn concurrency(text: &str) -> Result<usize, String> {
    let most = limits::IN_FLIGHT_PER_CONNECTION;
    let value: usize = text.parse().map_err(|_| "not a whole number".to_owned())?;
    let is_fine = (1..=most).contains(&value);
    is_fine.then_some(value).ok_or_else(|| format!("must be from 1 to {most}"))
}

/// The measurement to run.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchOptions {
    /// Name or path of the model; the default one when absent
    pub(crate) model: Option<String>,
    /// The engine to run it on, where its format allows several
    #[arg(long, value_name = "gguf|mlx")]
    pub(crate) engine: Option<EngineKind>,
    /// Number of tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_BENCH_TOKENS))]
    pub(crate) prompt_tokens: u32,
    /// Number of tokens to generate in each request
    #[arg(long, value_name = "N", default_value_t = 128)]
    #[arg(value_parser = clap::value_parser!(u32).range(2..=MAX_BENCH_TOKENS))]
    pub(crate) gen_tokens: u32,
    /// Number of measurements
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Number of concurrent requests; several numbers are measured in turn
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1,2")]
    #[arg(value_parser = concurrency)]
    pub(crate) concurrency: Vec<usize>,
    /// Unload the model first, to measure its load
    #[arg(long, conflicts_with = "warm")]
    pub(crate) cold: bool,
    /// Use the loaded model (the default)
    #[arg(long)]
    pub(crate) warm: bool,
    /// Fetch a missing model without asking
    #[arg(long, short)]
    pub(crate) yes: bool,
}
