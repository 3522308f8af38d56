//! The proxy (shim): passes frames between a host and the daemon.
//!
//! Owns one host session, which may outlive several daemons, and the order of its frames. Reads the
//! envelope of each message and passes its bytes on unchanged. Does not know what a method does,
//! nor where the bytes come from and go to.
//!
//! One task does everything, so there is no state to share: each turn of the loop waits for the
//! host's next frame, room towards the host, and whatever the connection can do next.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use ingle_client::exit;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::frame::{Frame, FrameReader};
use ingle_protocol::jsonrpc::{Line, Message, Refusal, RequestId, error_reply, frame_of};
use ingle_protocol::limits;
use ingle_protocol::timeouts::WorkTimeouts;
use ingle_protocol::wire::extensions::CANCEL;
use ingle_protocol::wire::hello::{HelloParams, Role};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::sync::mpsc;

mod backoff;
mod connection;
pub(crate) mod daemon_link;
pub(crate) mod host;
mod message_fields;
mod pending;
mod queue;
mod session;
pub(crate) mod stdio;
#[cfg(test)]
mod tests;

use backoff::Backoff;
use connection::{Connection, Link, LinkEvent};
use daemon_link::{Connector, OpenConnection, OpenError};
use message_fields::refusal_frame;
use pending::{ExpiredRequests, Pending, ReplyStatus};
use queue::{FrameKind, Queue};
use session::McpSession;

/// Frames waiting for the host, above which the daemon is not read.
const OUTBOX_FRAMES: usize = 32;

/// Proxies one host session until it ends, and returns the exit code.
///
/// `report` is called with every failure to reach the daemon, to show it to a person; the host's
/// requests are answered with the same error.
pub(crate) async fn run(
    hello: HelloParams,
    connector: Connector,
    host: impl AsyncRead + Unpin,
    out: mpsc::Sender<Vec<u8>>,
    report: impl Fn(&ErrorBody),
) -> u8 {
    let mut proxy = Proxy {
        hello,
        connector,
        host: FrameReader::new(host, limits::FRAME_BYTES),
        host_ended_at: None,
        out,
        outbox: VecDeque::new(),
        queue: Queue::default(),
        pending: Pending::default(),
        session: McpSession::default(),
        link: Link::Down,
        fruitless: 0,
        backoff: Backoff::default(),
        has_answered: false,
        timeouts: WorkTimeouts::default(),
        exit_code: exit::OK,
        report,
    };
    // At once, not on demand: a daemon that must be started gets a head start.
    proxy.connect();
    while proxy.turn().await.is_continue() {}
    proxy.finish().await
}

struct Proxy<R, F> {
    hello: HelloParams,
    connector: Connector,
    host: FrameReader<R>,
    host_ended_at: Option<Instant>,
    out: mpsc::Sender<Vec<u8>>,
    /// Frames for the host, newlines included.
    outbox: VecDeque<Vec<u8>>,
    queue: Queue,
    pending: Pending,
    session: McpSession,
    link: Link,
    /// Connections lost since the last byte that was written.
    fruitless: u32,
    backoff: Backoff,
    /// Whether the daemon of this connection has answered a request.
    has_answered: bool,
    timeouts: WorkTimeouts,
    exit_code: u8,
    report: F,
}

enum ProxyEvent {
    HostFrame(io::Result<Option<Frame>>),
    HostClosed,
    HostWritten,
    Link(LinkEvent),
    LimitExpired,
    DrainEnded,
}

type Flow = std::ops::ControlFlow<()>;
const GO_ON: Flow = Flow::Continue(());
const STOP: Flow = Flow::Break(());

