//! Typed client of the daemon's RPC, over one connection.
//!
//! Owns the map of requests in flight, the routing of events and replies, cancel on drop, and the
//! outermost limit of the ladder (2.5 W). Does not start a daemon: [`crate::launch`] does.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::socket::{self, SharedStream, Stream};
use ingle_protocol::deadline::Deadline;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::frame::{Frame, FrameReader};
use ingle_protocol::jsonrpc::{Message, RequestId};
use ingle_protocol::limits;
use ingle_protocol::timeouts::{Class, Layer, WorkTimeouts};
use ingle_protocol::wire::Method;
use ingle_protocol::wire::extensions::{CANCEL, CancelParams, EVENT, EventParams};
use ingle_protocol::wire::hello::{Hello, HelloParams, HelloReply, Role};

/// One connection to the daemon. Cloning shares it; it closes when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    outbound: mpsc::Sender<Vec<u8>>,
    pending: Arc<Mutex<PendingMap>>,
    hello: HelloReply,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Debug, Default)]
struct PendingMap {
    next_id: i64,
    calls: HashMap<i64, Pending>,
    /// Set once the connection has ended; later calls fail at once.
    lost: bool,
}

#[derive(Debug)]
struct Pending {
    events: mpsc::Sender<Value>,
    reply: oneshot::Sender<Result<Value, ErrorBody>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Client {
    /// Connects to a running daemon.
    ///
    /// # Errors
    /// `DAEMON_UNAVAILABLE` when no daemon listens or answers `hello`; `VERSION_SKEW` when the
    /// daemon is of another protocol version.
    pub async fn connect(path: &Path) -> Result<Self, ErrorBody> {
        let stream = socket::connect(path).await.map_err(|error| {
            ErrorBody::new(
                ErrorCode::DaemonUnavailable,
                format!("no daemon answers at `{}`: {error}", path.display()),
            )
        })?;
        Self::over(stream).await
    }

    /// Sends `hello` as a plain RPC client over a connected stream.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn over(stream: Stream) -> Result<Self, ErrorBody> {
        let stream = SharedStream::new(stream);
        Self::over_pipes(stream.clone(), stream).await
    }

