//! Models, health and metrics: `GET /v1/models`, `/health` and `/metrics`.
//!
//! Owns the cache of the model list: scanning all folders takes milliseconds, and editors request the
//! list often.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::limits;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::Response;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::models::{ModelEntry, ModelState};
use ingle_protocol::wire::status::HealthState;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::body::json_response;
use super::middleware::RequestId;
use super::problem::Problem;
use super::types::models::{Health, Model, ModelList};
use ingle_service::metrics::text;

/// The last model list. Its lock is held while a new list is made, so that concurrent requests share
/// one scan.
#[derive(Debug, Default)]
pub struct ModelListCache(Mutex<Option<(Instant, Arc<ModelList>)>>);

impl Api {
    /// The installed models, at most [`limits::HTTP_MODELS_MS`] old, for the request `id`. The class's
    /// timeout bounds a disk that does not respond.
    async fn models(&self, id: &str) -> Result<Arc<ModelList>, ErrorBody> {
        let context = self.context(id, Class::Simple, CancellationToken::new());
        self.service.within_deadline("listing the models", &context, self.cached_models()).await
    }

    async fn cached_models(&self) -> Result<Arc<ModelList>, ErrorBody> {
        let mut last = self.model_list.0.lock().await;
        if let Some((at, list)) = &*last
            && at.elapsed() < Duration::from_millis(limits::HTTP_MODELS_MS)
        {
            return Ok(Arc::clone(list));
        }
        let list = self.service.list_models().await?;
        let installed = list.models.into_iter().filter(|entry| {
            matches!(entry.state, ModelState::OnDisk | ModelState::Loading | ModelState::Loaded)
        });
        let installed: Vec<ModelEntry> = installed.collect();
        let data = tokio::task::spawn_blocking(move || installed.into_iter().map(model).collect());
        let data =
            data.await.map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?;
        let list = Arc::new(ModelList { object: "list", data });
        *last = Some((Instant::now(), Arc::clone(&list)));
        Ok(list)
    }
}

fn model(entry: ModelEntry) -> Model {
    let written = entry.path.as_deref().map(Path::new).and_then(|path| path.metadata().ok());
    let written = written.and_then(|metadata| metadata.modified().ok());
    let since = written.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    Model {
        id: entry.name,
        object: "model",
        created: since.map_or(0, |since| since.as_secs()),
        owned_by: entry.source,
    }
}

/// Lists the installed models.
///
/// # Errors
/// A models folder that cannot be read, and `TIMEOUT`.
pub async fn list(
    State(api): State<Arc<Api>>,
    Extension(id): Extension<RequestId>,
) -> Result<Response, Problem> {
    Ok(json_response(&*api.models(&id.0).await?)?)
}

/// Describes one installed model. Its name may have slashes, escaped or not.
///
/// # Errors
/// `MODEL_NOT_FOUND`, and as for the list.
pub async fn retrieve(
    State(api): State<Arc<Api>>,
    Extension(id): Extension<RequestId>,
    uri: Uri,
) -> Result<Response, Problem> {
    let name = unescaped(uri.path().strip_prefix("/v1/models/").unwrap_or_default());
    let list = api.models(&id.0).await?;
    let Some(model) = list.data.iter().find(|model| model.id.eq_ignore_ascii_case(&name)) else {
        let message = format!("the model `{name}` is not installed");
        return Err(ErrorBody::new(ErrorCode::ModelNotFound, message).into());
    };
    Ok(json_response(model)?)
}

/// Decodes percent escapes such as `%2F`. A `%` that begins no escape stays.
fn unescaped(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let (bytes, mut plain, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                plain.push(u8::try_from(high * 16 + low).unwrap_or(byte));
                at += 3;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Reports the daemon's health: 200 if it accepts work, or else 503.
///
/// # Errors
/// None in practice: the report can always be serialized.
pub async fn health(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let health = api.service.health();
    let (status, code) = match health.state {
        HealthState::Ok => ("ok", StatusCode::OK),
        HealthState::Degraded => ("degraded", StatusCode::SERVICE_UNAVAILABLE),
        HealthState::Draining => ("draining", StatusCode::SERVICE_UNAVAILABLE),
    };
    let phase = health.phase.name();
    let heartbeat_age_ms = health.heartbeat_age_ms;
    let mut response = json_response(&Health { status, phase, heartbeat_age_ms })?;
    *response.status_mut() = code;
    Ok(response)
}

/// The daemon's metrics in Prometheus's text format.
pub async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let mut response = Response::new(Body::from(api.service.metrics_text()));
    let kind = HeaderValue::from_static(text::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_escapes_are_decoded() {
        assert_eq!(unescaped("org%2Fname%3aQ8"), "org/name:Q8");
        assert_eq!(unescaped("100%"), "100%");
        assert_eq!(unescaped("%zz%"), "%zz%");
        assert_eq!(unescaped("%C3%A4%ff"), "ä\u{fffd}");
    }
}
