//! Dispatch: from one frame to calls of methods.
//!
//! Owns reading JSON-RPC 2.0 (single requests, batches, notifications) and the replies to invalid
//! frames. jsonrpsee's `server-core` does the rest: method table, parameters, responses.

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::jsonrpc::RequestId as WireId;
use ingle_protocol::jsonrpc::scan;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::class::call_time;
use ingle_protocol::wire::extensions::{CANCEL, CancelParams, REMAINING};
use jsonrpsee::core::middleware::{Notification, Request};
use jsonrpsee::core::server::{
    BatchResponseBuilder, ConnectionId, Extensions, MethodCallback, MethodResponse, MethodSink,
    Methods,
};
use jsonrpsee::types::{ErrorObjectOwned, Id, Params};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use ingle_service::metrics::Outcome;

/// The future of one method call.
pub type CallFuture = std::pin::Pin<Box<dyn Future<Output = MethodResponse> + Send>>;

/// The scope of a call: what a method gets besides its parameters.
#[derive(Debug, Clone)]
pub struct CallScope {
    /// The client's id of the request.
    pub id: WireId,
    /// Cancelled by `$/cancel` and by the connection's end.
    pub cancel: CancellationToken,
    /// The events on their way to the connection.
    pub events: MethodSink,
    /// The sender's remaining time in milliseconds, if the frame has it.
    pub remaining_ms: Option<u64>,
}

/// The message in one frame.
pub enum InboundMessage {
    /// Nothing that needs a reply.
    Nothing,
    /// The cancellation of a request in flight.
    Cancel(CancelParams),
    /// A message whose reply is known at once.
    Answer(MethodResponse),
    /// A call.
    Call(Call),
    /// Several calls with one reply.
    Batch(Vec<BatchEntry>),
}

/// One entry of a batch.
pub enum BatchEntry {
    /// A call.
    Call(Call),
    /// An entry whose reply is known at once.
    Answer(MethodResponse),
}

/// A request that names a method.
pub struct Call {
    /// The client's id of the request.
    pub id: WireId,
    /// The sender's remaining time in milliseconds, if the request had to wait on its way.
    pub remaining_ms: Option<u64>,
    rpc_id: Id<'static>,
    method: String,
    params: Option<Box<RawValue>>,
}

impl Call {
    /// The class whose time limits its sender applies.
    #[must_use]
    pub fn class(&self) -> Class {
        call_time(&self.method, self.params.as_deref()).class
    }

    /// The method's name in the table.
    #[must_use]
    pub fn known_method(&self, methods: &Methods) -> Option<&'static str> {
        methods.method_with_name(&self.method).map(|(name, _)| name)
    }

    /// Looks up the method and creates its future.
    #[must_use]
    pub fn start(self, methods: &Methods, connection: usize, scope: CallScope) -> CallFuture {
        let Self { rpc_id, method, params, .. } = self;
        let params = Params::new(params.as_ref().map(|params| params.get())).into_owned();
        let mut extensions = Extensions::new();
        extensions.insert(scope);
        match methods.method_with_name(&method) {
            Some((_, MethodCallback::Async(call))) => {
                call(rpc_id, params, ConnectionId(connection), limits::FRAME_BYTES, extensions)
            }
            Some((_, MethodCallback::Sync(call))) => {
                let response = call(rpc_id, params, limits::FRAME_BYTES, extensions);
                Box::pin(std::future::ready(response))
            }
            Some(_) | None => {
                let error = ErrorBody::new(
                    ErrorCode::MethodNotFound,
                    format!("there is no method `{method}`"),
                );
                Box::pin(std::future::ready(failure(rpc_id, &error)))
            }
        }
    }

    /// The reply to a call that ended without one.
    #[must_use]
    pub fn answer(id: &WireId, error: &ErrorBody) -> MethodResponse {
        failure(rpc_id(id), error)
    }
}

/// An error in jsonrpsee's type.
#[must_use]
pub fn error_object(error: &ErrorBody) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(error.code.rpc_code(), error.message.clone(), Some(error.rpc_data()))
}

