//! The local socket: connecting, half-closing, sharing.
//!
//! Owns the parts that `interprocess` does not offer. Knows no frames. All other code takes
//! `AsyncRead + AsyncWrite`, so that named pipes can be added without another change.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use interprocess::local_socket::tokio::prelude::*;
use interprocess::local_socket::{GenericFilePath, Name};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use interprocess::local_socket::tokio::Stream;

/// The name of the socket at a path, for `interprocess`.
///
/// # Errors
/// When the path cannot be a socket's name.
pub fn name(path: &Path) -> io::Result<Name<'_>> {
    path.to_fs_name::<GenericFilePath>()
}

/// Connects to the socket at `path`.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when no daemon listens there.
pub async fn connect(path: &Path) -> io::Result<Stream> {
    Stream::connect(name(path)?).await
}

/// Half-closes the stream: nothing more is sent, and replies can still be read. (The stream's own
/// `poll_shutdown` does nothing.)
///
/// # Errors
/// Whatever the system reports, such as `NotConnected`.
pub fn half_close(stream: &Stream) -> io::Result<()> {
    let Stream::UdSocket(stream) = stream;
    rustix::net::shutdown(stream.inner(), rustix::net::Shutdown::Write)?;
    Ok(())
}

/// Whether the peer has closed both directions, as opposed to a half-close. Only meaningful once
/// reading has reached the end of the stream.
#[must_use]
pub fn is_fully_closed(stream: &Stream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let Stream::UdSocket(stream) = stream;
    let mut fds = [PollFd::new(stream.inner(), PollFlags::OUT)];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
        Err(_) => true,
    }
}

/// A stream that several owners read from or write to.
#[derive(Debug, Clone)]
pub struct SharedStream(Arc<Stream>);

impl SharedStream {
    /// Shares a stream.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self(Arc::new(stream))
    }

    /// The stream itself.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.0
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream()).poll_read(context, buffer)
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(half_close(self.stream()))
    }
}
