//! State of the connection: down, opening or up.
//!
//! Owns waiting for its next event. Does not know the content of frames.

use std::io;
use std::pin::Pin;

use ingle_protocol::frame::Frame;
use tokio::io::AsyncWriteExt;

use crate::proxy::daemon_link::{OpenConnection, OpenError};

/// The link to the daemon.
pub(super) enum Link {
    Down,
    Opening(Pin<Box<dyn Future<Output = Result<OpenConnection, OpenError>>>>),
    Up(Box<Connection>),
}

pub(super) struct Connection {
    pub(super) opened: OpenConnection,
    pub(super) half_closed: bool,
    /// Writing has failed. Frames that the daemon sent before it ended are still read.
    pub(super) write_failed: bool,
}

/// An event of the connection.
pub(super) enum LinkEvent {
    Opened(Box<Result<OpenConnection, OpenError>>),
    DaemonFrame(io::Result<Option<Frame>>),
    Written(io::Result<usize>),
}

impl Link {
    /// Waits for the next event; while the link is down there is none. Dropping the future before
    /// it is ready loses no byte in either direction.
    pub(super) async fn next(&mut self, unsent: Option<&[u8]>, may_read: bool) -> LinkEvent {
        match self {
            Self::Down => std::future::pending().await,
            Self::Opening(opening) => {
                let opened = opening.await;
                *self = Self::Down;
                LinkEvent::Opened(Box::new(opened))
            }
            Self::Up(up) => {
                let Connection {
                    opened: OpenConnection { reader, writer, .. }, write_failed, ..
                } = &mut **up;
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
