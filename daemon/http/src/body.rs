//! JSON bodies of requests and responses.
//!
//! Owns the limits of a request body in bytes and time, the limit of all bodies together, and
//! errors down to the field. Does not know the types of bodies.

use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use axum::body::{Body, Bytes};
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::StreamExt;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Layer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::problem::Problem;

/// Extracts a JSON body of this type.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T, S> FromRequest<S> for Json<T>
where
    T: DeserializeOwned + Send + 'static,
    S: Send + Sync,
    BodyBudget: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        check_type(&request)?;
        let headers = request.headers();
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let announced = announced.and_then(|length| length.parse::<u64>().ok());
        // A client that waits for `100 Continue` has not sent the body yet, and need not.
        if headers.contains_key(EXPECT) && announced.is_some_and(|bytes| bytes > BODY_BYTES) {
            return Err(too_large());
        }
        let body = read(request.into_body(), &BodyBudget::from_ref(state)).await?;
        if body.bytes.len() <= limits::HTTP_BODY_BLOCKING_PARSE_BYTES {
            return parse(&body.bytes).map(Self);
        }
        // A blocking thread parses a large body, so that this thread keeps serving other streams.
        // The body keeps its permit until it is parsed, even if its client disconnects before.
        let parsed = tokio::task::spawn_blocking(move || parse(&body.bytes)).await;
        parsed.map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?.map(Self)
    }
}

const BODY_BYTES: u64 = limits::HTTP_BODY_BYTES as u64;

/// Memory for all request bodies that are being read. Clones share it.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Semaphore>);

/// A body with its permit.
#[derive(Debug, Default)]
struct BufferedBody {
    bytes: Vec<u8>,
    permit: Option<OwnedSemaphorePermit>,
}

impl BodyBudget {
    /// Bytes per permit. A semaphore cannot hold a permit for each byte.
    const PERMIT_BYTES: usize = 1024;

    /// A budget of `bytes` bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / Self::PERMIT_BYTES)))
    }

    /// Appends a chunk to a body, if the budget allows it.
    fn add(&self, body: &mut BufferedBody, chunk: &[u8]) -> Result<(), ErrorBody> {
        let bytes = body.bytes.len().saturating_add(chunk.len());
        let held = body.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(Self::PERMIT_BYTES).saturating_sub(held);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.0).try_acquire_many_owned(more).map_err(|_| {
            ErrorBody::overloaded("the request bodies in progress exceed the daemon's limit")
        })?;
        match &mut body.permit {
            Some(held) => held.merge(permit),
            None => body.permit = Some(permit),
        }
        body.bytes.extend_from_slice(chunk);
        Ok(())
    }
}

/// Requires the JSON content type. A browser lets any page send some other types without a
/// preflight request.
fn check_type(request: &Request) -> Result<(), Problem> {
    let found = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = found.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let found = found.map_or("has no content type".to_owned(), |found| format!("is `{found}`"));
    let error = ErrorBody::new(ErrorCode::InvalidRequest, format!("the body {found}"))
        .with_remediation("Send JSON with the header `Content-Type: application/json`.");
    Err(Problem::from(error).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// Reads the whole body, within its own limits and `budget`.
///
/// A body that is refused is still read to its end: a client that is still sending would see a
/// broken connection instead of the response.
async fn read(body: Body, budget: &BodyBudget) -> Result<BufferedBody, Problem> {
    let began_at = Instant::now();
    let until = began_at + Duration::from_millis(limits::HTTP_BODY_MS);
    let mut chunks = body.into_data_stream();
    let (mut received, mut buffered) = (0_usize, Ok(BufferedBody::default()));
    loop {
        let stall = Instant::now() + Duration::from_millis(limits::HTTP_BODY_STALL_MS);
        let chunk: Bytes = match tokio::time::timeout_at(stall.min(until), chunks.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                let message = format!("cannot read the body: {error}");
                return Err(ErrorBody::new(ErrorCode::InvalidRequest, message).into());
            }
            Err(_) => {
                let elapsed_ms = u64::try_from(began_at.elapsed().as_millis()).unwrap_or(u64::MAX);
                let limit_ms = elapsed_ms.min(limits::HTTP_BODY_MS);
                let error =
                    ErrorBody::timeout("sending the body", Layer::Daemon, limit_ms, elapsed_ms)
                        .with_remediation("Send the whole body at once.");
                return Err(error.into());
            }
        };
        received = received.saturating_add(chunk.len());
        if received > limits::HTTP_DISCARD_BYTES {
            break;
        }
        let outcome = match &mut buffered {
            _ if received > limits::HTTP_BODY_BYTES => Err(too_large()),
            Ok(body) => budget.add(body, &chunk).map_err(Problem::from),
            Err(_) => continue,
        };
        if let Err(problem) = outcome {
            buffered = Err(problem);
        }
    }
    buffered
}

fn too_large() -> Problem {
    let message = format!("the body exceeds {} bytes", limits::HTTP_BODY_BYTES);
    Problem::from(ErrorBody::new(ErrorCode::FrameTooLarge, message))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let problem = error.into_inner();
        match problem.classify() {
            Category::Data if path == "." => {
                ErrorBody::invalid("body", format!("is wrong: {problem}"))
            }
            Category::Data => ErrorBody::invalid(&path, format!("is wrong: {problem}")),
            _ => not_json(&problem),
        }
    })?;
    reader.end().map_err(|problem| not_json(&problem))?;
    Ok(parsed)
}

