//! `pull`, `models`, `ps`, `load` and `unload`, and the offer to pull a missing model.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::Path;

use ingle_client::client::{Call, Client};
use ingle_client::exit;
use ingle_protocol::error::ErrorCode;
use ingle_protocol::keep_alive::KeepAlive;
use ingle_protocol::wire::models::{
    EngineKind, EstimateModel, Fit, ListModels, LoadEstimate, LoadModel, LoadParams, LoadedModel,
    ModelEntry, ModelParams, ModelState, ProgressEvent, PullModel, PullParams, PullResult,
    UnloadModel,
};
use ingle_protocol::wire::status::Status;
use ingle_protocol::wire::{Method, NoParams};
use serde_json::json;

use crate::cli::LoadOptions;
use crate::context::{Context, model_argument};
use crate::output::{self, Failure, Outcome, Output};
use crate::progress::Progress;

/// Fetches a model.
pub(crate) async fn pull(context: &mut Context, model: &str, name: Option<String>) -> Outcome {
    let client = context.connect().await?;
    let params = PullParams { model: model_argument(model), name, stream: false };
    let result = pull_with_progress(&client, params).await?;
    if context.output.json {
        context.output.json(&result)?;
    } else if result.already_here {
        context.output.line(&format!("{} is already on disk", result.model))?;
    } else {
        // A model of several files has no single hash.
        let hash = match result.sha256.as_str() {
            "" => String::new(),
            hash => format!(", sha256 {hash}"),
        };
        let size = output::bytes(result.size_bytes);
        context.output.line(&format!("pulled {} ({size}{hash})", result.model))?;
    }
    Ok(exit::OK)
}

async fn pull_with_progress(client: &Client, params: PullParams) -> Result<PullResult, Failure> {
    let params = PullParams { stream: true, ..params };
    watched(client.start::<PullModel>(&params, PullModel::CLASS)?).await
}

/// Waits for a load or pull and shows its progress.
pub(crate) async fn watched<M: Method>(mut call: Call<M>) -> Result<M::Output, Failure> {
    let mut progress = Progress::new();
    while let Some(event) = call.event::<ProgressEvent>().await {
        progress.show(&event);
    }
    progress.clear();
    Ok(call.reply().await?)
}

/// Lists the models.
pub(crate) async fn list(context: &mut Context) -> Outcome {
    let Some(client) = context.connect_running().await? else {
        return list_folder(context);
    };
    let list = client.call::<ListModels>(&NoParams {}).await?;
    if context.output.json {
        context.output.json(&json!({
            "running": true, "default": list.default, "models": list.models,
        }))?;
        return Ok(exit::OK);
    }
    let rows = list.models.into_iter().map(|model| {
        let mark = if model.name == list.default { " (default)" } else { "" };
        [
            format!("{}{mark}", model.name),
            state(model.state).to_owned(),
            source(&model.source).to_owned(),
            model.format,
            output::bytes(model.size_bytes),
            model.description,
        ]
    });
    let rows = rows.collect();
    context.output.table(["NAME", "STATE", "FROM", "FORMAT", "SIZE", "ABOUT"], &["SIZE"], rows)?;
    Ok(exit::OK)
}

fn state(state: ModelState) -> &'static str {
    match state {
        ModelState::Available => "not here",
        ModelState::OnDisk => "on disk",
        ModelState::Loading => "loading",
        ModelState::Loaded => "loaded",
        ModelState::Broken => "broken",
        ModelState::Quarantined => "crashed",
    }
}

/// The name of the library that a model is in.
fn source(source: &str) -> &str {
    match source {
        "huggingface" => "Hugging Face",
        "lm_studio" => "LM Studio",
        other => other,
    }
}

/// Lists the models folder, when no daemon runs.
fn list_folder(context: &mut Context) -> Outcome {
    let models = models_in(&context.paths.models_dir());
    if context.output.json {
        context.output.json(&json!({ "running": false, "default": null, "models": models }))?;
        return Ok(exit::OK);
    }
    if models.is_empty() {
        context.output.line("no models on disk")?;
    } else {
        let rows = models.into_iter().map(|model| [model.name, output::bytes(model.size_bytes)]);
        let rows = rows.collect();
        context.output.table(["NAME", "SIZE"], &["SIZE"], rows)?;
    }
    context.output.note("note: ingled is not running, so only the models folder is listed");
    Ok(exit::OK)
}

fn models_in(folder: &Path) -> Vec<ModelEntry> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut models: Vec<ModelEntry> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let is_folder = fs::metadata(entry.path()).ok()?.is_dir();
            let name = if is_folder { name } else { name.strip_suffix(".gguf")?.to_owned() };
            (!name.starts_with('.')).then(|| ModelEntry {
                name,
                format: String::new(),
                size_bytes: size_of(&entry.path()),
                state: ModelState::OnDisk,
                source: "ingle".to_owned(),
                path: entry.path().to_str().map(str::to_owned),
                description: String::new(),
            })
        })
        .collect();
    models.sort_by(|a, b| a.name.cmp(&b.name));
    models
}