    /// The same over any reader and writer, such as those of a shim (`ingle rpc`).
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn over_pipes(
        reader: impl AsyncRead + Unpin + Send + 'static,
        writer: impl AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self, ErrorBody> {
        let pending = Arc::new(Mutex::new(PendingMap::default()));
        let (outbound, frames) = mpsc::channel(limits::OUTBOUND_FRAMES);
        let writer = tokio::spawn(write_loop(writer, frames));
        let (stop_writing, calls) = (writer.abort_handle(), Arc::clone(&pending));
        let reader = tokio::spawn(async move {
            read_loop(reader, calls).await;
            // Requests written from now on get no reply; and this is how `Client::closed` ends.
            stop_writing.abort();
        });
        let mut inner = Inner {
            outbound,
            pending,
            hello: HelloReply {
                protocol: ingle_protocol::PROTOCOL_VERSION,
                build: String::new(),
                pid: 0,
                // The defaults apply until the daemon's own ladder arrives.
                timeouts: WorkTimeouts::default(),
            },
            tasks: [reader, writer],
        };
        let limit = Duration::from_millis(crate::limits::HELLO_MS);
        let call = start::<Hello>(&inner, json!(HelloParams::new(Role::Rpc)), Class::Simple)?;
        inner.hello = tokio::time::timeout(limit, call.reply()).await.map_err(|_| {
            ErrorBody::new(
                ErrorCode::DaemonUnavailable,
                format!("the daemon did not answer `hello` within {} ms", crate::limits::HELLO_MS),
            )
        })??;
        if inner.hello.protocol != ingle_protocol::PROTOCOL_VERSION {
            return Err(ErrorBody::new(
                ErrorCode::VersionSkew,
                format!(
                    "the daemon (build {}) speaks protocol {}, and this client speaks {}",
                    inner.hello.build,
                    inner.hello.protocol,
                    ingle_protocol::PROTOCOL_VERSION
                ),
            ));
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The daemon's reply to `hello`.
    #[must_use]
    pub fn hello(&self) -> &HelloReply {
        &self.inner.hello
    }

    /// Calls a method and waits for its reply.
    ///
    /// # Errors
    /// The daemon's error; `DAEMON_LOST` when the connection ends first; `TIMEOUT` from the client
    /// layer at 2.5 W.
    pub async fn call<M: Method>(&self, params: &M::Params) -> Result<M::Output, ErrorBody> {
        self.start::<M>(params, M::CLASS)?.reply().await
    }

    /// Starts a call whose class depends on its parameters, or whose events are read.
    ///
    /// # Errors
    /// `DAEMON_LOST` when the connection has ended; `OVERLOADED` when too much is in flight;
    /// `FRAME_TOO_LARGE` when the request is more than [`limits::FRAME_BYTES`].
    pub fn start<M: Method>(&self, params: &M::Params, class: Class) -> Result<Call<M>, ErrorBody> {
        let params = serde_json::to_value(params)
            .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?;
        start(&self.inner, params, class)
    }

    /// Waits until the daemon has closed the connection.
    pub async fn closed(&self) {
        self.inner.outbound.closed().await;
    }
}

fn lock(pending: &Mutex<PendingMap>) -> std::sync::MutexGuard<'_, PendingMap> {
    // The map is consistent after every statement, so a panic elsewhere leaves it usable.
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start<M: Method>(inner: &Inner, params: Value, class: Class) -> Result<Call<M>, ErrorBody> {
    let (event_tx, events) = mpsc::channel(limits::ENGINE_EVENTS);
    let (reply_tx, reply) = oneshot::channel();
    let id = {
        let mut map = lock(&inner.pending);
        map.next_id += 1;
        map.next_id
    };
    let frame = encode(&json!({ "jsonrpc": "2.0", "id": id, "method": M::NAME, "params": params }));
    // The daemon discards such a line unread, so its refusal might not name the request.
    if frame.len() > limits::FRAME_BYTES {
        return Err(ErrorBody::new(
            ErrorCode::FrameTooLarge,
            format!(
                "the request has {} bytes, and the frame limit is {}",
                frame.len(),
                limits::FRAME_BYTES
            ),
        ));
    }
    {
        let mut map = lock(&inner.pending);
        if map.lost {
            return Err(lost());
        }
        if map.calls.len() >= limits::IN_FLIGHT_PER_CONNECTION {
            return Err(ErrorBody::overloaded(format!(
                "{} requests are in flight on this connection",
                limits::IN_FLIGHT_PER_CONNECTION
            )));
        }
        map.calls.insert(id, Pending { events: event_tx, reply: reply_tx });
    }
    let work_ms = M::WORK_MS.unwrap_or_else(|| inner.hello.timeouts.work_ms(class));
    let call = Call {
        id,
        events,
        reply: Some(reply),
        deadline: Deadline::new(Layer::Client, work_ms, None, Instant::now()),
        timed_out: false,
        outbound: inner.outbound.clone(),
        pending: Arc::clone(&inner.pending),
        method: PhantomData,
    };
    inner.outbound.try_send(frame).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => {
            ErrorBody::new(ErrorCode::Overloaded, "the daemon is not reading this connection")
        }
        mpsc::error::TrySendError::Closed(_) => lost(),
    })?;
    Ok(call)
}

fn encode(message: &impl Serialize) -> Vec<u8> {
    // Values built from serde_json's own types always serialise.
    let mut frame = serde_json::to_vec(message).unwrap_or_default();
    frame.push(b'\n');
    frame
}

fn lost() -> ErrorBody {
    ErrorBody::new(ErrorCode::DaemonLost, "the daemon closed the connection before it answered")
}

/// One request in flight. Dropping it before its reply cancels it.
#[derive(Debug)]
pub struct Call<M: Method> {
    id: i64,
    events: mpsc::Receiver<Value>,
    /// `None` once the reply has been taken.
    reply: Option<oneshot::Receiver<Result<Value, ErrorBody>>>,
    deadline: Deadline,
    timed_out: bool,
    outbound: mpsc::Sender<Vec<u8>>,
    pending: Arc<Mutex<PendingMap>>,
    method: PhantomData<fn() -> M>,
}

impl<M: Method> Call<M> {
    /// The next event, or `None` when only the reply is left.
    ///
    /// Events of a kind that this build does not know are skipped. Read the events, or call
    /// [`Self::reply`]: all calls share one connection, and unread events block the others.
    pub async fn event<E: DeserializeOwned>(&mut self) -> Option<E> {
        loop {
            let limit = tokio::time::Instant::from_std(self.deadline.expires_at());
            let event = tokio::time::timeout_at(limit, self.events.recv()).await.ok()??;
            if let Ok(event) = serde_json::from_value(event) {
                return Some(event);
            }
        }
    }

    /// Waits for the reply. Unread events are dropped.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn reply(mut self) -> Result<M::Output, ErrorBody> {
        self.events.close();
        let Some(reply) = self.reply.as_mut() else { return Err(lost()) };
        let limit = tokio::time::Instant::from_std(self.deadline.expires_at());
        let answer = match tokio::time::timeout_at(limit, reply).await {
            Ok(answer) => {
                self.reply = None;
                answer.unwrap_or_else(|_| Err(lost()))
            }
            // `reply` stays, so that dropping the call cancels the request.
            Err(_) => {
                self.timed_out = true;
                let what = format!("`{}`", M::NAME);
                let elapsed_ms = self.deadline.elapsed_ms(Instant::now());
                Err(ErrorBody::timeout(&what, Layer::Client, self.deadline.limit_ms, elapsed_ms))
            }
        };
        serde_json::from_value(answer?).map_err(|error| {
            ErrorBody::new(
                ErrorCode::Internal,
                format!("the daemon's reply to `{}` cannot be read: {error}", M::NAME),
            )
        })
    }
}

