//! The proxy: frames from the host to the daemon, frames from the daemon to the host.
//!
//! Owns one host session, which may outlive several daemons, and the order of its frames. Reads the
//! envelope of each message and passes its bytes on as they are. Must not know what a method does,
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
use connection::{Link, LinkEvent, Up};
use daemon_link::{Connector, OpenError, Opened};
use message_fields::refusal_frame;
use pending::{Expired, Pending, Settled};
use queue::{Kind, Queue};
use session::McpSession;

/// Frames towards the host past which the daemon is not read.
const OUTBOX_FRAMES: usize = 32;

/// Proxies one host session until it ends, and returns the exit code.
///
/// `report` hears of every failure to reach the daemon, for a person: the host's requests are
/// answered with the same error.
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
        was_of_use: false,
        timeouts: WorkTimeouts::default(),
        exit_code: exit::OK,
        report,
    };
    // At once rather than on demand: a daemon that must be started gets a head start.
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
    /// Connections lost since the last byte that got through.
    fruitless: u32,
    backoff: Backoff,
    /// Whether the daemon of this connection has answered something.
    was_of_use: bool,
    timeouts: WorkTimeouts,
    exit_code: u8,
    report: F,
}

enum Event {
    HostFrame(io::Result<Option<Frame>>),
    HostReadsNoMore,
    HostTakes,
    Link(LinkEvent),
    LimitRunsOut,
    DrainEnds,
}

type Flow = std::ops::ControlFlow<()>;
const GO_ON: Flow = Flow::Continue(());
const STOP: Flow = Flow::Break(());

impl<R: AsyncRead + Unpin, F: Fn(&ErrorBody)> Proxy<R, F> {
    async fn turn(&mut self) -> Flow {
        if self.host_ended_at.is_some() && self.queue.frames.is_empty() {
            if self.session.listens() && self.pending.len() == 0 {
                // Nothing is owed, and what goes on would never end by itself.
                return STOP;
            }
            match &mut self.link {
                Link::Up(up) if !up.half_closed => {
                    up.half_closed = true;
                    // A daemon that has gone meanwhile shows as the end of its frames.
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
            frame = self.host.next(), if may_read_host => Event::HostFrame(frame),
            permit = self.out.reserve(), if !self.outbox.is_empty() => match permit {
                Ok(permit) => {
                    permit.send(take_all(&mut self.outbox));
                    Event::HostTakes
                }
                Err(_) => Event::HostReadsNoMore,
            },
            () = self.out.closed() => Event::HostReadsNoMore,
            event = self.link.next(unsent, may_read_daemon) => Event::Link(event),
            () = limit_runs_out => Event::LimitRunsOut,
            () = drain_ends => Event::DrainEnds,
        };
        match event {
            Event::HostFrame(frame) => self.on_host_frame(frame),
            Event::HostTakes => {}
            Event::LimitRunsOut => self.on_limit(),
            Event::HostReadsNoMore | Event::DrainEnds => return STOP,
            Event::Link(LinkEvent::Opened(opened)) => return self.on_opened(*opened),
            Event::Link(LinkEvent::DaemonFrame(frame)) => return self.on_daemon_frame(frame),
            Event::Link(LinkEvent::Written(written)) => self.on_written(written),
        }
        GO_ON
    }

    /// When the session ends although the daemon has not closed the connection: a while after the
    /// host's last byte. An MCP host that closes our input waits for us to end; a script that pipes
    /// requests into `ingle rpc` waits for its answers, which the shim's share of the ladder
    /// bounds.
    fn drain_limit(&self) -> Option<Instant> {
        let ended_at = self.host_ended_at?;
        if matches!(self.link, Link::Opening(_)) {
            // It has limits of its own.
            return None;
        }
        let soon = ended_at + Duration::from_millis(limits::DRAIN_MS);
        match (self.hello.role, self.pending.last_due()) {
            (Role::Rpc, Some(due_at)) => Some(soon.max(due_at)),
            _ => Some(soon),
        }
    }

    /// Answers what has taken longer than the shim's share of the ladder. The daemon is told to
    /// give it up, for when it comes to itself.
    fn on_limit(&mut self) {
        let Expired { answers, unsent, given_up } = self.pending.expire(now());
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
                self.queue.push(format!("{cancel}\n").into_bytes(), Kind::Passing);
            }
        }
        if self.hello.role == Role::Mcp {
            // MCP uses no id twice, so a late answer that nobody knows is told from all others.
            self.pending.forget_expired();
        }
    }

    /// A request that has waited here hands its daemon less than the daemon would give it. One that
    /// goes on at once need not be touched, and MCP has no place for it.
    fn hand_limit_down(&mut self) {
        // Before the daemon is there, more time passes.
        if self.hello.role != Role::Rpc || !matches!(self.link, Link::Up(_)) {
            return;
        }
        let Some(front) = self.queue.frames.front() else { return };
        if front.written > 0 || front.kind != Kind::Request || front.limit_handed_down {
            return;
        }
        if let Some(remaining_ms) = self.pending.remaining_ms(front.number, now()) {
            self.queue.hand_limit_down(remaining_ms);
        }
    }

