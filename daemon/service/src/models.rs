//! The model API: list, load, estimate, unload and pull.
//!
//! Owns what these calls mean. `model_cache` finds and opens models, the engine thread loads them.

use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::models::{
    EngineKind, LoadEstimate, LoadParams, LoadedModel, ModelEntry, ModelList, ModelState,
    ProgressEvent, PullParams, PullResult, UnloadResult,
};
use tokio::sync::{mpsc, oneshot};

use crate::blocking::blocking;
use crate::model_cache::{OpenModel, version};
use crate::request::{RequestContext, record_model};
use crate::service::Service;
use ingle_models::{PullOutcome, PullProgress};
use ingle_scheduler::command::Command;
use ingle_scheduler::error::EngineFailure;
use ingle_scheduler::memory::ModelOptions;
use ingle_scheduler::quarantine::{Deaths, version_hash};

impl Service {
    /// Finds and opens a model for `engine`, else for the engine it is loaded on.
    ///
    /// # Errors
    /// As [`ModelCache::open`].
    ///
    /// [`ModelCache::open`]: crate::model_cache::ModelCache::open
    pub(crate) async fn open(
        &self,
        name: Option<&str>,
        engine: Option<EngineKind>,
    ) -> Result<Arc<OpenModel>, ErrorBody> {
        let status = self.engine.status();
        // A load in progress counts too: a request for another engine would be refused.
        let resident = |name: &str| {
            let mut engines = status.engines.iter();
            engines.find(|(model, _)| model == name).map(|&(_, engine)| engine)
        };
        let open = self.models.open(name, engine, resident).await?;
        record_model(&open.engine.name);
        Ok(open)
    }

    /// The model of requests that name none.
    #[must_use]
    pub fn default_model(&self) -> &str {
        self.models.default_model()
    }

    /// All models that are on disk or in the catalogue.
    ///
    /// # Errors
    /// When the models folder cannot be read.
    pub async fn list_models(&self) -> Result<ModelList, ErrorBody> {
        let store = self.models.store().clone();
        let engine = self.engine.status();
        let crashed = engine.quarantined;
        let (entries, crashed) = blocking(move || {
            let is_same = |(name, deaths): &(String, Deaths)| {
                let source = store.resolve(Some(name));
                source.is_ok_and(|source| {
                    let engines = EngineKind::ALL.into_iter();
                    engines
                        .map(|engine| version_hash(&version(&source, engine)))
                        .any(|version| deaths.version == version)
                })
            };
            let crashed: Vec<_> = crashed.into_iter().filter(is_same).collect();
            Ok((store.list()?, crashed))
        })
        .await?;
        let models = entries.into_iter().map(|entry| {
            let entry = ModelEntry::from(entry);
            let crashed = crashed.iter().find(|(crashed, _)| *crashed == entry.name);
            let crashed = crashed.map(|(_, deaths)| format!("it {deaths}"));
            let state = if engine.models.iter().any(|loaded| loaded.name == entry.name) {
                ModelState::Loaded
            } else if engine.loading.contains(&entry.name) {
                ModelState::Loading
            } else if entry.state == ModelState::OnDisk && crashed.is_some() {
                ModelState::Quarantined
            } else {
                entry.state
            };
            let description = match crashed {
                Some(crashed) if state == ModelState::Quarantined => crashed,
                _ => entry.description,
            };
            ModelEntry { state, description, ..entry }
        });
        Ok(ModelList { default: self.models.default_model().to_owned(), models: models.collect() })
    }