impl<M: Method> Drop for Call<M> {
    fn drop(&mut self) {
        lock(&self.pending).calls.remove(&self.id);
        if self.reply.is_some() {
            let timed_out = self.timed_out.then_some(Layer::Client);
            let params = CancelParams { id: self.id.into(), timed_out };
            // A full or closed connection needs no cancel: it is about to end.
            let _ = self
                .outbound
                .try_send(encode(&json!({ "jsonrpc": "2.0", "method": CANCEL, "params": params })));
        }
    }
}

async fn write_loop(mut writer: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if writer.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn read_loop(reader: impl AsyncRead + Unpin, pending: Arc<Mutex<PendingMap>>) {
    let mut reader = FrameReader::new(reader, limits::FRAME_BYTES);
    while let Ok(Some(frame)) = reader.next().await {
        if let Frame::Line(line) = frame
            && let Ok(message) = Message::parse(&line)
        {
            route(&message, &pending).await;
        }
    }
    let calls = {
        let mut map = lock(&pending);
        map.lost = true;
        std::mem::take(&mut map.calls)
    };
    for (_, call) in calls {
        // A call that was dropped needs no reply.
        let _ = call.reply.send(Err(lost()));
    }
}

async fn route(message: &Message<'_>, pending: &Mutex<PendingMap>) {
    if message.method() == Some(EVENT) {
        let event = message
            .params()
            .and_then(|params| serde_json::from_str::<EventParams<Value>>(params.get()).ok());
        let Some(EventParams { id, event }) = event else { return };
        let events =
            call_number(&id).and_then(|id| Some(lock(pending).calls.get(&id)?.events.clone()));
        if let Some(events) = events {
            // A call that waits only for its reply has closed this channel.
            let _ = events.send(event).await;
        }
        return;
    }
    let id = message.id().and_then(|raw| serde_json::from_str::<RequestId>(raw.get()).ok());
    let (Some(id), error) = (id, message.error()) else { return };
    if let (RequestId::Null, Some(error)) = (&id, &error) {
        // The daemon could not read a request, so it cannot name the call. Any of them
        // might never get its reply.
        let calls = std::mem::take(&mut lock(pending).calls);
        for (_, call) in calls {
            let _ = call.reply.send(Err(ErrorBody::from_rpc(error)));
        }
        return;
    }
    let call = call_number(&id).and_then(|id| lock(pending).calls.remove(&id));
    let Some(call) = call else { return };
    let answer = match (&error, message.result()) {
        (Some(error), _) => Err(ErrorBody::from_rpc(error)),
        (None, Some(result)) => serde_json::from_str(result.get())
            .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string())),
        (None, None) => Ok(Value::Null),
    };
    let _ = call.reply.send(answer);
}

/// The number of one of our calls: their ids are whole numbers.
fn call_number(id: &RequestId) -> Option<i64> {
    match id {
        RequestId::Integer(number) => i64::try_from(*number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inner() -> (Inner, mpsc::Receiver<Vec<u8>>) {
        let (outbound, frames) = mpsc::channel(4);
        let hello = HelloReply {
            protocol: ingle_protocol::PROTOCOL_VERSION,
            build: String::new(),
            pid: 0,
            timeouts: WorkTimeouts::default(),
        };
        let tasks = [tokio::spawn(async {}), tokio::spawn(async {})];
        (Inner { outbound, pending: Arc::default(), hello, tasks }, frames)
    }

    #[tokio::test]
    async fn oversized_request_is_refused_locally() {
        let (inner, mut frames) = inner();
        let text = "x".repeat(limits::FRAME_BYTES);
        let refused = start::<Hello>(&inner, json!({ "text": text }), Class::Simple).unwrap_err();
        assert_eq!(refused.code, ErrorCode::FrameTooLarge);
        assert!(frames.try_recv().is_err(), "neither it nor a cancel is sent");
        assert!(lock(&inner.pending).calls.is_empty());
    }

    #[tokio::test]
    async fn error_without_id_ends_every_call() {
        let (inner, _frames) = inner();
        let call = start::<Hello>(&inner, json!({}), Class::Simple).unwrap();
        let error = ErrorBody::new(ErrorCode::FrameTooLarge, "too long").to_rpc();
        let reply = json!({ "jsonrpc": "2.0", "id": null, "error": error }).to_string();
        route(&Message::parse(reply.as_bytes()).unwrap(), &inner.pending).await;
        assert_eq!(call.reply().await.unwrap_err().code, ErrorCode::FrameTooLarge);
    }
}
