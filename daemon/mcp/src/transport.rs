//! rmcp's transport over our own frames.
//!
//! Owns the translation between frames and rmcp's messages: bounded in size, one answer to a frame
//! that cannot be read, and a token that fires when the host has really gone (a half-close lets
//! answers still go out).

use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::sync::Arc;

use crate::limits;
use ingle_client::socket::{self, SharedStream};
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::frame::{Frame, FrameReader};
use rmcp::RoleServer;
use rmcp::model::{ClientRequest, GetMeta, JsonRpcMessage, ProtocolVersion};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, timeout};
use tokio_util::sync::CancellationToken;

use super::misread;

/// One host's connection, as rmcp sees it.
#[derive(Debug)]
pub struct FrameTransport {
    reader: FrameReader<SharedStream>,
    stream: SharedStream,
    /// Held for one whole frame, so that frames never mix.
    writer: Arc<Mutex<SharedStream>>,
    gone: CancellationToken,
    /// Cancelled when the host says nothing more.
    ended: CancellationToken,
    /// Messages of a batch that rmcp has not taken yet. Older revisions of MCP have batches; each
    /// message is answered by itself.
    batch: VecDeque<Box<RawValue>>,
    /// One permit for each frame that may wait to be written.
    room: Arc<Semaphore>,
    /// Whether rmcp has seen what opens a session. Before that it takes requests only.
    has_begun: bool,
}

impl FrameTransport {
    /// Goes on where `hello` ended; `ended` is cancelled when the host says nothing more, `gone`
    /// when it has closed both directions.
    #[must_use]
    pub fn new(
        stream: SharedStream,
        buffered: Vec<u8>,
        ended: CancellationToken,
        gone: CancellationToken,
    ) -> Self {
        let reader = FrameReader::new(stream.clone(), limits::FRAME_BYTES).with_buffered(buffered);
        let writer = Arc::new(Mutex::new(stream.clone()));
        let room = Arc::new(Semaphore::new(limits::OUTBOUND_FRAMES));
        Self { reader, stream, writer, gone, batch: VecDeque::new(), room, has_begun: false, ended }
    }

    /// The message, if rmcp may see it. A notification or an answer ahead of the session's beginning
    /// would end it: a host of revision 2026-07-28 has no handshake that could be repeated to a
    /// daemon that is started in the middle, so the first it hears may be that a call is cancelled
    /// which died with the one before.
    fn admit(
        &mut self,
        message: RxJsonRpcMessage<RoleServer>,
    ) -> Option<RxJsonRpcMessage<RoleServer>> {
        if let Some((id, problem)) = misread::removed(&message) {
            self.refuse(&json!(id), &ErrorBody::new(ErrorCode::MethodNotFound, problem));
            return None;
        }
        if let Some((id, problem)) = misread::problem(&message) {
            self.refuse(&json!(id), &ErrorBody::new(ErrorCode::InvalidParams, problem));
            return None;
        }
        if !self.has_begun {
            self.has_begun = opens_session(&message);
        }
        (self.has_begun || matches!(message, JsonRpcMessage::Request(_))).then_some(message)
    }

    /// A place among the frames that wait to be written. rmcp sends from tasks of their own, so a
    /// host that asks and does not read is bounded here: nothing more is read from it.
    fn take_room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    /// Reads one message, if rmcp may see it. One that cannot be read is answered here.
    fn read(&self, text: &[u8]) -> Option<RxJsonRpcMessage<RoleServer>> {
        match serde_json::from_slice(text) {
            Ok(message) => Some(message),
            Err(error) => {
                if let Some((id, error)) = misread::unreadable(text, &error) {
                    self.refuse(&id.as_deref().unwrap_or(RawValue::NULL), &error);
                }
                None
            }
        }
    }

    /// The messages of a line that is a batch of a size that is taken.
    fn batch(line: &[u8]) -> Option<VecDeque<Box<RawValue>>> {
        let messages: VecDeque<Box<RawValue>> = serde_json::from_slice(line).ok()?;
        (messages.len() <= limits::BATCH_REQUESTS).then_some(messages)
    }

