//! The loop of one connection.
//!
//! Owns the requests in flight, the bytes that wait to be written, and the rules for a partial frame,
//! a peer that does not read, and a peer that goes. One task does all of it: writing, reading and the
//! ends of calls are arms of one `select!`, and a call that can reply at once is never spawned.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::limits;
use futures_util::FutureExt;
use futures_util::future::join_all;
use ingle_client::socket::{self, SharedStream};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::frame::{Frame, FrameReader};
use ingle_protocol::jsonrpc::RequestId as WireId;
use ingle_protocol::timeouts::Class;
use ingle_protocol::wire::extensions::CancelParams;
use ingle_protocol::wire::hello::HelloParams;
use jsonrpsee::core::server::{MethodResponse, MethodSink, Methods};
use jsonrpsee::types::error::OVERSIZED_RESPONSE_CODE;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use ingle_service::metrics::{Edge, Metrics, UNKNOWN};
use ingle_service::timeout_counters::TimeoutCounters;

use super::dispatch::{self, BatchEntry, Call, CallFuture, CallScope, InboundMessage};

/// The interval of checks whether a peer that sends no more still reads.
const HANGUP_CHECK: Duration = Duration::from_millis(100);

/// The end of a connection's RPC part.
#[derive(Debug)]
pub enum End {
    /// The peer has gone, or the daemon ends.
    Closed,
    /// `hello` has asked for MCP.
    Mcp {
        /// Its parameters.
        hello: Box<HelloParams>,
        /// Bytes read after `hello`.
        buffered: Vec<u8>,
    },
}

/// Reads a frame as an MCP `hello`; `None` for every other frame.
pub type McpHello = fn(&[u8]) -> Option<HelloParams>;

struct Connection<'a> {
    number: usize,
    methods: &'a Methods,
    /// Requests in flight.
    in_flight: HashMap<WireId, InFlight>,
    counts: Counts<'a>,
    calls: JoinSet<(Vec<WireId>, MethodResponse)>,
    events: MethodSink,
    out: Vec<u8>,
}

/// The counters of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Counts<'a> {
    /// Limits that shim or client report as reached.
    pub timeouts: &'a TimeoutCounters,
    /// Requests and their outcomes.
    pub metrics: &'a Arc<Metrics>,
}

/// A request in flight.
struct InFlight {
    cancel: CancellationToken,
    class: Class,
}