/// The outcome of a reply, for the metrics.
pub fn outcome(answer: &MethodResponse) -> Outcome {
    answer.as_error_code().map_or(Ok(()), |number| {
        Err(ErrorCode::of_rpc(i64::from(number)).unwrap_or(ErrorCode::Internal))
    })
}

/// The reply to a frame that is too long, under the id that was found in it.
#[must_use]
pub fn too_long(id: Option<String>) -> MethodResponse {
    let message = format!("request exceeds the frame limit of {} bytes", limits::FRAME_BYTES);
    let error = ErrorBody::new(ErrorCode::FrameTooLarge, message);
    failure(rpc_id(&scanned_id(id)), &error)
}

/// An id that was found in a frame that is invalid otherwise.
fn scanned_id(id: Option<String>) -> WireId {
    id.and_then(|id| serde_json::from_str(&id).ok()).unwrap_or(WireId::Null)
}

/// The replies to a batch with too many requests: one for each id, up to a limit.
///
/// A reply with a null id would reach none of the calls that wait.
fn refused_batch(entries: &[&RawValue]) -> InboundMessage {
    let error = ErrorBody::batch_too_large(entries.len());
    let ids = entries.iter().filter_map(|entry| scan::request_id(entry.get().as_bytes()));
    let refusal = |id| BatchEntry::Answer(failure(rpc_id(&scanned_id(Some(id))), &error));
    let refused: Vec<BatchEntry> = ids.take(limits::REFUSED_BATCH_REQUESTS).map(refusal).collect();
    match refused.is_empty() {
        true => InboundMessage::Answer(failure(Id::Null, &error)),
        false => InboundMessage::Batch(refused),
    }
}

/// The reply to a frame without a readable id.
#[must_use]
pub fn nameless_failure(code: ErrorCode, message: &str) -> MethodResponse {
    failure(Id::Null, &ErrorBody::new(code, message))
}

fn failure(id: Id<'_>, error: &ErrorBody) -> MethodResponse {
    MethodResponse::error(id, error_object(error))
}

fn rpc_id(id: &WireId) -> Id<'static> {
    match id {
        WireId::Integer(number) => u64::try_from(*number).map_or(Id::Null, Id::Number),
        WireId::String(text) => Id::Str(text.clone().into()),
        WireId::Float(_) | WireId::Null => Id::Null,
    }
}

fn wire_id(id: &Id<'_>) -> Option<WireId> {
    match id {
        Id::Null => Some(WireId::Null),
        Id::Number(number) => i64::try_from(*number).ok().map(WireId::from),
        Id::Str(text) => Some(WireId::String(text.to_string())),
    }
}

/// Reads one frame.
#[must_use]
pub fn read(frame: &[u8]) -> InboundMessage {
    if frame.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        return read_single(frame);
    }
    let entries: Vec<&RawValue> = match serde_json::from_slice(frame) {
        Ok(entries) => entries,
        Err(error) => return InboundMessage::Answer(unreadable(&error)),
    };
    if entries.is_empty() {
        let message = "the batch is empty";
        return InboundMessage::Answer(nameless_failure(ErrorCode::InvalidRequest, message));
    }
    if entries.len() > limits::BATCH_REQUESTS {
        return refused_batch(&entries);
    }
    let entries: Vec<BatchEntry> = entries
        .into_iter()
        .filter_map(|entry| match read_single(entry.get().as_bytes()) {
            InboundMessage::Call(call) => Some(BatchEntry::Call(call)),
            InboundMessage::Answer(answer) => Some(BatchEntry::Answer(answer)),
            // A cancel inside a batch could only name a request of the same batch.
            InboundMessage::Nothing | InboundMessage::Cancel(_) | InboundMessage::Batch(_) => None,
        })
        .collect();
    if entries.is_empty() { InboundMessage::Nothing } else { InboundMessage::Batch(entries) }
}

/// The id of a frame that is not a valid request, for the reply to it.
#[derive(Deserialize)]
struct IdOnly<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
}

