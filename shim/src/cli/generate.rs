//! Options of the commands that generate.
//!
//! Owns their names, bounds and help. Does not know how sampling uses them.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ingle_protocol::limits;
use ingle_protocol::wire::models::EngineKind;

use super::format::FormatOptions;
use super::value::duration;

/// Whether a model reasons before it answers.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Thinking {
    /// Let the model reason first, where its chat template allows a choice
    #[arg(long, overrides_with = "no_think")]
    think: bool,
    /// Let the model answer without reasoning, where its chat template allows a choice
    #[arg(long, overrides_with = "think")]
    no_think: bool,
}

impl Thinking {
    /// The choice of the user, if one was made.
    pub(crate) fn wish(self) -> Option<bool> {
        (self.think || self.no_think).then_some(self.think)
    }
}

/// The text after a gap that the model fills.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Gap {
    /// Fill the gap between the prompt and this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) suffix: Option<String>,
    /// Fill the gap between the prompt and the text of this file
    #[arg(long, value_name = "FILE", conflicts_with = "suffix")]
    pub(crate) suffix_file: Option<PathBuf>,
}

/// Options of a generation.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GenerateOptions {
    /// Whether to reason first, where the user chose
    #[arg(skip)]
    pub(crate) thinks: Option<bool>,
    /// Name or path of the model; the default one when absent
    #[arg(long, short)]
    pub(crate) model: Option<String>,
    /// The engine to run it on, where its format allows several
    #[arg(long, value_name = "gguf|mlx")]
    pub(crate) engine: Option<EngineKind>,
    /// Maximum number of tokens to generate [default: 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// Sampling temperature; 0 is greedy [default: 0]
    #[arg(long, value_name = "T", value_parser = at_least_zero)]
    pub(crate) temperature: Option<f32>,
    /// Sample from the K likeliest tokens only
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Nucleus sampling: smallest set of tokens with total probability P
    #[arg(long, value_name = "P", value_parser = share)]
    pub(crate) top_p: Option<f32>,
    /// Drop tokens less likely than P times the likeliest one
    #[arg(long, value_name = "P", value_parser = share)]
    pub(crate) min_p: Option<f32>,
    /// Repetition penalty on recent tokens: above 1 less likely, below 1 likelier
    #[arg(long, value_name = "X", value_parser = repetition)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Number of recent tokens that the repetition penalty covers [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repetition_window: Option<u32>,
    /// Frequency penalty, -2 to 2: for each time a token was generated
    #[arg(long, value_name = "X", value_parser = additive, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Presence penalty, -2 to 2: once a token was generated
    #[arg(long, value_name = "X", value_parser = additive, allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Bias of a token id, -100 to 100; may be given several times
    #[arg(long, value_name = "TOKEN=BIAS", value_parser = bias)]
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Number of choices to generate from the prompt
    #[arg(long, short = 'n', value_name = "N", value_parser = choices())]
    pub(crate) choices: Option<u32>,
    /// Random seed, for reproducible output
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// With --json, report each token's log-probability
    #[arg(long)]
    pub(crate) logprobs: bool,
    /// With --json, report the K likeliest tokens at each position
    #[arg(long, value_name = "K", default_value_t = 0, hide_default_value = true)]
    pub(crate) top_logprobs: usize,
    /// Stop string: ends the text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    #[command(flatten)]
    pub(crate) format: FormatOptions,
    /// Timeout of the work, if shorter than the daemon's
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Print timings on standard error
    #[arg(long)]
    pub(crate) stats: bool,
    /// Fetch a missing model without asking
    #[arg(long, short)]
    pub(crate) yes: bool,
}

fn at_least_zero(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    let is_fine = value.is_finite() && value >= 0.0;
    is_fine.then_some(value).ok_or_else(|| "must be 0 or more".to_owned())
}

fn share(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    (0.0..=1.0).contains(&value).then_some(value).ok_or_else(|| "must be from 0 to 1".to_owned())
}

fn within(text: &str, least: f32, most: f32) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    let is_fine = (least..=most).contains(&value);
    is_fine.then_some(value).ok_or_else(|| format!("must be from {least} to {most}"))
}

fn repetition(text: &str) -> Result<f32, String> {
    within(text, 0.01, 100.0)
}

fn additive(text: &str) -> Result<f32, String> {
    within(text, -2.0, 2.0)
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let (token, bias) = text.split_once('=').ok_or("not TOKEN=BIAS")?;
    let token = token.parse().map_err(|_| "the token must be an id; see `tokenize`".to_owned())?;
    Ok((token, within(bias, -100.0, 100.0)?))
}

fn choices() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=limits::CHOICES as i64)
}