impl<R: AsyncRead + Unpin, F: Fn(&ErrorBody)> Proxy<R, F> {
    async fn turn(&mut self) -> Flow {
        if self.host_ended_at.is_some() && self.queue.frames.is_empty() {
            if self.session.listens() && self.pending.len() == 0 {
                // No reply is due, and a `subscriptions/listen` would never end by itself.
                return STOP;
            }
            match &mut self.link {
                Link::Up(up) if !up.half_closed => {
                    up.half_closed = true;
                    // A daemon that has ended meanwhile shows as the end of its frames.
                    let _ = up.opened.writer.shutdown().await;
                }
                Link::Up(_) => {}
                Link::Down | Link::Opening(_) => return STOP,
            }
        }
        let drain_ends = at(self.drain_limit());
        let limit_runs_out = at(self.pending.next_due());
        self.hand_limit_down();
        let may_read_daemon = self.outbox.len() < OUTBOX_FRAMES;
        let may_read_host =
            self.host_ended_at.is_none() && self.queue.has_room() && may_read_daemon;
        let unsent = self.queue.frames.front().map(|frame| &frame.bytes[frame.written..]);
        let event = tokio::select! {
            frame = self.host.next(), if may_read_host => ProxyEvent::HostFrame(frame),
            permit = self.out.reserve(), if !self.outbox.is_empty() => match permit {
                Ok(permit) => {
                    permit.send(take_all(&mut self.outbox));
                    ProxyEvent::HostWritten
                }
                Err(_) => ProxyEvent::HostClosed,
            },
            () = self.out.closed() => ProxyEvent::HostClosed,
            event = self.link.next(unsent, may_read_daemon) => ProxyEvent::Link(event),
            () = limit_runs_out => ProxyEvent::LimitExpired,
            () = drain_ends => ProxyEvent::DrainEnded,
        };
        match event {
            ProxyEvent::HostFrame(frame) => self.on_host_frame(frame),
            ProxyEvent::HostWritten => {}
            ProxyEvent::LimitExpired => self.on_limit(),
            ProxyEvent::HostClosed | ProxyEvent::DrainEnded => return STOP,
            ProxyEvent::Link(LinkEvent::Opened(opened)) => return self.on_opened(*opened),
            ProxyEvent::Link(LinkEvent::DaemonFrame(frame)) => return self.on_daemon_frame(frame),
            ProxyEvent::Link(LinkEvent::Written(written)) => self.on_written(written),
        }
        GO_ON
    }

    /// The time when the session ends although the daemon has not closed the connection: a while
    /// after the host's last byte. An MCP host that closes our input waits for us to end; a script
    /// that pipes requests into `ingle rpc` waits for its replies, which the shim's limits bound.
    fn drain_limit(&self) -> Option<Instant> {
        let ended_at = self.host_ended_at?;
        if matches!(self.link, Link::Opening(_)) {
            // Opening has limits of its own.
            return None;
        }
        let soon = ended_at + Duration::from_millis(limits::DRAIN_MS);
        match (self.hello.role, self.pending.last_due()) {
            (Role::Rpc, Some(due_at)) => Some(soon.max(due_at)),
            _ => Some(soon),
        }
    }

