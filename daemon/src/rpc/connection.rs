//! The loop of one connection.
//!
//! Owns what is in flight on it, what waits to be written, and the rules for half a frame, a reader
//! that does not read, and a peer that goes. One task does all of it: writing, reading and the
//! calls' ends are branches of one `select`, in that order, and a call that can answer at once is
//! never spawned.

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

use ingle_service::timeout_counters::TimeoutCounters;
use ingle_service::metrics::{Edge, Metrics, UNKNOWN};

use super::dispatch::{self, Asked, BatchEntry, Call, CallFuture, CallScope};

/// How often a peer that sends no more is looked at, to see whether it still reads.
const HANGUP_CHECK: Duration = Duration::from_millis(100);

/// How a connection's RPC part ended.
#[derive(Debug)]
pub enum End {
    /// The peer went, or the daemon ends.
    Closed,
    /// `hello` asked for MCP: these bytes follow it.
    Mcp {
        /// What it said.
        hello: Box<HelloParams>,
        /// Bytes read after `hello`.
        buffered: Vec<u8>,
    },
}

/// Tells an MCP `hello` from everything else.
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

/// Where a connection counts.
#[derive(Debug, Clone, Copy)]
pub struct Counts<'a> {
    /// Limits that shim or client say were reached.
    pub timeouts: &'a TimeoutCounters,
    /// Requests and how they ended.
    pub metrics: &'a Arc<Metrics>,
}

/// A request in flight.
struct InFlight {
    cancel: CancellationToken,
    class: Class,
}

/// Serves one connection until it ends or turns to MCP.
///
/// `draining` ends it once everything in flight is answered; `closing` ends it at once.
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
    let mut read_all = false;
    let mut partial_until: Option<Instant> = None;
    let mut write_until: Option<Instant> = None;
    loop {
        // Frames wait in the reader's buffer while too much waits to be written.
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
        let room = connection.out.len() < limits::OUTBOUND_BYTES;
        if !reader.has_partial() {
            partial_until = None;
        } else if !room {
            // Nothing is read now, and whole frames may wait in the buffer: the peer is not late.
            partial_until = Some(after(limits::FRAME_STALL_MS));
        }
        if connection.out.is_empty() {
            write_until = None;
        } else if write_until.is_none() {
            write_until = Some(after(limits::WRITE_STALL_MS));
        }
        tokio::select! {
            biased;
            () = closing.cancelled() => return End::Closed,
            () = draining.cancelled(), if !ending => {}
            written = writer.write(&connection.out), if !connection.out.is_empty() => {
                match written {
                    Ok(written) if written > 0 => {
                        connection.out.drain(..written);
                        write_until = None;
                    }
                    _ => return End::Closed,
                }
            }
            _ = events.recv_many(&mut batch, limits::OUTBOUND_FRAMES), if room => {
                connection.push_events(&mut batch);
            }
            Some(ended) = connection.calls.join_next(), if room && !connection.calls.is_empty() => {
                // A call's events are in the channel before it ends, and go out before its reply.
                while let Ok(event) = events.try_recv() {
                    batch.push(event);
                }
                connection.push_events(&mut batch);
                if let Ok((ids, response)) = ended {
                    connection.end(&ids, &response);
                }
            }
            filled = reader.fill(), if room && !read_all => {
                match filled {
                    Ok(true) => {
                        partial_until = Some(after(limits::FRAME_STALL_MS));
                    }
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
            () = sleep_until(partial_until), if room && partial_until.is_some() => {
                let refusal = if reader.discard_partial() {
                    dispatch::too_long(None)
                } else {
                    let message = format!(
                        "half a frame came, and nothing more for {} s; it was thrown away",
                        limits::FRAME_STALL_MS / 1_000
                    );
                    dispatch::nameless_failure(ErrorCode::ParseError, &message)
                };
                connection.refuse(UNKNOWN, &refusal);
            }
            () = sleep_until(write_until), if write_until.is_some() => return End::Closed,
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
        let asked = match frame {
            Frame::Line(line) => dispatch::read(&line),
            Frame::TooLong(id) => Asked::Answer(dispatch::too_long(id)),
            // The last line may lack its newline; if it is not whole, that is what was torn.
            Frame::Torn(line) => match dispatch::read(&line) {
                Asked::Answer(_) => Asked::Answer(dispatch::nameless_failure(
                    ErrorCode::ParseError,
                    "the stream ended inside a frame",
                )),
                whole => whole,
            },
        };
        match asked {
            Asked::Nothing => {}
            Asked::Answer(answer) => self.refuse(UNKNOWN, &answer),
            Asked::Cancel(CancelParams { id, timed_out }) => {
                if let Some(request) = self.in_flight.get(&id) {
                    request.cancel.cancel();
                    if let Some(layer) = timed_out {
                        self.counts.timeouts.count(request.class, layer);
                    }
                }
            }
            Asked::Call(call) => {
                let id = call.id.clone();
                match self.start(call) {
                    Ok(future) => self.run(vec![id], future).await,
                    Err(refusal) => self.push(&refusal),
                }
            }
            Asked::Batch(entries) => {
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

    /// Notes a call and makes its future; or says why not.
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
        // It goes with the future: one that is dropped was cancelled.
        let asked = self.counts.metrics.begin(Edge::Rpc, method);
        let cancel = CancellationToken::new();
        let in_flight = InFlight { cancel: cancel.clone(), class: call.class() };
        self.in_flight.insert(id.clone(), in_flight);
        let (events, remaining_ms) = (self.events.clone(), call.remaining_ms);
        let scope = CallScope { id: id.clone(), cancel, events, remaining_ms };
        let future = call.start(self.methods, self.number, scope);
        // A bug in one method answers that call and no other.
        let guarded = AssertUnwindSafe(future).catch_unwind().map(move |outcome| {
            let answer = match outcome {
                // jsonrpsee's own words for it name no next step.
                Ok(answer) if answer.as_error_code() == Some(OVERSIZED_RESPONSE_CODE) => {
                    Call::answer(&id, &ErrorBody::answer_too_large())
                }
                Ok(answer) => answer,
                Err(_) => {
                    let error = ErrorBody::new(ErrorCode::Internal, "the method panicked");
                    Call::answer(&id, &error)
                }
            };
            asked.end(dispatch::outcome(&answer));
            answer
        });
        Ok(Box::pin(guarded))
    }

    /// The answer to a call of `method` that is not even begun; it is counted here.
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
            // A quick generation can end within one poll. Its events are in the channel still, and
            // go out before it as those of any call that is waited for.
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

    /// Answers what no method has seen.
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