    /// Writes an error in a task of its own: rmcp drops a `receive` that waits whenever there is
    /// something else to do, and half an answer must not stay behind.
    fn refuse(&self, id: &impl Display, error: &ErrorBody) {
        let error = error.to_rpc();
        let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#);
        let frame = format!("{answer}\n").into_bytes();
        let (writer, gone, room) = (Arc::clone(&self.writer), self.gone.clone(), self.take_room());
        tokio::spawn(async move {
            let _room = room;
            // A host that has gone needs no answer.
            let _ = write(&writer, &gone, frame).await;
        });
    }
}

/// Whether rmcp takes a message for the beginning of a session: `initialize`, or any request but
/// the two that come before one, if it says in its `_meta` who asks.
fn opens_session(message: &RxJsonRpcMessage<RoleServer>) -> bool {
    let JsonRpcMessage::Request(request) = message else { return false };
    match &request.request {
        ClientRequest::InitializeRequest(_) => true,
        ClientRequest::PingRequest(_) | ClientRequest::DiscoverRequest(_) => false,
        other => {
            let meta = other.get_meta();
            let is_known = |version| ProtocolVersion::KNOWN_VERSIONS.contains(&version);
            meta.missing_required_keys(&ProtocolVersion::V_2026_07_28).is_empty()
                && meta.protocol_version().is_some_and(is_known)
        }
    }
}

/// Writes one whole frame. A frame that does not get out in time ends the session: what follows
/// half a frame could not be read.
async fn write(
    writer: &Mutex<SharedStream>,
    gone: &CancellationToken,
    frame: Vec<u8>,
) -> io::Result<()> {
    let mut writer = writer.lock().await;
    if gone.is_cancelled() {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    let limit = Duration::from_millis(limits::WRITE_STALL_MS);
    let written = timeout(limit, writer.write_all(&frame))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    if written.is_err() {
        gone.cancel();
    }
    written
}

impl Transport<RoleServer> for FrameTransport {
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let (writer, gone) = (Arc::clone(&self.writer), self.gone.clone());
        let room = self.take_room();
        async move {
            // Held until the frame is written. One more than there is room for still goes out: what
            // is asked already is answered.
            let _room = room;
            let mut frame = serde_json::to_vec(&message)?;
            if frame.len() > limits::FRAME_BYTES {
                // The shim would take it for a broken connection.
                let id = serde_json::to_value(&message)?["id"].take();
                let error = ErrorBody::answer_too_large().to_rpc();
                frame = serde_json::to_vec(&json!({ "jsonrpc": "2.0", "id": id, "error": error }))?;
            }
            frame.push(b'\n');
            write(&writer, &gone, frame).await
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            // Dropped at once: this only waits until there is room.
            drop(self.room.acquire().await);
            if let Some(message) = self.batch.pop_front() {
                let message = self.read(message.get().as_bytes());
                if let Some(message) = message.and_then(|message| self.admit(message)) {
                    return Some(message);
                }
                continue;
            }
            let line = match self.reader.next().await {
                Ok(Some(Frame::Line(line) | Frame::Torn(line))) => line,
                Ok(Some(Frame::TooLong(id))) => {
                    let message = format!("a frame may have {} bytes", limits::FRAME_BYTES);
                    let error = ErrorBody::new(ErrorCode::FrameTooLarge, message);
                    self.refuse(&id.as_deref().unwrap_or("null"), &error);
                    continue;
                }
                Ok(None) | Err(_) => {
                    self.ended.cancel();
                    if socket::is_fully_closed(self.stream.stream()) {
                        self.gone.cancel();
                    }
                    return None;
                }
            };
            if let Some(messages) = Self::batch(&line) {
                self.batch = messages;
                continue;
            }
            if let Some(message) = self.read(&line).and_then(|message| self.admit(message)) {
                return Some(message);
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        // What is being written goes out first; each frame has its time limit.
        let all = u32::try_from(limits::OUTBOUND_FRAMES).unwrap_or(u32::MAX);
        drop(self.room.acquire_many(all).await);
        socket::half_close(self.stream.stream())
    }
}