    /// Answers requests whose limit of the shim has expired, and sends the daemon a cancel for
    /// each, for when it responds again.
    fn on_limit(&mut self) {
        let ExpiredRequests { answers, unsent, given_up } = self.pending.expire(now());
        self.outbox.extend(answers);
        unsent.into_iter().for_each(|number| self.queue.remove(number));
        for raw_id in given_up {
            let cancel = match self.hello.role {
                Role::Mcp => format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{raw_id},"reason":"timeout"}}}}"#
                ),
                Role::Rpc => {
                    format!(
                        r#"{{"jsonrpc":"2.0","method":"{CANCEL}","params":{{"id":{raw_id},"timed_out":"shim"}}}}"#
                    )
                }
            };
            if matches!(self.link, Link::Up(_)) && self.queue.has_room() {
                self.queue.push(format!("{cancel}\n").into_bytes(), FrameKind::Passing);
            }
        }
        if self.hello.role == Role::Mcp {
            // MCP uses no id twice, so a late reply cannot be mistaken for another.
            self.pending.forget_expired();
        }
    }

    /// Writes the remaining time into a request that has waited here. One that is sent at once
    /// needs no change, and MCP has no field for it.
    fn hand_limit_down(&mut self) {
        // Not before the connection is up: until then more time passes.
        if self.hello.role != Role::Rpc || !matches!(self.link, Link::Up(_)) {
            return;
        }
        let Some(front) = self.queue.frames.front() else { return };
        if front.written > 0 || front.kind != FrameKind::Request || front.limit_handed_down {
            return;
        }
        if let Some(remaining_ms) = self.pending.remaining_ms(front.number, now()) {
            self.queue.hand_limit_down(remaining_ms);
        }
    }

    fn connect(&mut self) {
        let opening =
            daemon_link::open((self.connector)(), self.hello.clone(), self.session.handover());
        // A daemon that closes connections may be shutting down: it gets time to end. And a daemon
        // that crashes repeatedly is restarted with a growing pause.
        let pause = Duration::from_millis(100) * self.fruitless.saturating_sub(1);
        let pause = pause.max(self.backoff.pause(now()));
        self.link = Link::Opening(Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            opening.await
        }));
    }

    fn on_host_frame(&mut self, frame: io::Result<Option<Frame>>) {
        match frame {
            Ok(Some(Frame::Line(line))) => self.on_host_line(line),
            Ok(Some(Frame::TooLong(id))) => {
                self.outbox.push_back(refusal_frame(&Refusal::too_long(id)));
            }
            // A last line without its newline is whole if it is JSON.
            Ok(Some(Frame::Torn(line))) => self.on_host_line(line),
            Ok(None) | Err(_) => self.host_ended_at = Some(now()),
        }
    }

    fn on_host_line(&mut self, mut bytes: Vec<u8>) {
        let line = match Line::parse(&bytes) {
            Ok(line) => line,
            Err(refusal) => return self.outbox.push_back(refusal_frame(&refusal)),
        };
        let kind = self.kind(&line);
        line.messages().iter().for_each(|message| self.note_cancel(message));
        if matches!(self.link, Link::Down) && !kind.is_request() {
            // Not worth starting a daemon.
            if kind == FrameKind::Initialized {
                self.session.mark_initialized();
            }
            return;
        }
        let number = self.queue.next_number;
        if let FrameKind::Listen(_, raw_id) = &kind {
            // It has no limit and outlives its daemon, so it does not count as in flight.
            if !self.session.has_room(self.queue.listens().count()) {
                let message =
                    format!("{} subscriptions are open", crate::limits::SHIM_SUBSCRIPTIONS);
                let raw_id = raw_id.clone();
                return self.answer(&raw_id, &ErrorBody::overloaded(message));
            }
        } else if let Err(refusal) = self.pending.note(number, &line, &self.timeouts, now()) {
            return self.outbox.push_back(refusal);
        }
        bytes.push(b'\n');
        self.queue.push(bytes, kind);
        if matches!(self.link, Link::Down) {
            self.connect();
        }
    }

    /// Withdraws a cancelled request that the daemon does not have yet.
    fn note_cancel(&mut self, message: &Message<'_>) {
        let is_mcp = self.hello.role == Role::Mcp;
        let cancel = if is_mcp { "notifications/cancelled" } else { CANCEL };
        let id = message_fields::cancelled_id(message).filter(|_| message.method() == Some(cancel));
        let Some(id) = id else { return };
        for (number, raw_id) in self.pending.withdraw(&id) {
            self.queue.remove(number);
            if !is_mcp {
                let error = ErrorBody::new(ErrorCode::Cancelled, "cancelled before it was sent");
                self.answer(raw_id.get(), &error);
            }
        }
        if is_mcp {
            // MCP does not answer a cancelled request; our own RPC does.
            self.pending.forget(&id);
            self.queue.withdraw_listen(&id);
            self.session.end_listen(&id);
        }
    }

    fn kind(&self, line: &Line<'_>) -> FrameKind {
        let is_mcp = self.hello.role == Role::Mcp;
        if let (Line::Single(message), true) = (line, is_mcp) {
            match (message.as_request(), message.method()) {
                (Some(("initialize", id)), _) => return FrameKind::Initialize(RequestId::read(id)),
                (Some((session::LISTEN, id)), _) => {
                    return FrameKind::Listen(RequestId::read(id), id.get().to_owned());
                }
                (None, Some("notifications/initialized")) => return FrameKind::Initialized,
                _ => {}
            }
        }
        if is_mcp && McpSession::concerns(line) {
            return FrameKind::Subscribing;
        }
        let has_request = line.messages().iter().any(|message| message.as_answerable().is_some());
        // A batch without a readable message is refused by the daemon.
        let is_unsound = line.messages().is_empty();
        if has_request || is_unsound { FrameKind::Request } else { FrameKind::Passing }
    }

    fn answer(&mut self, raw_id: &str, error: &ErrorBody) {
        let reply = error_reply(raw_id, &error.to_rpc());
        self.outbox.push_back(frame_of(&[reply], false));
    }

    fn on_written(&mut self, written: io::Result<usize>) {
        let (Ok(written @ 1..), Some(front)) = (written, self.queue.frames.front_mut()) else {
            if let Link::Up(up) = &mut self.link {
                up.write_failed = true;
            }
            return;
        };
        self.fruitless = 0;
        if front.written == 0 {
            self.pending.mark_written(front.number);
            match &front.kind {
                FrameKind::Initialized => self.session.mark_initialized(),
                FrameKind::Subscribing => {
                    Line::parse(&front.bytes)
                        .iter()
                        .for_each(|line| self.session.note_changes(line));
                }
                FrameKind::Listen(id, _) => {
                    self.session.begin_listen(id.clone(), front.bytes.clone())
                }
                FrameKind::Request | FrameKind::Initialize(_) | FrameKind::Passing => {}
            }
        }
        front.written += written;
        if front.written == front.bytes.len()
            && let Some(frame) = self.queue.pop()
            && let FrameKind::Initialize(id) = frame.kind
        {
            self.session.note_initialize(id, frame.bytes);
        }
    }

    fn on_daemon_frame(&mut self, frame: io::Result<Option<Frame>>) -> Flow {
        // A frame over the limit may be the reply to any request, and half a frame is no reply.
        let Ok(Some(Frame::Line(mut line))) = frame else { return self.on_lost() };
        if let Ok(parsed) = Line::parse(&line) {
            let mut is_wanted = false;
            for message in parsed.messages() {
                let Some(id) = message.as_reply() else {
                    let is_known = self.session.is_known_to_host(message);
                    if is_known {
                        let frames = McpSession::catch_up_frames(message);
                        self.outbox.extend(Some(frames).filter(|frames| !frames.is_empty()));
                    }
                    is_wanted |= !is_known;
                    continue;
                };
                let id = RequestId::read(id);
                // A reply under null answers a message whose id could not be read.
                is_wanted |= self.pending.settle(&id) == ReplyStatus::Awaited
                    || self.session.end_listen(&id)
                    || id == RequestId::Null;
                self.session.note_reply(&id, message);
                self.has_answered = true;
            }
            // The requests of one frame are due together, so a reply passes whole or not at all.
            if is_wanted {
                line.push(b'\n');
                self.outbox.push_back(line);
            }
        }
        GO_ON
    }

    fn on_opened(&mut self, opened: Result<OpenConnection, OpenError>) -> Flow {
        match opened {
            Ok(mut opened) => {
                self.exit_code = exit::OK;
                // The drain time begins now that there is a daemon to send to.
                self.host_ended_at = self.host_ended_at.map(|_| now());
                self.timeouts = opened.hello.timeouts.clone();
                self.pending.retime(&self.timeouts);
                self.session.handed_over();
                self.outbox.extend(std::mem::take(&mut opened.strays));
                let connection = Connection { opened, half_closed: false, write_failed: false };
                self.link = Link::Up(Box::new(connection));
                GO_ON
            }
            Err(OpenError::Lost) => self.on_lost(),
            Err(OpenError::Unavailable(error)) => {
                self.exit_code = error.exit_code;
                self.give_up(&error.body);
                GO_ON
            }
            Err(OpenError::Changed(error)) => {
                self.exit_code = exit::UNAVAILABLE;
                self.give_up(&error);
                STOP
            }
        }
    }

    /// The connection is lost. Requests that the daemon had are answered with an error; the others
    /// go to the next daemon.
    fn on_lost(&mut self) -> Flow {
        self.link = Link::Down;
        self.backoff.note(std::mem::take(&mut self.has_answered), now());
        self.outbox.extend(self.pending.lose());
        self.session.forget_unanswered();
        self.fruitless += 1;
        if self.queue.frames.front().is_some_and(|frame| frame.written > 0) {
            self.queue.pop();
        }
        self.queue.drop_passing(&mut self.session);
        if self.queue.frames.is_empty() {
            return GO_ON;
        }
        if self.fruitless < crate::limits::SHIM_FRUITLESS_CONNECTIONS {
            self.connect();
        } else {
            self.fruitless = 0;
            let message = "the daemon closes every connection before it takes a request";
            self.exit_code = exit::UNAVAILABLE;
            self.give_up(&ErrorBody::new(ErrorCode::DaemonUnavailable, message));
        }
        GO_ON
    }

    /// Answers all requests that wait for a daemon with an error. The next request tries again.
    fn give_up(&mut self, error: &ErrorBody) {
        (self.report)(error);
        self.link = Link::Down;
        self.outbox.extend(self.pending.refuse(error));
        let listens: Vec<String> = self.queue.listens().map(str::to_owned).collect();
        listens.iter().for_each(|raw_id| self.answer(raw_id, error));
        self.queue.clear(&mut self.session);
    }

    async fn finish(mut self) -> u8 {
        let unanswered = self.pending.len();
        if self.hello.role == Role::Rpc {
            self.outbox.extend(self.pending.answer_rest(now()));
        }
        if !self.outbox.is_empty() {
            // An error means that the host has stopped reading, and needs no replies.
            let limit = Duration::from_millis(limits::DRAIN_MS);
            let send = self.out.send(take_all(&mut self.outbox));
            let _ = tokio::time::timeout(limit, send).await;
        }
        match (self.hello.role, unanswered) {
            // The drain limit passed before the last replies.
            (Role::Rpc, 1..) if self.exit_code == exit::OK => exit::FAILED,
            _ => self.exit_code,
        }
    }
}

/// The time, by the clock of the timers.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits until this time, or forever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Takes all frames as one chunk: one frame is moved, several become one write.
fn take_all(outbox: &mut VecDeque<Vec<u8>>) -> Vec<u8> {
    let mut all = outbox.pop_front().unwrap_or_default();
    for frame in outbox.drain(..) {
        all.extend_from_slice(&frame);
    }
    all
}
