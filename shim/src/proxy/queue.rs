//! Frames that the daemon does not have yet, or not in full.
//!
//! Owns their order, their bound, and which of them mean anything to another daemon. Must not know
//! how they are written.

use std::collections::VecDeque;

use ingle_protocol::jsonrpc::RequestId;
use ingle_protocol::limits;
use ingle_protocol::wire::extensions::REMAINING;

use crate::proxy::pending::FrameNumber;
use crate::proxy::session::McpSession;

/// Frames that the daemon does not have yet, or not in full.
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
    pub(super) kind: Kind,
    /// The daemon is told in the frame how much time is left.
    pub(super) limit_handed_down: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Holds a request: worth starting a daemon for.
    Request,
    /// MCP's first request: a new daemon must hear it too.
    Initialize(RequestId),
    /// MCP's `notifications/initialized`.
    Initialized,
    /// Holds a request about subscriptions, which outlive a daemon.
    Subscribing,
    /// A request that goes on until it is cancelled, daemon or no daemon; its id, read and as the
    /// host wrote it.
    Listen(RequestId, String),
    /// Notifications, and answers to requests of the present daemon: nothing to a new one.
    Passing,
}

impl Queue {
    pub(super) fn has_room(&self) -> bool {
        self.frames.len() < crate::limits::SHIM_QUEUED_FRAMES
            && self.bytes < crate::limits::SHIM_QUEUED_BYTES
    }

    pub(super) fn push(&mut self, bytes: Vec<u8>, kind: Kind) {
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

    /// Requests that go on and are not written yet, as the host wrote their ids.
    pub(super) fn listens(&self) -> impl Iterator<Item = &str> {
        self.frames.iter().filter_map(|frame| match &frame.kind {
            Kind::Listen(_, raw_id) if frame.written == 0 => Some(raw_id.as_str()),
            _ => None,
        })
    }

    /// Takes back a request that goes on, if it is not written yet.
    pub(super) fn withdraw_listen(&mut self, id: &RequestId) {
        self.frames.retain(|frame| {
            frame.written > 0 || !matches!(&frame.kind, Kind::Listen(other, _) if other == id)
        });
        self.bytes = self.frames.iter().map(|frame| frame.bytes.len()).sum();
    }

    /// Puts what is left of the shim's limit into the next frame, which holds one request, as its
    /// first member.
    pub(super) fn hand_limit_down(&mut self, remaining_ms: u64) {
        let Some(front) = self.frames.front_mut() else { return };
        front.limit_handed_down = true;
        let member = format!(r#""{REMAINING}":{remaining_ms},"#);
        let open = front.bytes.iter().position(|byte| *byte == b'{');
        let fits = front.bytes.len() + member.len() <= limits::FRAME_BYTES;
        if let Some(open) = open.filter(|_| fits) {
            self.bytes += member.len();
            front.bytes.splice(open + 1..=open, member.into_bytes());
        }
    }

    /// Drops what means nothing to another daemon. What is left, if anything, begins with a
    /// request.
    pub(super) fn drop_passing(&mut self, session: &mut McpSession) {
        self.frames.retain(|frame| frame.kind != Kind::Passing);
        if !self.frames.iter().any(Outgoing::is_request) {
            self.clear(session);
        }
        self.bytes = self.frames.iter().map(|frame| frame.bytes.len()).sum();
    }

    pub(super) fn clear(&mut self, session: &mut McpSession) {
        if self.frames.drain(..).any(|frame| frame.kind == Kind::Initialized) {
            session.mark_initialized();
        }
        self.bytes = 0;
    }
}

impl Kind {
    /// Whether it is worth starting a daemon for.
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
