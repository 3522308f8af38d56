//! `bench`: measures the speed of a model through the daemon.
//!
//! Owns the order of a measurement: load, warm up, rounds. The figures are the daemon's own timings
//! of each reply; the prompts are new in every round, so that the prompt cache does not help.

mod figures;
mod prompt;

use std::time::Instant;

use ingle_client::client::Client;
use ingle_client::exit;
use ingle_protocol::error::ErrorCode;
use ingle_protocol::limits;
use ingle_protocol::wire::generate::{Generate, GenerateParams};
use ingle_protocol::wire::models::{LoadModel, LoadParams, LoadedModel, ModelParams, UnloadModel};
use ingle_protocol::wire::status::{Status, StatusReply};
use ingle_protocol::wire::{Method, NoParams};
use serde_json::json;

use self::figures::{Figures, Round, Statistic};
use self::prompt::Prompts;
use super::models::{pull_if_missing, watched};
use crate::cli::BenchOptions;
use crate::context::{Context, model_argument};
use crate::output::{self, Failure, Outcome};
use crate::progress::Progress;

/// Tokens generated in the warm-up round.
const WARM_UP_TOKENS: u32 = 8;

/// Measures the speed of a model.
pub(crate) async fn run(context: &mut Context, options: &BenchOptions) -> Outcome {
    let client = context.connect().await?;
    let model = options.model.as_deref().map(model_argument);
    let before = status(&client).await?;
    if before.active + before.queued > 0 {
        context.output.note(&format!(
            "warning: other generations (running: {}, waiting: {}) will distort the figures",
            before.active, before.queued
        ));
    }
    let loaded = load(context, &client, model, options).await?;
    check_context(&loaded, options)?;
    let mut bench = Bench {
        prompts: Prompts::new(client.clone(), loaded.name.clone(), options.engine),
        client,
        model: loaded.name.clone(),
        options,
        progress: Progress::new(),
        generations: 0,
    };
    let before = status(&bench.client).await?.generations;
    let mut results = Vec::with_capacity(options.concurrency.len());
    for &at_once in &options.concurrency {
        results.push(bench.measure(at_once).await?);
    }
    let after = status(&bench.client).await?.generations;
    let others = after.saturating_sub(before).saturating_sub(bench.generations);
    bench.progress.clear();
    report(context, options, &loaded, &results, others)
}

async fn status(client: &Client) -> Result<StatusReply, Failure> {
    Ok(client.call::<Status>(&NoParams {}).await?)
}

/// Loads the model; with `--cold` always from disk.
async fn load(
    context: &mut Context,
    client: &Client,
    model: Option<String>,
    options: &BenchOptions,
) -> Result<LoadedModel, Failure> {
    let params = LoadParams {
        model: model.clone(),
        engine: options.engine,
        stream: true,
        ..LoadParams::default()
    };
    if options.cold {
        let params = ModelParams { model: model.clone(), stream: false };
        match client.call::<UnloadModel>(&params).await {
            // A missing model may be pulled below.
            Ok(_) => {}
            Err(error) if error.code == ErrorCode::ModelNotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    let load = || async { watched(client.start::<LoadModel>(&params, LoadModel::CLASS)?).await };
    match load().await {
        Err(failure) => {
            pull_if_missing(context, client, failure, model.as_deref(), options.yes).await?;
            load().await
        }
        loaded => loaded,
    }
}

fn check_context(loaded: &LoadedModel, options: &BenchOptions) -> Result<(), Failure> {
    let wanted = u64::from(options.prompt_tokens) + u64::from(options.gen_tokens);
    if wanted <= loaded.context_tokens as u64 {
        return Ok(());
    }
    let message = format!(
        "{} prompt and {} generated tokens do not fit the context of {}, which is {} tokens",
        options.prompt_tokens, options.gen_tokens, loaded.name, loaded.context_tokens
    );
    Err(Failure::usage(message, "Give a smaller --prompt-tokens or --gen-tokens."))
}

struct Bench<'a> {
    client: Client,
    prompts: Prompts,
    model: String,
    options: &'a BenchOptions,
    progress: Progress,
    /// The number of generations started so far.
    generations: u64,
}

impl Bench<'_> {
    /// Measures all rounds with this number of concurrent requests, after a warm-up round: the
    /// daemon's prefill chunks follow the engine's speed, and caches are cold.
    async fn measure(&mut self, at_once: usize) -> Result<Figures, Failure> {
        let words = format!("{at_once} at once");
        self.progress.say("bench", &format!("{words}, warming up"));
        self.round(at_once, self.options.gen_tokens.min(WARM_UP_TOKENS)).await?;
        let mut rounds = Vec::new();
        for number in 1..=self.options.rounds {
            let message = format!("{words}, round {number} of {}", self.options.rounds);
            self.progress.say("bench", &message);
            rounds.push(self.round(at_once, self.options.gen_tokens).await?);
        }
        Ok(Figures::of(at_once, &rounds))
    }

    async fn round(&mut self, at_once: usize, gen_tokens: u32) -> Result<Round, Failure> {
        let prompt_tokens = self.options.prompt_tokens as usize;
        let mut requests = Vec::with_capacity(at_once);
        for _ in 0..at_once {
            requests.push(GenerateParams {
                model: Some(self.model.clone()),
                engine: self.options.engine,
                prompt: Some(self.prompts.next(prompt_tokens).await?),
                max_tokens: Some(gen_tokens),
                ignore_eos: true,
                ..GenerateParams::default()
            });
        }
        let started_at = Instant::now();
        let mut calls = Vec::with_capacity(at_once);
        for params in &requests {
            calls.push(self.client.start::<Generate>(params, params.class())?);
            self.generations += 1;
        }
        let mut results = Vec::with_capacity(at_once);
        for call in calls {
            results.push(call.reply().await?);
        }
        Ok(Round { seconds: started_at.elapsed().as_secs_f64(), results })
    }
}

