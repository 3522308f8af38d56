//! `GET /v1/models`, `/health` and `/metrics`.
//!
//! Owns the cache of the listing: looking through all folders takes milliseconds, and editors ask
//! for the list again and again.

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

use super::Edge;
use super::gate::Asked;
use super::problem::Problem;
use super::run::answer;
use super::types::models::{Health, Model, ModelList};
use ingle_service::metrics::text;

/// The last listing. Its lock is held while a new one is made, so that many who ask make one.
#[derive(Debug, Default)]
pub struct Listing(Mutex<Option<(Instant, Arc<ModelList>)>>);

impl Edge {
    /// The models that are here, as they were at most a moment ago, for the request called `id`.
    /// A disk that does not answer holds it no longer than its class's time.
    async fn models(&self, id: &str) -> Result<Arc<ModelList>, ErrorBody> {
        let context = self.context(id, Class::Simple, CancellationToken::new());
        self.service.within_deadline("listing the models", &context, self.listed()).await
    }

    async fn listed(&self) -> Result<Arc<ModelList>, ErrorBody> {
        let mut last = self.listing.0.lock().await;
        if let Some((at, list)) = &*last
            && at.elapsed() < Duration::from_millis(limits::HTTP_MODELS_MS)
        {
            return Ok(Arc::clone(list));
        }
        let list = self.service.list_models().await?;
        let here = list.models.into_iter().filter(|entry| {
            matches!(entry.state, ModelState::OnDisk | ModelState::Loading | ModelState::Loaded)
        });
        let here: Vec<ModelEntry> = here.collect();
        let data = tokio::task::spawn_blocking(move || here.into_iter().map(model).collect());
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

/// The models that are here.
///
/// # Errors
/// When the models folder cannot be read, and `TIMEOUT`.
pub async fn list(
    State(edge): State<Arc<Edge>>,
    Extension(asked): Extension<Asked>,
) -> Result<Response, Problem> {
    Ok(answer(&*edge.models(&asked.id).await?)?)
}

/// One of them. Its name may have slashes, escaped or not.
///
/// # Errors
/// `MODEL_NOT_FOUND`, and as for the list.
pub async fn retrieve(
    State(edge): State<Arc<Edge>>,
    Extension(asked): Extension<Asked>,
    uri: Uri,
) -> Result<Response, Problem> {
    let id = uri.path().strip_prefix("/v1/models/").unwrap_or_default();
    let id = unescaped(id);
    let list = edge.models(&asked.id).await?;
    let Some(model) = list.data.iter().find(|model| model.id.eq_ignore_ascii_case(&id)) else {
        let message = format!("the model `{id}` is not here");
        return Err(ErrorBody::new(ErrorCode::ModelNotFound, message).into());
    };
    Ok(answer(model)?)
}

/// `%2F` as `/`, and so on; what is no escape stays.
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

/// How the daemon is: 200 if it takes work, or else 503.
///
/// # Errors
/// None that a caller could meet.
pub async fn health(State(edge): State<Arc<Edge>>) -> Result<Response, Problem> {
    let health = edge.service.health();
    let (status, code) = match health.state {
        HealthState::Ok => ("ok", StatusCode::OK),
        HealthState::Degraded => ("degraded", StatusCode::SERVICE_UNAVAILABLE),
        HealthState::Draining => ("draining", StatusCode::SERVICE_UNAVAILABLE),
    };
    let phase = health.phase.name();
    let heartbeat_age_ms = health.heartbeat_age_ms;
    let mut response = answer(&Health { status, phase, heartbeat_age_ms })?;
    *response.status_mut() = code;
    Ok(response)
}

/// The daemon's metrics, as Prometheus reads them.
pub async fn metrics(State(edge): State<Arc<Edge>>) -> Response {
    let mut response = Response::new(Body::from(edge.service.metrics_text()));
    let kind = HeaderValue::from_static(text::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_and_what_is_none_stays() {
        assert_eq!(unescaped("org%2Fname%3aQ8"), "org/name:Q8");
        assert_eq!(unescaped("100%"), "100%");
        assert_eq!(unescaped("%zz%"), "%zz%");
        assert_eq!(unescaped("%C3%A4%ff"), "ä\u{fffd}");
    }
}