/// Bytes of a file, or of the files of a folder.
fn size_of(path: &Path) -> u64 {
    let files = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let files: Vec<_> = if path.is_dir() { files.collect() } else { vec![path.to_owned()] };
    let sizes = files.iter().filter_map(|file| fs::metadata(file).ok());
    sizes.filter(fs::Metadata::is_file).map(|metadata| metadata.len()).sum()
}

/// Lists the models in memory. Without a daemon there are none.
pub(crate) async fn ps(context: &mut Context) -> Outcome {
    let client = context.connect_running().await?;
    let models = match &client {
        Some(client) => client.call::<Status>(&NoParams {}).await?.models,
        None => Vec::new(),
    };
    if context.output.json {
        context.output.json(&json!({ "running": client.is_some(), "models": models }))?;
    } else if client.is_none() {
        context.output.line("no models in memory: ingled is not running")?;
    } else if models.is_empty() {
        context.output.line("no models in memory")?;
    } else {
        loaded_table(&mut context.output, &models)?;
    }
    Ok(exit::OK)
}

/// Prints models in memory.
pub(crate) fn loaded_table(output: &mut Output, models: &[LoadedModel]) -> Result<(), Failure> {
    let rows = models.iter().map(|model| {
        [
            model.name.clone(),
            model.engine.clone(),
            model.architecture.clone(),
            output::bytes(model.weight_bytes),
            output::bytes(model.kv_bytes.saturating_sub(model.prompt_cache_bytes)),
            output::bytes(model.prompt_cache_bytes),
            model.context_tokens.to_string(),
            model.active.to_string(),
            stays(model),
        ]
    });
    output.table(
        [
            "MODEL",
            "ENGINE",
            "ARCHITECTURE",
            "WEIGHTS",
            "KV CACHE",
            "KEPT",
            "CONTEXT",
            "RUNNING",
            "STAYS",
        ],
        &["WEIGHTS", "KV CACHE", "KEPT", "CONTEXT", "RUNNING"],
        rows.collect(),
    )
}

/// The time that a model stays in memory.
fn stays(model: &LoadedModel) -> String {
    match (model.pinned, model.expires_in_s) {
        (true, _) => "pinned".to_owned(),
        (false, Some(left)) => output::seconds(left),
        (false, None) => match model.keep_alive {
            KeepAlive::Forever => "forever".to_owned(),
            keep_alive @ KeepAlive::For(_) => format!("{keep_alive} after use"),
        },
    }
}

/// Loads a model.
pub(crate) async fn load(context: &mut Context, options: &LoadOptions) -> Outcome {
    let client = context.connect().await?;
    let model = options.model.as_deref().map(model_argument);
    if options.estimate {
        return estimate(context, &client, model, options.engine).await;
    }
    let params = LoadParams {
        model: model.clone(),
        engine: options.engine,
        keep_alive: options.keep_alive,
        pin: (options.pin || options.no_pin).then_some(options.pin),
        force: options.force,
        stream: true,
    };
    let load = || async { watched(client.start::<LoadModel>(&params, LoadModel::CLASS)?).await };
    let loaded = match load().await {
        Err(failure) => {
            pull_if_missing(context, &client, failure, model.as_deref(), options.yes).await?;
            load().await?
        }
        loaded => loaded?,
    };
    if context.output.json {
        context.output.json(&loaded)?;
    } else {
        context.output.line(&format!(
            "loaded {} ({}, {}, {}) in {}",
            loaded.name,
            loaded.engine,
            loaded.architecture,
            output::bytes(loaded.weight_bytes),
            output::milliseconds(loaded.load_ms)
        ))?;
    }
    Ok(exit::OK)
}

/// Prints the memory that a load needs.
async fn estimate(
    context: &mut Context,
    client: &Client,
    model: Option<String>,
    engine: Option<EngineKind>,
) -> Outcome {
    let params = LoadParams { model, engine, ..LoadParams::default() };
    let estimate = client.call::<EstimateModel>(&params).await?;
    if context.output.json {
        context.output.json(&estimate)?;
        return Ok(exit::OK);
    }
    for (name, value) in estimate_lines(&estimate) {
        context.output.line(&format!("{name:<15} {value}"))?;
    }
    Ok(exit::OK)
}

fn estimate_lines(estimate: &LoadEstimate) -> Vec<(&'static str, String)> {
    let fits = match estimate.fit {
        Fit::Now if estimate.is_loaded => "it is already loaded".to_owned(),
        Fit::Now => "yes".to_owned(),
        Fit::AfterEvictions => "yes, after evictions".to_owned(),
        Fit::WhenIdle => "only when a model in use becomes idle".to_owned(),
        Fit::Never => "no".to_owned(),
    };
    let mut lines = vec![
        ("model", format!("{} ({})", estimate.model, estimate.engine)),
        ("weights", output::bytes(estimate.weight_bytes)),
    ];
    if estimate.overhead_bytes > 0 {
        lines.push(("besides", output::bytes(estimate.overhead_bytes)));
    }
    lines.extend([
        ("while loading", output::bytes(estimate.staging_bytes)),
        (
            "KV cache",
            format!(
                "{} per 1000 tokens, {} for all {}",
                output::bytes(estimate.kv_bytes_per_1k_tokens),
                output::bytes(estimate.kv_bytes_full_context),
                estimate.context_tokens
            ),
        ),
        (
            "free",
            format!(
                "{} of {}",
                output::bytes(estimate.free_bytes),
                output::bytes(estimate.budget_bytes)
            ),
        ),
        ("fits", fits),
    ]);
    for eviction in &estimate.evictions {
        let what = if eviction.unloads { "" } else { "'s prompt cache" };
        let bytes = output::bytes(eviction.bytes);
        lines.push(("evicts", format!("{}{what} ({bytes})", eviction.model)));
    }
    if let Some(shortage) = &estimate.shortage {
        lines.push(("because", shortage.clone()));
    }
    lines
}