    fn connect(&mut self) {
        let opening =
            daemon_link::open((self.connector)(), self.hello.clone(), self.session.handover());
        // A daemon that closes connections may be on its way out: give it a moment to be gone. And
        // one that dies again and again is not started as fast as it dies.
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
        line.messages().iter().for_each(|message| self.hear_cancel(message));
        if matches!(self.link, Link::Down) && !kind.is_request() {
            // Nothing that a daemon would have to be started for.
            if kind == Kind::Initialized {
                self.session.mark_initialized();
            }
            return;
        }
        let number = self.queue.next_number;
        if let Kind::Listen(_, raw_id) = &kind {
            // It has no limit and outlives its daemon, so it is not one of those in flight.
            if !self.session.has_room(self.queue.listens().count()) {
                let message = format!("{} are listened to", crate::limits::SHIM_SUBSCRIPTIONS);
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

    /// A cancelled request that the daemon does not have yet never gets there.
    fn hear_cancel(&mut self, message: &Message<'_>) {
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
            // MCP answers no cancelled request; our own RPC does.
            self.pending.forget(&id);
            self.queue.withdraw_listen(&id);
            self.session.end_listen(&id);
        }
    }

    fn kind(&self, line: &Line<'_>) -> Kind {
        let is_mcp = self.hello.role == Role::Mcp;
        if let (Line::Single(message), true) = (line, is_mcp) {
            match (message.as_request(), message.method()) {
                (Some(("initialize", id)), _) => return Kind::Initialize(RequestId::read(id)),
                (Some((session::LISTEN, id)), _) => {
                    return Kind::Listen(RequestId::read(id), id.get().to_owned());
                }
                (None, Some("notifications/initialized")) => return Kind::Initialized,
                _ => {}
            }
        }
        if is_mcp && McpSession::concerns(line) {
            return Kind::Subscribing;
        }
        let has_request = line.messages().iter().any(|message| message.as_answerable().is_some());
        // A batch that holds nothing sound is the daemon's to refuse.
        let is_unsound = line.messages().is_empty();
        if has_request || is_unsound { Kind::Request } else { Kind::Passing }
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
                Kind::Initialized => self.session.mark_initialized(),
                Kind::Subscribing => {
                    Line::parse(&front.bytes)
                        .iter()
                        .for_each(|line| self.session.hear_wishes(line));
                }
                Kind::Listen(id, _) => self.session.begin_listen(id.clone(), front.bytes.clone()),
                Kind::Request | Kind::Initialize(_) | Kind::Passing => {}
            }
        }
        front.written += written;
        if front.written == front.bytes.len()
            && let Some(frame) = self.queue.pop()
            && let Kind::Initialize(id) = frame.kind
        {
            self.session.ask(id, frame.bytes);
        }
    }

    fn on_daemon_frame(&mut self, frame: io::Result<Option<Frame>>) -> Flow {
        // A frame over the limit may have been the answer to anything, and half a frame is none.
        let Ok(Some(Frame::Line(mut line))) = frame else { return self.on_lost() };
        if let Ok(parsed) = Line::parse(&line) {
            let mut is_wanted = false;
            for message in parsed.messages() {
                let Some(id) = message.as_reply() else {
                    let is_known = self.session.is_known_to_host(message);
                    if is_known {
                        let missed = McpSession::missed(message);
                        self.outbox.extend(Some(missed).filter(|frames| !frames.is_empty()));
                    }
                    is_wanted |= !is_known;
                    continue;
                };
                let id = RequestId::read(id);
                // An answer without an id is about something that had none that could be read.
                is_wanted |= self.pending.settle(&id) == Settled::Awaited
                    || self.session.end_listen(&id)
                    || id == RequestId::Null;
                self.session.hear_reply(&id, message);
                self.was_of_use = true;
            }
            // The requests of one frame are due together, so an answer is wanted whole or not at
            // all.
            if is_wanted {
                line.push(b'\n');
                self.outbox.push_back(line);
            }
        }
        GO_ON
    }

    fn on_opened(&mut self, opened: Result<Opened, OpenError>) -> Flow {
        match opened {
            Ok(mut opened) => {
                self.exit_code = exit::OK;
                // The drain begins when there is something to drain into.
                self.host_ended_at = self.host_ended_at.map(|_| now());
                self.timeouts = opened.hello.timeouts.clone();
                self.pending.retime(&self.timeouts);
                self.session.handed_over();
                self.outbox.extend(std::mem::take(&mut opened.strays));
                let up = Up { opened, half_closed: false, write_failed: false };
                self.link = Link::Up(Box::new(up));
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

    /// The connection has ended. Requests that the daemon had are answered; the others go to the
    /// next daemon.
    fn on_lost(&mut self) -> Flow {
        self.link = Link::Down;
        self.backoff.note(std::mem::take(&mut self.was_of_use), now());
        self.outbox.extend(self.pending.lose());
        self.session.forget_questions();
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

    /// Answers everything that waits for a daemon. The next request tries again.
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
            // An error means that the host reads no more, and needs no answers either.
            let limit = Duration::from_millis(limits::DRAIN_MS);
            let send = self.out.send(take_all(&mut self.outbox));
            let _ = tokio::time::timeout(limit, send).await;
        }
        match (self.hello.role, unanswered) {
            // The drain limit came before the last answers.
            (Role::Rpc, 1..) if self.exit_code == exit::OK => exit::FAILED,
            _ => self.exit_code,
        }
    }
}

/// The time, by the clock that the timers go by.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits for that time, or for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// All frames as one chunk: one frame is moved, several become one write.
fn take_all(outbox: &mut VecDeque<Vec<u8>>) -> Vec<u8> {
    let mut all = outbox.pop_front().unwrap_or_default();
    for frame in outbox.drain(..) {
        all.extend_from_slice(&frame);
    }
    all
}
