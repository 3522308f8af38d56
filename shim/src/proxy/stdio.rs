//! Standard input and output for the proxy: one that can be polled, one that can be
//! queued.
//!
//! Owns the two threads that block on the host's pipes. Must not know what the bytes mean.
//!
//! Why threads: `tokio::io::stdin` parks a read in the runtime's pool, and the runtime then waits
//! for the host's next byte when it is dropped. Making the descriptors non-blocking is no way out:
//! the flag belongs to the open file, which the host and a terminal's shell share with us, and
//! epoll refuses regular files. A thread that is still blocked when the process exits just ends
//! with it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::AsFd;
use rustix::io::Errno;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{mpsc, oneshot};

const CHUNK_BYTES: usize = 32 * 1024;
/// The threads have small stack frames only.
const STACK_BYTES: usize = 64 * 1024;

/// Bytes from the host, read ahead by a thread as far as the channel allows.
#[derive(Debug)]
pub(crate) struct Stdin {
    chunks: mpsc::Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    used: usize,
}

impl Stdin {
    /// Starts reading at once.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, chunks) = mpsc::channel(crate::limits::SHIM_STDIO_CHUNKS);
        thread::Builder::new().name("stdin".to_owned()).stack_size(STACK_BYTES).spawn(
            move || {
                let stdin = rustix::stdio::stdin();
                let mut buffer = vec![0_u8; CHUNK_BYTES];
                loop {
                    match rustix::io::read(stdin, &mut buffer) {
                        Ok(0) => return,
                        Ok(read) => {
                            if sender.blocking_send(buffer[..read].to_vec()).is_err() {
                                return;
                            }
                        }
                        Err(error) if wait_if_temporary(error, stdin, PollFlags::IN) => {}
                        // Such as a terminal that hung up: the host has ended, as at the end of a
                        // file.
                        Err(_) => return,
                    }
                }
            },
        )?;
        Ok(Self { chunks, chunk: Vec::new(), used: 0 })
    }
}

impl AsyncRead for Stdin {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.used == self.chunk.len() {
            match ready!(self.chunks.poll_recv(context)) {
                Some(chunk) => {
                    self.chunk = chunk;
                    self.used = 0;
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let take = buffer.remaining().min(self.chunk.len() - self.used);
        buffer.put_slice(&self.chunk[self.used..self.used + take]);
        self.used += take;
        Poll::Ready(Ok(()))
    }
}

/// Bytes to the host, written by a thread.
#[derive(Debug)]
pub(crate) struct Stdout {
    chunks: mpsc::Sender<Vec<u8>>,
    ended: oneshot::Receiver<()>,
}

impl Stdout {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (chunks, mut queue) = mpsc::channel::<Vec<u8>>(crate::limits::SHIM_STDIO_CHUNKS);
        let (end, ended) = oneshot::channel();
        thread::Builder::new().name("stdout".to_owned()).stack_size(STACK_BYTES).spawn(
            move || {
                // Dropping the queue tells the proxy that the host has stopped reading.
                while let Some(chunk) = queue.blocking_recv() {
                    if write_all(&chunk).is_err() {
                        return;
                    }
                }
                // The proxy may have given up waiting.
                let _ = end.send(());
            },
        )?;
        Ok(Self { chunks, ended })
    }

    /// The sender of chunks to write.
    pub(crate) fn sender(&self) -> mpsc::Sender<Vec<u8>> {
        self.chunks.clone()
    }

    /// Waits until everything is written, for a host that reads. All senders must be dropped.
    pub(crate) async fn finish(self, limit: Duration) {
        drop(self.chunks);
        // An error means that the host has stopped reading, and a timeout that it does not read.
        let _ = tokio::time::timeout(limit, self.ended).await;
    }
}

fn write_all(mut bytes: &[u8]) -> Result<(), Errno> {
    let stdout = rustix::stdio::stdout();
    while !bytes.is_empty() {
        match rustix::io::write(stdout, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if wait_if_temporary(error, stdout, PollFlags::OUT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits where a host has set the file non-blocking. Returns whether to try again.
fn wait_if_temporary(error: Errno, file: impl AsFd, flags: PollFlags) -> bool {
    match error {
        Errno::INTR => true,
        Errno::AGAIN => {
            let waited = poll(&mut [PollFd::new(&file, flags)], None);
            matches!(waited, Ok(_) | Err(Errno::INTR))
        }
        _ => false,
    }
}
