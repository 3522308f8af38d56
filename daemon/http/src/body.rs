//! Reading a request's JSON body.
//!
//! Owns its limits in bytes and time, those of all bodies together, and what is wrong with it, down to
//! the member. Knows nothing of what the body says.

use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use futures_util::StreamExt;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::Layer;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Edge;
use super::problem::Problem;

/// A body that is JSON of this type.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Arc<Edge>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, edge: &Arc<Edge>) -> Result<Self, Problem> {
        check_type(&request)?;
        let headers = request.headers();
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let announced = announced.and_then(|length| length.parse::<u64>().ok());
        // Whoever waits to be told to go on has sent nothing yet, and need not.
        if headers.contains_key(EXPECT) && announced.is_some_and(|bytes| bytes > BODY_BYTES) {
            return Err(too_large());
        }
        let body = read(request.into_body(), &edge.bodies).await?;
        if body.bytes.len() <= limits::HTTP_BODY_PARSED_APART_BYTES {
            return parse(&body.bytes).map(Self);
        }
        // Streams of others are served by this thread meanwhile. The body is there until it has been
        // parsed, though its request may have gone, and so is its room.
        let parsed = tokio::task::spawn_blocking(move || parse(&body.bytes)).await;
        parsed.map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?.map(Self)
    }
}

const BODY_BYTES: u64 = limits::HTTP_BODY_BYTES as u64;

/// Room for bodies that are being read.
#[derive(Debug)]
pub(super) struct Bodies(Arc<Semaphore>);

/// A body, and its room.
#[derive(Debug, Default)]
struct Read {
    bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    /// What a permit stands for. A semaphore counts fewer of them than there may be bytes.
    const PERMIT_BYTES: usize = 1024;

    /// Room for so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / Self::PERMIT_BYTES)))
    }

    /// Puts a chunk behind what was read, if there is room.
    fn add(&self, body: &mut Read, chunk: &[u8]) -> Result<(), ErrorBody> {
        let bytes = body.bytes.len().saturating_add(chunk.len());
        let held = body.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(Self::PERMIT_BYTES).saturating_sub(held);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.0).try_acquire_many_owned(more).map_err(|_| {
            ErrorBody::overloaded("the bodies of all requests that are being read are too large")
        })?;
        match &mut body.room {
            Some(all) => all.merge(room),
            None => body.room = Some(room),
        }
        body.bytes.extend_from_slice(chunk);
        Ok(())
    }
}

/// A page in a browser may send other types anywhere without being asked whether it may.
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

/// The whole body, within its limits and with room among `bodies`. One that is refused is read on all
/// the same: a sender that is still at it would see a broken connection, and no answer.
async fn read(body: Body, bodies: &Bodies) -> Result<Read, Problem> {
    let begun = Instant::now();
    let until = begun + Duration::from_millis(limits::HTTP_BODY_MS);
    let mut chunks = body.into_data_stream();
    let (mut found, mut taken) = (0_usize, Ok(Read::default()));
    loop {
        let stall = Instant::now() + Duration::from_millis(limits::HTTP_BODY_STALL_MS);
        let chunk: Bytes = match tokio::time::timeout_at(stall.min(until), chunks.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                let message = format!("the body could not be read: {error}");
                return Err(ErrorBody::new(ErrorCode::InvalidRequest, message).into());
            }
            Err(_) => {
                let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                let limit_ms = elapsed_ms.min(limits::HTTP_BODY_MS);
                let error =
                    ErrorBody::timeout("sending the body", Layer::Daemon, limit_ms, elapsed_ms)
                        .with_remediation("Send the whole body at once.");
                return Err(error.into());
            }
        };
        found = found.saturating_add(chunk.len());
        if found > limits::HTTP_DISCARD_BYTES {
            break;
        }
        let outcome = match &mut taken {
            _ if found > limits::HTTP_BODY_BYTES => Err(too_large()),
            Ok(body) => bodies.add(body, &chunk).map_err(Problem::from),
            Err(_) => continue,
        };
        if let Err(problem) = outcome {
            taken = Err(problem);
        }
    }
    taken
}

fn too_large() -> Problem {
    let message = format!("the body has more than {} bytes", limits::HTTP_BODY_BYTES);
    Problem::from(ErrorBody::new(ErrorCode::FrameTooLarge, message))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let problem = error.into_inner();
        match problem.classify() {
            Category::Data if path == "." => {
                ErrorBody::invalid("body", &format!("is wrong: {problem}"))
            }
            Category::Data => ErrorBody::invalid(&path, &format!("is wrong: {problem}")),
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
    async fn all_bodies_together_have_a_limit() {
        let bodies = Bodies::new(4 * Bodies::PERMIT_BYTES);
        let body = |bytes: usize| Body::from(vec![b'x'; bytes]);
        let held = read(body(3_000), &bodies).await.unwrap();
        assert_eq!((held.bytes.len(), bodies.0.available_permits()), (3_000, 1));
        // It is read to its end before it is refused.
        let read_on = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&read_on);
        let chunks = (0..20).map(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(vec![b'x'; 100])
        });
        let long = Body::from_stream(futures_util::stream::iter(chunks));
        let refused = read(long, &bodies).await.map(drop).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Overloaded);
        assert_eq!((read_on.load(Ordering::Relaxed), bodies.0.available_permits()), (20, 1));
        read(body(1_024), &bodies).await.unwrap();
        drop(held);
        assert_eq!(bodies.0.available_permits(), 4);
    }

    #[test]
    fn broken_json_and_wrong_members_are_told_apart_and_named() {
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
