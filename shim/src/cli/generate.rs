//! The options of everything that generates.
//!
//! Owns their names, bounds and help. Must not know what a setting does to a text.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ingle_protocol::limits;
use ingle_protocol::wire::models::EngineKind;

use super::format::FormatOptions;
use super::value::duration;

/// Whether a model thinks before it answers.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Thinking {
    /// Let the model think first, where its template leaves a choice
    #[arg(long, overrides_with = "no_think")]
    think: bool,
    /// Have the model answer at once, where its template leaves a choice
    #[arg(long, overrides_with = "think")]
    no_think: bool,
}

impl Thinking {
    /// What was said of it, if anything was.
    pub(crate) fn wish(self) -> Option<bool> {
        (self.think || self.no_think).then_some(self.think)
    }
}

/// What comes after a gap that the model is to fill.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Gap {
    /// Fill the gap between the prompt and this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) suffix: Option<String>,
    /// Fill the gap between the prompt and the text of this file
    #[arg(long, value_name = "FILE", conflicts_with = "suffix")]
    pub(crate) suffix_file: Option<PathBuf>,
}

/// How to generate.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct GenerateOptions {
    /// Whether to think first, where that was said
    #[arg(skip)]
    pub(crate) thinks: Option<bool>,
    /// Name or path of the model; the default one when absent
    #[arg(long, short)]
    pub(crate) model: Option<String>,
    /// The engine to run it on, where its format leaves a choice
    #[arg(long, value_name = "gguf|mlx")]
    pub(crate) engine: Option<EngineKind>,
    /// Tokens to generate at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// How freely to draw; 0 always takes the likeliest token
    #[arg(long, value_name = "T", value_parser = at_least_zero)]
    pub(crate) temperature: Option<f32>,
    /// Draw from the K likeliest tokens only
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<u32>,
    /// Draw from the likeliest tokens that sum to P only
    #[arg(long, value_name = "P", value_parser = share)]
    pub(crate) top_p: Option<f32>,
    /// Leave out tokens less likely than this share of the likeliest
    #[arg(long, value_name = "P", value_parser = share)]
    pub(crate) min_p: Option<f32>,
    /// Make what the last tokens of prompt and text held less likely (above 1) or likelier
    #[arg(long, value_name = "X", value_parser = repetition)]
    pub(crate) repetition_penalty: Option<f32>,
    /// How many tokens the repetition penalty looks back on [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repetition_window: Option<u32>,
    /// Make a token less likely each time it is generated, by up to 2; below 0, likelier
    #[arg(long, value_name = "X", value_parser = additive, allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Make a token less likely once it has been generated, by up to 2; below 0, likelier
    #[arg(long, value_name = "X", value_parser = additive, allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Make a token likelier by up to 100, or less likely; may be given several times
    #[arg(long, value_name = "TOKEN=BIAS", value_parser = bias)]
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Generate so many texts from the one prompt
    #[arg(long, short = 'n', value_name = "N", value_parser = choices())]
    pub(crate) choices: Option<u32>,
    /// Draw the same way every time
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// With --json, give each token's log-probability
    #[arg(long)]
    pub(crate) logprobs: bool,
    /// With --json, give the log-probabilities of the K likeliest tokens at each place too
    #[arg(long, value_name = "K", default_value_t = 0, hide_default_value = true)]
    pub(crate) top_logprobs: usize,
    /// End the text at this string; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    #[command(flatten)]
    pub(crate) format: FormatOptions,
    /// Allow this much time, if it is less than the daemon would
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Say on standard error where the time went
    #[arg(long)]
    pub(crate) stats: bool,
    /// Fetch the model first, if need be, without asking
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
    let (token, bias) = text.split_once('=').ok_or("not of the form TOKEN=BIAS")?;
    let token = token.parse().map_err(|_| "the token must be an id; see `tokenize`".to_owned())?;
    Ok((token, within(bias, -100.0, 100.0)?))
}

fn choices() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=limits::CHOICES as i64)
}
