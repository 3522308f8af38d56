//! The connection as the proxy has it: none, one being made, or one that carries frames.
//!
//! Owns waiting for whatever it does next. Must not know what a frame holds.

use std::io;
use std::pin::Pin;

use ingle_protocol::frame::Frame;
use tokio::io::AsyncWriteExt;

use crate::proxy::daemon_link::{OpenError, Opened};

/// A connection, or none.
pub(super) enum Link {
    Down,
    Opening(Pin<Box<dyn Future<Output = Result<Opened, OpenError>>>>),
    Up(Box<Up>),
}

pub(super) struct Up {
    pub(super) opened: Opened,
    pub(super) half_closed: bool,
    /// Writing has failed. What the daemon said before it went is still to be read.
    pub(super) write_failed: bool,
}

/// What a connection has done.
pub(super) enum LinkEvent {
    Opened(Box<Result<Opened, OpenError>>),
    DaemonFrame(io::Result<Option<Frame>>),
    Written(io::Result<usize>),
}

impl Link {
    /// What the connection does next: nothing, ever, while there is none. Dropping the future
    /// before it is ready loses no byte in either direction.
    pub(super) async fn next(&mut self, unsent: Option<&[u8]>, may_read: bool) -> LinkEvent {
        match self {
            Self::Down => std::future::pending().await,
            Self::Opening(opening) => {
                let opened = opening.await;
                *self = Self::Down;
                LinkEvent::Opened(Box::new(opened))
            }
            Self::Up(up) => {
                let Up { opened: Opened { reader, writer, .. }, write_failed, .. } = &mut **up;
                let may_write = !*write_failed && unsent.is_some();
                tokio::select! {
                    frame = reader.next(), if may_read => LinkEvent::DaemonFrame(frame),
                    written = writer.write(unsent.unwrap_or_default()), if may_write => {
                        LinkEvent::Written(written)
                    }
                    else => std::future::pending().await,
                }
            }
        }
    }
}
