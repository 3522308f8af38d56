//! Tools for models and the server: `list_models`, `load_model`, `unload_model`, `server_status`.

use std::sync::Arc;
use std::time::Duration;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::limits;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::models::{LoadParams, ProgressEvent};
use rmcp::model::CallToolResult;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::arguments::{LoadModel, NoArguments, UnloadModel};
use super::call::ToolCall;
use super::outputs::{LoadingModel, Models, ResidentModel, ServerStatus, UnloadedModel};
use super::render::result;

/// Lists the models.
pub(super) async fn list(
    NoArguments {}: NoArguments,
    call: &ToolCall<'_>,
) -> Result<CallToolResult, ErrorBody> {
    result(&Models::from(call.host.service.list_models().await?), None)
}

/// Reports the state of the server.
pub(super) fn server_status(
    NoArguments {}: NoArguments,
    call: &ToolCall<'_>,
) -> Result<CallToolResult, ErrorBody> {
    result(&ServerStatus::new(call.host.service.status(), call.host.jobs.counts()), None)
}

/// Loads a model. A load that outlasts the host's timeout continues; the next call waits for it.
pub(super) async fn load(
    arguments: LoadModel,
    call: &ToolCall<'_>,
) -> Result<CallToolResult, ErrorBody> {
    let host = call.host;
    let due_at = Instant::now() + Duration::from_millis(host.timeout.due_ms());
    let LoadModel { model, keep_alive, pin } = arguments;
    let params = LoadParams { model, keep_alive, pin, ..LoadParams::default() };
    let name = params.model.clone().unwrap_or_else(|| host.service.default_model().to_owned());
    // Until the host has its reply, the end of the call cancels the load by dropping this guard.
    let cancel = host.service.draining().child_token();
    let guard = cancel.clone().drop_guard();
    let mut request = call.request(Class::Workflow, None);
    request.cancel = cancel;
    let (sender, mut events) = mpsc::channel(limits::PROGRESS_EVENTS);
    let service = Arc::clone(&host.service);
    let load = async move { service.load_model(&params, sender, &request).await };
    let mut load = tokio::spawn(load.instrument(Span::current()));
    let (mut progress, mut share) = (call.progress(), 0.0);
    loop {
        tokio::select! {
            // A load that ends exactly when the reply is due counts as loaded.
            biased;
            loaded = &mut load => {
                let loaded = loaded
                    .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))??;
                let text = format!("`{}` is loaded.", loaded.name);
                return result(&ResidentModel::from(loaded), Some(text));
            }
            () = tokio::time::sleep_until(due_at) => break,
            Some(event) = events.recv() => {
                let ProgressEvent::Progress { phase, done_bytes, total_bytes } = event;
                share = share_of(done_bytes, total_bytes);
                progress.send(share, &phase).await;
            }
        }
    }
    guard.disarm();
    let text = format!(
        "Not loaded yet ({:.0} %): the load of `{name}` continues. Call load_model again to wait \
         for it, or use the model: a call waits for it too.",
        share * 100.0
    );
    result(&LoadingModel::new(name, share), Some(text))
}

/// Unloads a model.
pub(super) async fn unload(
    arguments: UnloadModel,
    call: &ToolCall<'_>,
) -> Result<CallToolResult, ErrorBody> {
    let request = call.request(Class::Simple, None);
    let unloaded = call.host.service.unload_model(Some(&arguments.model), &request).await?;
    let (model, was_loaded) = (unloaded.model, unloaded.was_loaded);
    let text = match was_loaded {
        true => format!("`{model}` is no longer in memory."),
        false => format!("`{model}` was not in memory."),
    };
    result(&UnloadedModel { model, was_loaded }, Some(text))
}

/// The share of bytes that are loaded, 0 to 1.
fn share_of(done_bytes: u64, total_bytes: u64) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    let share = done_bytes as f32 / total_bytes.max(1) as f32;
    share.clamp(0.0, 1.0)
}