fn report(
    context: &mut Context,
    options: &BenchOptions,
    loaded: &LoadedModel,
    results: &[Figures],
    others: u64,
) -> Outcome {
    if context.output.json {
        context.output.json(&json!({
            "model": loaded.name,
            "engine": loaded.engine,
            "architecture": loaded.architecture,
            "weight_bytes": loaded.weight_bytes,
            "load": { "ms": loaded.load_ms, "cold": options.cold },
            "prompt_tokens": options.prompt_tokens,
            "gen_tokens": options.gen_tokens,
            "rounds": options.rounds,
            "other_generations": others,
            "results": results,
        }))?;
    } else {
        context.output.line(&format!(
            "{} on {} ({}, {}), loaded in {}; {} rounds",
            loaded.name,
            loaded.engine,
            loaded.architecture,
            output::bytes(loaded.weight_bytes),
            output::milliseconds(loaded.load_ms),
            options.rounds,
        ))?;
        context.output.line("")?;
        let headings = [
            "AT ONCE",
            "TOKENS",
            "FIRST TOKEN",
            "PROMPT tok/s",
            "DECODE tok/s",
            "ALL PROMPTS tok/s",
            "ALL OUTPUT tok/s",
        ];
        let rows = results.iter().map(row).collect();
        context.output.table(headings, &headings, rows)?;
        context.output.line("")?;
        context.output.line("median (best); ALL: total rate of the concurrent requests")?;
    }
    let cached: usize = results.iter().map(|figures| figures.cached_tokens).sum();
    if cached > 0 {
        context.output.note(&format!(
            "warning: {cached} prompt tokens came from the prompt cache and are not in the rates"
        ));
    }
    if others > 0 {
        context.output.note(&format!(
            "warning: {others} other generations ran during the measurement; the figures are too low"
        ));
    }
    let most = results.iter().map(|figures| figures.at_once).max().unwrap_or(0);
    if most > limits::CONCURRENT_GENERATIONS {
        context.output.note(&format!(
            "note: the daemon runs {} generations at once; the other requests had to wait",
            limits::CONCURRENT_GENERATIONS
        ));
    }
    Ok(exit::OK)
}

fn row(figures: &Figures) -> [String; 7] {
    let rate = |spread: &Statistic| format!("{:.1} ({:.1})", spread.median, spread.best);
    let ttft = &figures.ttft_ms;
    [
        figures.at_once.to_string(),
        format!("{} + {}", figures.prompt_tokens, figures.completion_tokens),
        format!("{} ({})", output::milliseconds(ttft.median), output::milliseconds(ttft.best)),
        rate(&figures.prompt_tokens_per_s),
        rate(&figures.decode_tokens_per_s),
        rate(&figures.all_prompt_tokens_per_s),
        rate(&figures.all_output_tokens_per_s),
    ]
}