/// Unloads a model. Without a daemon there is none to unload.
pub(crate) async fn unload(context: &mut Context, model: Option<&str>) -> Outcome {
    let Some(client) = context.connect_running().await? else {
        if context.output.json {
            context
                .output
                .json(&json!({ "running": false, "model": model, "was_loaded": false }))?;
        } else {
            context.output.line("no models in memory: ingled is not running")?;
        }
        return Ok(exit::OK);
    };
    let params = ModelParams { model: model.map(model_argument), stream: false };
    let result = client.call::<UnloadModel>(&params).await?;
    if context.output.json {
        context.output.json(&result)?;
    } else if result.was_loaded {
        context.output.line(&format!("unloaded {}", result.model))?;
    } else {
        context.output.line(&format!("{} was not loaded", result.model))?;
    }
    Ok(exit::OK)
}

/// The offer to pull a missing model.
pub(crate) struct PullOffer {
    model: String,
    /// Bytes to fetch, where they are known.
    size_bytes: Option<u64>,
}

impl PullOffer {
    /// The offer after a failure because `model` is missing. `None` for other failures, or when the
    /// model cannot be pulled.
    pub(crate) async fn of(
        client: &Client,
        failure: &Failure,
        model: Option<&str>,
    ) -> Result<Option<Self>, Failure> {
        let Failure::Error { body, .. } = failure else { return Ok(None) };
        if body.code != ErrorCode::ModelNotFound {
            return Ok(None);
        }
        let list = client.call::<ListModels>(&NoParams {}).await?;
        // A model that is not in the list, such as a repository, may still be pulled by the daemon.
        let can_pull = body.details["can_pull"] == true;
        let named = body.details["model"].as_str().filter(|_| can_pull);
        let wanted = named.or(model).unwrap_or(&list.default);
        let entry = list.models.iter().find(|entry| {
            entry.name.eq_ignore_ascii_case(wanted) && entry.state == ModelState::Available
        });
        Ok(match (entry, named) {
            (Some(entry), _) => {
                Some(Self { model: entry.name.clone(), size_bytes: Some(entry.size_bytes) })
            }
            (None, Some(named)) => Some(Self { model: named.to_owned(), size_bytes: None }),
            (None, None) => None,
        })
    }

    /// The question for the user.
    pub(crate) fn question(&self) -> String {
        format!("Pull {}{} now? [Y/n] ", self.model, self.size())
    }

    /// The failure when the offer is declined.
    pub(crate) fn declined(&self, failure: Failure) -> Failure {
        let Failure::Error { body, exit_code } = failure else { return failure };
        let hint = format!("Run `ingle pull {}`{} first, or add `--yes`.", self.model, self.size());
        Failure::Error { body: Box::new(body.with_remediation(hint)), exit_code }
    }

    /// Pulls the model.
    pub(crate) async fn accept(&self, client: &Client) -> Result<(), Failure> {
        let params = PullParams { model: self.model.clone(), ..PullParams::default() };
        pull_with_progress(client, params).await.map(drop)
    }

    fn size(&self) -> String {
        self.size_bytes.map(|bytes| format!(" ({})", output::bytes(bytes))).unwrap_or_default()
    }
}

/// Whether the input agrees. Empty input means yes.
pub(crate) fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes")
}

/// Pulls a missing model after a failure, if it can be pulled and the user agrees.
///
/// Otherwise the failure is returned, with the command to pull as its hint. Only for a process that
/// Ctrl-C ends: reading the answer cannot be stopped.
pub(crate) async fn pull_if_missing(
    context: &mut Context,
    client: &Client,
    failure: Failure,
    model: Option<&str>,
    yes: bool,
) -> Result<(), Failure> {
    let Some(offer) = PullOffer::of(client, &failure, model).await? else { return Err(failure) };
    let may_ask = !context.output.json && context.output.is_watched() && io::stdin().is_terminal();
    let agreed = yes || (may_ask && ask(context, &offer.question()).await?);
    if agreed { offer.accept(client).await } else { Err(offer.declined(failure)) }
}

async fn ask(context: &mut Context, question: &str) -> Result<bool, Failure> {
    context.output.ask(question);
    // On a thread of its own, so that the daemon's frames are read meanwhile.
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|read| (read, answer))
    });
    let (read, answer) = answer.await.map_err(io::Error::other)??;
    Ok(read > 0 && is_yes(&answer))
}