fn read_single(frame: &[u8]) -> InboundMessage {
    if let Ok(request) = serde_json::from_slice::<Request<'_>>(frame) {
        let Some(id) = wire_id(&request.id) else {
            let error = ErrorBody::new(
                ErrorCode::InvalidRequest,
                "the id is a number past 2^63, which this server does not support",
            );
            return InboundMessage::Answer(failure(request.id, &error));
        };
        return InboundMessage::Call(Call {
            id,
            remaining_ms: remaining_ms(frame),
            rpc_id: request.id.into_owned(),
            method: request.method.into_owned(),
            params: request.params.map(std::borrow::Cow::into_owned),
        });
    }
    let id = match serde_json::from_slice::<IdOnly<'_>>(frame) {
        Ok(IdOnly { id }) => id,
        Err(error) => {
            // JSON of any depth that is not an object, or not JSON.
            return match serde_json::from_slice::<IgnoredAny>(frame) {
                Ok(_) => {
                    InboundMessage::Answer(not_a_request(&scanned_id(scan::request_id(frame))))
                }
                Err(_) => InboundMessage::Answer(unreadable(&error)),
            };
        }
    };
    // A request with an id of a wrong type would read as a notification and get no reply.
    if id.is_none()
        && let Ok(notification) = serde_json::from_slice::<Notification<'_>>(frame)
    {
        // A notification never gets a reply, not even an unknown one.
        let params = notification.params.as_ref().map(|params| params.get());
        return match (notification.method.as_ref(), params) {
            (CANCEL, Some(params)) => serde_json::from_str::<CancelParams>(params)
                .map_or(InboundMessage::Nothing, InboundMessage::Cancel),
            _ => InboundMessage::Nothing,
        };
    }
    let id = id.and_then(|id| serde_json::from_str(id.get()).ok()).unwrap_or(WireId::Null);
    InboundMessage::Answer(not_a_request(&id))
}

/// The field [`REMAINING`], read only at the place where a shim puts it.
fn remaining_ms(frame: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Remaining {
        remaining_ms: u64,
    }
    frame.strip_prefix(b"{\"")?.starts_with(REMAINING.as_bytes()).then_some(())?;
    let found: Remaining = serde_json::from_slice(frame).ok()?;
    Some(found.remaining_ms)
}

fn not_a_request(id: &WireId) -> MethodResponse {
    let message = "the frame is JSON, but not a JSON-RPC 2.0 request";
    failure(rpc_id(id), &ErrorBody::new(ErrorCode::InvalidRequest, message))
}

fn unreadable(error: &serde_json::Error) -> MethodResponse {
    nameless_failure(ErrorCode::ParseError, &format!("the frame is not JSON: {error}"))
}