    /// Loads a model, or waits for the load in progress.
    ///
    /// # Errors
    /// What opening or loading reports; `TIMEOUT` at the daemon's limit.
    pub async fn load_model(
        &self,
        params: &LoadParams,
        progress: mpsc::Sender<ProgressEvent>,
        context: &RequestContext,
    ) -> Result<LoadedModel, ErrorBody> {
        let open = self
            .engine_step(
                "opening the model",
                context,
                self.open(params.model.as_deref(), params.engine),
            )
            .await?;
        let (done, outcome) = oneshot::channel();
        let model = open.engine.clone();
        let options = ModelOptions { keep_alive: params.keep_alive, pin: params.pin };
        let force = params.force;
        let span = tracing::Span::current();
        self.engine.send(Command::Load { model, options, force, span, progress, done })?;
        self.engine_reply("loading the model", context, outcome).await
    }

    /// Estimates the memory of a load and what it would evict. Loads nothing.
    ///
    /// # Errors
    /// What opening the model reports; `TIMEOUT` at the daemon's limit.
    pub async fn estimate_model(
        &self,
        params: &LoadParams,
        context: &RequestContext,
    ) -> Result<LoadEstimate, ErrorBody> {
        let open = self
            .engine_step(
                "opening the model",
                context,
                self.open(params.model.as_deref(), params.engine),
            )
            .await?;
        let (done, outcome) = oneshot::channel();
        self.engine.send(Command::Estimate { model: open.engine.clone(), done })?;
        self.engine_reply("estimating the load", context, outcome).await
    }

    /// Unloads a model.
    ///
    /// # Errors
    /// `CONFLICT` while generations run on it.
    pub async fn unload_model(
        &self,
        name: Option<&str>,
        context: &RequestContext,
    ) -> Result<UnloadResult, ErrorBody> {
        let model =
            match self.engine_step("finding the model", context, self.models.resolve(name)).await {
                Ok(source) => source.name,
                // A model whose files were removed can still be in memory.
                Err(error) => match name.filter(|name| self.is_in_memory(name)) {
                    Some(name) => name.to_owned(),
                    None => return Err(error),
                },
            };
        // First, so that the engine returns this memory too when it returns free memory.
        self.models.forget(&model);
        let (done, outcome) = oneshot::channel();
        self.engine.send(Command::Unload { name: model.clone(), done })?;
        let was_loaded = self.engine_reply("unloading the model", context, outcome).await?;
        Ok(UnloadResult { model, was_loaded })
    }

    /// Downloads a model. Two requests share one download.
    ///
    /// # Errors
    /// `PULL_FAILED` with the next step.
    pub async fn pull_model(
        &self,
        params: &PullParams,
        progress: mpsc::Sender<ProgressEvent>,
        context: &RequestContext,
    ) -> Result<PullResult, ErrorBody> {
        let mut report = |now: PullProgress| {
            // A report that finds the channel full is dropped; the next one says more.
            let _ = progress.try_send(ProgressEvent::Progress {
                phase: now.phase.as_str().to_owned(),
                done_bytes: now.done_bytes,
                total_bytes: now.total_bytes,
            });
        };
        let pull = self.puller.pull(&params.model, params.name.as_deref(), &mut report);
        let limit = Duration::from_millis(limits::PULL_MS);
        tokio::select! {
            () = context.cancel.cancelled() => Err(EngineFailure::Cancelled.into()),
            outcome = tokio::time::timeout(limit, pull) => match outcome {
                Ok(outcome) => {
                    let PullOutcome { name, size_bytes, sha256, already_here } = outcome?;
                    self.engine.announce_models();
                    Ok(PullResult { model: name, size_bytes, sha256, already_here })
                }
                Err(_) => Err(ErrorBody::new(
                    ErrorCode::Timeout,
                    format!("the download took longer than {} minutes", limits::PULL_MS / 60_000),
                )),
            },
        }
    }

    fn is_in_memory(&self, name: &str) -> bool {
        let status = self.engine.status();
        status.models.iter().any(|model| model.name == name)
            || status.loading.iter().any(|loading| loading == name)
    }

    /// Ends the downloads in progress and waits for the end of their processes.
    pub async fn shutdown_downloads(&self) {
        self.puller.shutdown().await;
    }
}