/// Serves one connection until it ends or turns to MCP.
///
/// `draining` ends it once everything in flight has its reply; `closing` ends it at once.
pub async fn serve(
    stream: &SharedStream,
    number: usize,
    methods: &Methods,
    mcp_hello: McpHello,
    counts: Counts<'_>,
    draining: &CancellationToken,
    closing: &CancellationToken,
) -> End {
    let (events_tx, mut events) = mpsc::channel::<Box<RawValue>>(limits::OUTBOUND_FRAMES);
    let mut reader = FrameReader::new(stream.clone(), limits::FRAME_BYTES);
    let mut writer = stream.clone();
    let mut connection = Connection {
        number,
        methods,
        in_flight: HashMap::new(),
        counts,
        calls: JoinSet::new(),
        events: MethodSink::new(events_tx),
        out: Vec::new(),
    };
    let mut batch = Vec::new();
    let mut first = true;
    // Whether the peer has ended its side of the stream.
    let mut read_all = false;
    // The end of the time for the rest of a partial frame.
    let mut partial_until: Option<Instant> = None;
    // The end of the time for the peer to read something.
    let mut write_until: Option<Instant> = None;
    loop {
        // Back-pressure: frames wait in the reader's buffer while too much waits to be written.
        while connection.out.len() < limits::OUTBOUND_BYTES
            && let Some(frame) = reader.pop()
        {
            if std::mem::take(&mut first)
                && let Frame::Line(line) = &frame
                && let Some(hello) = mcp_hello(line)
            {
                connection.take(frame).await;
                let _ = writer.write_all(&connection.out).await;
                return End::Mcp { hello: Box::new(hello), buffered: reader.into_buffered() };
            }
            connection.take(frame).await;
        }
        let ending = read_all || draining.is_cancelled();
        if ending && connection.calls.is_empty() && connection.out.is_empty() {
            return End::Closed;
        }
        // While the peer does not read, this loop neither reads nor collects replies.
        let has_room = connection.out.len() < limits::OUTBOUND_BYTES;
        if !reader.has_partial() {
            partial_until = None;
        } else if !has_room {
            // Nothing is read now, and whole frames may wait in the buffer: the peer is not late.
            partial_until = Some(after(limits::FRAME_STALL_MS));
        }
        if connection.out.is_empty() {
            write_until = None;
        } else if write_until.is_none() {
            write_until = Some(after(limits::WRITE_STALL_MS));
        }
        // In the order of the arms (`biased`): first the ends, then writing, then collecting what
        // there is to write, then reading. So a peer that sends without reading cannot make this
        // side's buffer grow, and a reply is never delayed by new requests. No arm loses data when
        // another one wins: each awaits at a point where dropping its future has no effect.
        tokio::select! {
            biased;
            // The daemon closes every connection: nothing more is written.
            () = closing.cancelled() => return End::Closed,
            // The daemon drains: only wakes the loop, which checks `ending` above.
            () = draining.cancelled(), if !ending => {}
            // The socket takes bytes of what waits to be written.
            written = writer.write(&connection.out), if !connection.out.is_empty() => {
                match written {
                    Ok(written) if written > 0 => {
                        connection.out.drain(..written);
                        // Progress: the peer has its time anew for the next bytes.
                        write_until = None;
                    }
                    _ => return End::Closed,
                }
            }
            // Calls have sent events. The channel is bounded, so a call waits while the peer does
            // not read.
            _ = events.recv_many(&mut batch, limits::OUTBOUND_FRAMES), if has_room => {
                connection.push_events(&mut batch);
            }
            // A call has ended.
            Some(ended) = connection.calls.join_next(),
                if has_room && !connection.calls.is_empty() =>
            {
                // Its events are in the channel before it ends, and must go out before its reply.
                while let Ok(event) = events.try_recv() {
                    batch.push(event);
                }
                connection.push_events(&mut batch);
                if let Ok((ids, response)) = ended {
                    connection.end(&ids, &response);
                }
            }
            // Bytes have come; whole frames are taken at the top of the loop.
            filled = reader.fill(), if has_room && !read_all => {
                match filled {
                    Ok(true) => {
                        partial_until = Some(after(limits::FRAME_STALL_MS));
                    }
                    // The peer has ended its side. It may still read: calls in flight are finished.
                    Ok(false) => {
                        read_all = true;
                        if socket::is_fully_closed(stream.stream()) {
                            return End::Closed;
                        }
                        if let Some(torn) = reader.finish() {
                            connection.take(torn).await;
                        }
                    }
                    Err(_) => return End::Closed,
                }
            }
            // The rest of a frame did not come in time: it is discarded and refused, so that the
            // peer does not wait for a reply.
            () = sleep_until(partial_until), if has_room && partial_until.is_some() => {
                let refusal = if reader.discard_partial() {
                    dispatch::too_long(None)
                } else {
                    let message = format!(
                        "the rest of a frame did not arrive within {} s; the frame was discarded",
                        limits::FRAME_STALL_MS / 1_000
                    );
                    dispatch::nameless_failure(ErrorCode::ParseError, &message)
                };
                connection.refuse(UNKNOWN, &refusal);
            }
            // The peer has read nothing for too long.
            () = sleep_until(write_until), if write_until.is_some() => return End::Closed,
            // After the end of its side, a peer that also stops reading causes no event: check.
            () = tokio::time::sleep(HANGUP_CHECK), if read_all => {
                if socket::is_fully_closed(stream.stream()) {
                    return End::Closed;
                }
            }
        }
    }
}

fn after(milliseconds: u64) -> Instant {
    Instant::now() + Duration::from_millis(milliseconds)
}

async fn sleep_until(instant: Option<Instant>) {
    if let Some(instant) = instant {
        tokio::time::sleep_until(instant).await;
    }
}