/// The reply to a batch. If it is too large for a frame, each of the calls `ids` gets an error.
#[must_use]
pub fn batch_response(answers: Vec<MethodResponse>, ids: &[WireId]) -> MethodResponse {
    let mut builder = BatchResponseBuilder::new_with_limit(limits::FRAME_BYTES);
    if answers.into_iter().all(|answer| builder.append(answer).is_ok()) {
        return MethodResponse::from_batch(builder.finish());
    }
    let mut builder = BatchResponseBuilder::new_with_limit(limits::FRAME_BYTES);
    for id in ids {
        // These few lines always fit.
        let _ = builder.append(Call::answer(id, &ErrorBody::answer_too_large()));
    }
    MethodResponse::from_batch(builder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_code(frame: &str) -> Option<i32> {
        match read(frame.as_bytes()) {
            InboundMessage::Answer(answer) => answer.as_error_code(),
            _ => None,
        }
    }

    #[test]
    fn broken_frames_are_told_apart() {
        assert_eq!(answer_code("{nonsense"), Some(-32700));
        assert_eq!(answer_code("[1,"), Some(-32700));
        assert_eq!(answer_code("[]"), Some(-32600));
        assert_eq!(answer_code("42"), Some(-32600));
        assert_eq!(answer_code(r#"{"id":1}"#), Some(-32600));
        assert_eq!(answer_code(r#"{"jsonrpc":"2.0","id":[],"method":"x"}"#), Some(-32600));
    }

    #[test]
    fn a_request_that_waited_says_what_its_sender_has_left() {
        for (frame, left) in [
            (r#"{"remaining_ms":70,"jsonrpc":"2.0","id":1,"method":"health"}"#, Some(70)),
            (r#"{"jsonrpc":"2.0","id":1,"method":"health"}"#, None),
        ] {
            let InboundMessage::Call(call) = read(frame.as_bytes()) else { panic!("no call") };
            assert_eq!(call.remaining_ms, left);
        }
    }

    #[test]
    fn an_unsound_request_is_answered_under_its_own_id() {
        let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
        for frame in [
            r#"{"id":7,"method":"health","params":{"a":"\ud800"}}"#.to_owned(),
            format!(r#"{{"id":7,"method":"health","params":{deep}}}"#),
            r#"{"jsonrpc":"2.0","id":7,"method":"health","\ud800":1}"#.to_owned(),
            r#"{"jsonrpc":"2.0","id":7,"method":"\ud800"}"#.to_owned(),
        ] {
            let InboundMessage::Answer(answer) = read(frame.as_bytes()) else {
                panic!("no answer")
            };
            assert!(answer.as_json().get().contains(r#""id":7"#), "{}", answer.as_json());
        }
        let huge = r#"{"jsonrpc":"2.0","id":9223372036854775808,"method":"health"}"#;
        let InboundMessage::Answer(answer) = read(huge.as_bytes()) else { panic!("no answer") };
        assert!(answer.as_json().get().contains("9223372036854775808"));
    }

    #[test]
    fn parameters_that_cannot_be_kept_reach_the_method_which_names_them() {
        for value in
            [r#""\ud800""#.to_owned(), "1e999".to_owned(), "[".repeat(300) + &"]".repeat(300)]
        {
            let frame =
                format!(r#"{{"jsonrpc":"2.0","id":7,"method":"health","params":[{value}]}}"#);
            let InboundMessage::Call(call) = read(frame.as_bytes()) else {
                panic!("no call: {frame}")
            };
            assert_eq!(call.id, WireId::from(7));
        }
    }

    #[test]
    fn what_is_too_much_is_refused_under_its_ids() {
        let reply = |answer: MethodResponse| {
            serde_json::from_str::<serde_json::Value>(answer.as_json().get()).unwrap()
        };
        assert_eq!(reply(too_long(Some("7".to_owned())))["id"], 7);
        assert!(reply(too_long(None))["id"].is_null());
        let batch = |requests: usize| {
            let ask = |id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"health"}}"#);
            let all: Vec<_> = (0..requests).map(ask).collect();
            let InboundMessage::Batch(entries) = read(format!("[{},7]", all.join(",")).as_bytes())
            else {
                panic!("no batch")
            };
            let answers = entries.into_iter().map(|entry| match entry {
                BatchEntry::Answer(answer) => reply(answer),
                BatchEntry::Call(_) => panic!("a call"),
            });
            answers.collect::<Vec<_>>()
        };
        let refused = batch(limits::BATCH_REQUESTS);
        assert_eq!(refused.len(), limits::BATCH_REQUESTS);
        for (id, answer) in refused.iter().enumerate() {
            let (found, code) = (&answer["id"], answer["error"]["code"].as_i64());
            assert_eq!((found, code), (&serde_json::json!(id), Some(-32600)));
        }
        assert_eq!(
            batch(10 * limits::REFUSED_BATCH_REQUESTS).len(),
            limits::REFUSED_BATCH_REQUESTS
        );
        assert_eq!(answer_code(&format!("[{}7]", "7,".repeat(99))), Some(-32600));
    }

    #[test]
    fn notifications_are_never_answered() {
        assert!(matches!(
            read(br#"{"jsonrpc":"2.0","method":"unknown/method"}"#),
            InboundMessage::Nothing
        ));
        let cancel = br#"{"jsonrpc":"2.0","method":"$/cancel","params":{"id":7}}"#;
        let InboundMessage::Cancel(cancel) = read(cancel) else { panic!("no cancel") };
        assert_eq!((cancel.id, cancel.timed_out), (WireId::from(7), None));
    }

    #[test]
    fn a_batch_keeps_its_broken_entries() {
        let InboundMessage::Batch(entries) =
            read(br#"[{"jsonrpc":"2.0","id":1,"method":"health"}, 2]"#)
        else {
            panic!("not a batch");
        };
        assert!(matches!(entries[..], [BatchEntry::Call(_), BatchEntry::Answer(_)]));
    }
}
