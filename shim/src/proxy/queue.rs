//! Queue of frames that are not written to the daemon, or not completely.
//!
//! Owns their order, their bound, and which of them are useful to another daemon. Does not know how
//! they are written.

use std::collections::VecDeque;

use ingle_protocol::jsonrpc::RequestId;
use ingle_protocol::limits;
use ingle_protocol::wire::extensions::REMAINING;

use crate::proxy::pending::FrameNumber;
use crate::proxy::session::McpSession;

/// The queue of frames towards the daemon.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) frames: VecDeque<Outgoing>,
    pub(super) bytes: usize,
    pub(super) next_number: FrameNumber,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) number: FrameNumber,
    pub(super) bytes: Vec<u8>,
    pub(super) written: usize,
    pub(super) kind: FrameKind,
    /// Whether the remaining time is written into the frame.
    pub(super) limit_handed_down: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum FrameKind {
    /// It has a request, which is worth starting a daemon.
    Request,
    /// MCP's first request, which is repeated to a new daemon.
    Initialize(RequestId),
    /// MCP's `notifications/initialized`.
    Initialized,
    /// It has a request about subscriptions, which outlive a daemon.
    Subscribing,
    /// A request that stays open until it is cancelled, even across daemons; its id, as a value and
    /// as the host wrote it.
    Listen(RequestId, String),
    /// Notifications, and replies to requests of the present daemon: useless to a new one.
    Passing,
}

impl Queue {
    pub(super) fn has_room(&self) -> bool {
        self.frames.len() < crate::limits::SHIM_QUEUED_FRAMES
            && self.bytes < crate::limits::SHIM_QUEUED_BYTES
    }

    pub(super) fn push(&mut self, bytes: Vec<u8>, kind: FrameKind) {
        self.bytes += bytes.len();
        let number = self.next_number;
        let (written, limit_handed_down) = (0, false);
        self.frames.push_back(Outgoing { number, bytes, written, kind, limit_handed_down });
        self.next_number += 1;
    }

    pub(super) fn pop(&mut self) -> Option<Outgoing> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.bytes.len();
        Some(frame)
    }

    pub(super) fn remove(&mut self, number: FrameNumber) {
        self.frames.retain(|frame| frame.number != number);
        self.bytes = self.frames.iter().map(|frame| frame.bytes.len()).sum();
    }

    /// Ids, as the host wrote them, of the open requests that are not written yet.
    pub(super) fn listens(&self) -> impl Iterator<Item = &str> {
        self.frames.iter().filter_map(|frame| match &frame.kind {
            FrameKind::Listen(_, raw_id) if frame.written == 0 => Some(raw_id.as_str()),
            _ => None,
        })
    }

    /// Withdraws an open request that is not written yet.
    pub(super) fn withdraw_listen(&mut self, id: &RequestId) {
        self.frames.retain(|frame| {
            frame.written > 0 || !matches!(&frame.kind, FrameKind::Listen(other, _) if other == id)
        });
        self.bytes = self.frames.iter().map(|frame| frame.bytes.len()).sum();
    }

    /// Writes the remaining time of the shim's limit into the next frame, which has one request, as
    /// its first field.
    pub(super) fn hand_limit_down(&mut self, remaining_ms: u64) {
        let Some(front) = self.frames.front_mut() else { return };
        front.limit_handed_down = true;
        let field = format!(r#""{REMAINING}":{remaining_ms},"#);
        let open = front.bytes.iter().position(|byte| *byte == b'{');
        let fits = front.bytes.len() + field.len() <= limits::FRAME_BYTES;
        if let Some(open) = open.filter(|_| fits) {
            self.bytes += field.len();
            front.bytes.splice(open + 1..=open, field.into_bytes());
        }
    }

    /// Drops frames that are useless to another daemon. The rest, if any, begins with a request.
    pub(super) fn drop_passing(&mut self, session: &mut McpSession) {
        self.frames.retain(|frame| frame.kind != FrameKind::Passing);
        if !self.frames.iter().any(Outgoing::is_request) {
            self.clear(session);
        }
        self.bytes = self.frames.iter().map(|frame| frame.bytes.len()).sum();
    }

    pub(super) fn clear(&mut self, session: &mut McpSession) {
        if self.frames.drain(..).any(|frame| frame.kind == FrameKind::Initialized) {
            session.mark_initialized();
        }
        self.bytes = 0;
    }
}

impl FrameKind {
    /// Whether it is worth starting a daemon.
    pub(super) fn is_request(&self) -> bool {
        match self {
            Self::Request | Self::Initialize(_) | Self::Subscribing | Self::Listen(..) => true,
            Self::Initialized | Self::Passing => false,
        }
    }
}

impl Outgoing {
    pub(super) fn is_request(&self) -> bool {
        self.kind.is_request()
    }
}