impl Connection<'_> {
    async fn take(&mut self, frame: Frame) {
        let message = match frame {
            Frame::Line(line) => dispatch::read(&line),
            Frame::TooLong(id) => InboundMessage::Answer(dispatch::too_long(id)),
            // The last line may lack its newline; if it is not valid, the stream ended inside it.
            Frame::Torn(line) => match dispatch::read(&line) {
                InboundMessage::Answer(_) => InboundMessage::Answer(dispatch::nameless_failure(
                    ErrorCode::ParseError,
                    "the stream ended inside a frame",
                )),
                whole => whole,
            },
        };
        match message {
            InboundMessage::Nothing => {}
            InboundMessage::Answer(answer) => self.refuse(UNKNOWN, &answer),
            InboundMessage::Cancel(CancelParams { id, timed_out }) => {
                if let Some(request) = self.in_flight.get(&id) {
                    request.cancel.cancel();
                    if let Some(layer) = timed_out {
                        self.counts.timeouts.count(request.class, layer);
                    }
                }
            }
            InboundMessage::Call(call) => {
                let id = call.id.clone();
                match self.start(call) {
                    Ok(future) => self.run(vec![id], future).await,
                    Err(refusal) => self.push(&refusal),
                }
            }
            InboundMessage::Batch(entries) => {
                let mut ids = Vec::new();
                let futures: Vec<CallFuture> = entries
                    .into_iter()
                    .map(|entry| match entry {
                        BatchEntry::Answer(answer) => {
                            self.count(UNKNOWN, &answer);
                            ready(answer)
                        }
                        BatchEntry::Call(call) => {
                            let id = call.id.clone();
                            match self.start(call) {
                                Ok(future) => {
                                    ids.push(id);
                                    future
                                }
                                Err(refusal) => ready(refusal),
                            }
                        }
                    })
                    .collect();
                let batch_ids = ids.clone();
                let whole =
                    async move { dispatch::batch_response(join_all(futures).await, &batch_ids) };
                self.run(ids, Box::pin(whole)).await;
            }
        }
    }

    /// Registers a call and creates its future; or gives the refusal.
    fn start(&mut self, call: Call) -> Result<CallFuture, MethodResponse> {
        let id = call.id.clone();
        let method = call.known_method(self.methods).unwrap_or(UNKNOWN);
        if self.in_flight.len() >= limits::IN_FLIGHT_PER_CONNECTION {
            let error = ErrorBody::overloaded(format!(
                "{} requests are in flight on this connection",
                limits::IN_FLIGHT_PER_CONNECTION
            ));
            return Err(self.refusal(method, &id, &error));
        }
        if self.in_flight.contains_key(&id) {
            let error = ErrorBody::new(
                ErrorCode::InvalidRequest,
                "a request with this id is in flight on this connection",
            );
            return Err(self.refusal(method, &id, &error));
        }
        // It is dropped with the future, which counts the call as cancelled.
        let timer = self.counts.metrics.begin(Edge::Rpc, method);
        let cancel = CancellationToken::new();
        let in_flight = InFlight { cancel: cancel.clone(), class: call.class() };
        self.in_flight.insert(id.clone(), in_flight);
        let (events, remaining_ms) = (self.events.clone(), call.remaining_ms);
        let scope = CallScope { id: id.clone(), cancel, events, remaining_ms };
        let future = call.start(self.methods, self.number, scope);
        // A panic in one method fails that call and no other.
        let guarded = AssertUnwindSafe(future).catch_unwind().map(move |outcome| {
            let answer = match outcome {
                // jsonrpsee's own message has no next step.
                Ok(answer) if answer.as_error_code() == Some(OVERSIZED_RESPONSE_CODE) => {
                    Call::answer(&id, &ErrorBody::answer_too_large())
                }
                Ok(answer) => answer,
                Err(_) => {
                    let error = ErrorBody::new(ErrorCode::Internal, "the method panicked");
                    Call::answer(&id, &error)
                }
            };
            timer.end(dispatch::outcome(&answer));
            answer
        });
        Ok(Box::pin(guarded))
    }

    /// The reply to a call of `method` that does not start; counts it.
    fn refusal(&self, method: &'static str, id: &WireId, error: &ErrorBody) -> MethodResponse {
        let refusal = Call::answer(id, error);
        self.count(method, &refusal);
        refusal
    }

    fn count(&self, method: &'static str, answer: &MethodResponse) {
        self.counts.metrics.request(Edge::Rpc, method, dispatch::outcome(answer));
    }

    /// Polls a call once, and spawns it only if it has to wait.
    async fn run(&mut self, ids: Vec<WireId>, mut future: CallFuture) {
        let answer = std::future::poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => Poll::Ready(None),
        })
        .await;
        match answer {
            // A quick generation can end within one poll. Its events are still in the channel, and
            // must go out before its reply, as those of any spawned call.
            Some(answer) if self.events.capacity() < self.events.max_capacity() => {
                self.calls.spawn(async move { (ids, answer) });
            }
            Some(answer) => self.end(&ids, &answer),
            None => {
                self.calls.spawn(async move { (ids, future.await) });
            }
        }
    }

    fn end(&mut self, ids: &[WireId], response: &MethodResponse) {
        for id in ids {
            self.in_flight.remove(id);
        }
        self.push(response);
    }

    /// Refuses a frame that reaches no method.
    fn refuse(&mut self, method: &'static str, answer: &MethodResponse) {
        self.count(method, answer);
        self.push(answer);
    }

    fn push(&mut self, response: &MethodResponse) {
        self.out.extend_from_slice(response.as_json().get().as_bytes());
        self.out.push(b'\n');
    }

    fn push_events(&mut self, events: &mut Vec<Box<RawValue>>) {
        for event in events.drain(..) {
            self.out.extend_from_slice(event.get().as_bytes());
            self.out.push(b'\n');
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        for request in self.in_flight.values() {
            request.cancel.cancel();
        }
    }
}

fn ready(answer: MethodResponse) -> CallFuture {
    Box::pin(std::future::ready(answer))
}