fn not_json(problem: &serde_json::Error) -> ErrorBody {
    ErrorBody::new(ErrorCode::ParseError, format!("the body is not JSON: {problem}"))
        .with_remediation("Send one JSON object.")
}

/// A response with a JSON body.
pub(super) fn json_response<T: Serialize>(value: &T) -> Result<Response, ErrorBody> {
    let bytes = serde_json::to_vec(value)
        .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?;
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crate::types::chat::ChatRequest;
    use axum::response::IntoResponse;

    fn refused(text: &str) -> (u16, String) {
        let problem = parse::<ChatRequest>(text.as_bytes()).unwrap_err();
        let shown = format!("{problem:?}");
        (problem.into_response().status().as_u16(), shown)
    }

    #[tokio::test]
    async fn bodies_share_a_byte_limit() {
        let budget = BodyBudget::new(4 * BodyBudget::PERMIT_BYTES);
        let body = |bytes: usize| Body::from(vec![b'x'; bytes]);
        let held = read(body(3_000), &budget).await.unwrap();
        assert_eq!((held.bytes.len(), budget.0.available_permits()), (3_000, 1));
        // A body is read to its end before it is refused.
        let read_on = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read_on);
        let chunks = (0..20).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(vec![b'x'; 100])
        });
        let long = Body::from_stream(futures_util::stream::iter(chunks));
        let refused = read(long, &budget).await.map(drop).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Overloaded);
        assert_eq!((read_on.load(Ordering::Relaxed), budget.0.available_permits()), (20, 1));
        read(body(1_024), &budget).await.unwrap();
        drop(held);
        assert_eq!(budget.0.available_permits(), 4);
    }

    #[test]
    fn broken_json_and_wrong_fields_differ() {
        for (text, status, named) in [
            ("", 400, "EOF"),
            ("{\"messages\": [", 400, "EOF"),
            ("{\"messages\": []} x", 400, "trailing"),
            (&"[".repeat(1_000), 422, "body"),
            ("[]", 422, "body"),
            ("{}", 422, "missing field `messages`"),
            (r#"{"messages": 3}"#, 422, "`messages`"),
            (r#"{"messages": [{"content": "x"}]}"#, 422, "messages[0]"),
            (r#"{"messages": [{"role": "king", "content": "x"}]}"#, 422, "messages[0].role"),
            (r#"{"messages": [], "temperature": "hot"}"#, 422, "`temperature`"),
            (r#"{"messages": [], "stop": 7}"#, 422, "`stop`"),
            (r#"{"messages": [], "tools": [{"type": "magic"}]}"#, 422, "tools[0].type"),
        ] {
            let (found, shown) = refused(text);
            assert_eq!(found, status, "{text} {shown}");
            assert!(shown.contains(named), "{text} {shown}");
        }
        assert!(
            parse::<ChatRequest>(br#"{"messages": [], "temperature": null, "new": 1}"#).is_ok()
        );
    }
}
