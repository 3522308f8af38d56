//! Transport of rmcp over our frames.
//!
//! Owns the translation between frames and rmcp's messages, the limit of their size, one error
//! response per unreadable frame, and the token that is cancelled when the host has closed both
//! directions (after a half-close, responses are still sent).

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

use super::invalid_message;

/// One host's connection as a transport of rmcp.
#[derive(Debug)]
pub struct FrameTransport {
    reader: FrameReader<SharedStream>,
    stream: SharedStream,
    /// Held for one whole frame, so that frames never mix.
    writer: Arc<Mutex<SharedStream>>,
    /// Cancelled when the host has closed both directions, or a write failed.
    disconnected: CancellationToken,
    /// Cancelled when the host sends nothing more.
    input_ended: CancellationToken,
    /// Messages of a batch that rmcp has not received yet. Older revisions of MCP have batches;
    /// each message gets its own response.
    batch: VecDeque<Box<RawValue>>,
    /// A permit per frame that waits to be written.
    outbound: Arc<Semaphore>,
    /// Whether rmcp has received the message that opens a session. Before that it accepts requests
    /// only.
    is_open: bool,
}

impl FrameTransport {
    /// The transport after the host's `hello`. It cancels `input_ended` when the host sends nothing
    /// more, and `disconnected` when it has closed both directions.
    #[must_use]
    pub fn new(
        stream: SharedStream,
        buffered: Vec<u8>,
        input_ended: CancellationToken,
        disconnected: CancellationToken,
    ) -> Self {
        let reader = FrameReader::new(stream.clone(), limits::FRAME_BYTES).with_buffered(buffered);
        let writer = Arc::new(Mutex::new(stream.clone()));
        let outbound = Arc::new(Semaphore::new(limits::OUTBOUND_FRAMES));
        let batch = VecDeque::new();
        Self { reader, stream, writer, disconnected, input_ended, batch, outbound, is_open: false }
    }

    /// The message, if rmcp may receive it.
    ///
    /// A notification or a response before the opening message would end the session. It can happen
    /// with a host of revision 2026-07-28, which has no handshake to repeat to a restarted daemon:
    /// its first message may cancel a call that ended with the previous daemon.
    fn admit(
        &mut self,
        message: RxJsonRpcMessage<RoleServer>,
    ) -> Option<RxJsonRpcMessage<RoleServer>> {
        if let Some((id, problem)) = invalid_message::removed_method(&message) {
            self.refuse(&json!(id), &ErrorBody::new(ErrorCode::MethodNotFound, problem));
            return None;
        }
        if let Some((id, problem)) = invalid_message::invalid_params(&message) {
            self.refuse(&json!(id), &ErrorBody::new(ErrorCode::InvalidParams, problem));
            return None;
        }
        if !self.is_open {
            self.is_open = opens_session(&message);
        }
        (self.is_open || matches!(message, JsonRpcMessage::Request(_))).then_some(message)
    }

    /// A permit for a frame that waits to be written. rmcp sends each frame from a task of its own,
    /// so this bounds a host that sends requests and does not read: its next frames are not read.
    fn outbound_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.outbound).try_acquire_owned().ok()
    }

    /// Parses one message. An unreadable one gets its error response here.
    fn read(&self, text: &[u8]) -> Option<RxJsonRpcMessage<RoleServer>> {
        match serde_json::from_slice(text) {
            Ok(message) => Some(message),
            Err(error) => {
                if let Some((id, error)) = invalid_message::unreadable(text, &error) {
                    self.refuse(&id.as_deref().unwrap_or(RawValue::NULL), &error);
                }
                None
            }
        }
    }

    /// The messages of a line that is a batch within the limit.
    fn batch(line: &[u8]) -> Option<VecDeque<Box<RawValue>>> {
        let messages: VecDeque<Box<RawValue>> = serde_json::from_slice(line).ok()?;
        (messages.len() <= limits::BATCH_REQUESTS).then_some(messages)
    }

    /// Writes an error in a task of its own: rmcp drops a waiting `receive` when another event
    /// comes, and a partial response must not stay behind.
    fn refuse(&self, id: &impl Display, error: &ErrorBody) {
        let error = error.to_rpc();
        let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#);
        let frame = format!("{answer}\n").into_bytes();
        let (writer, disconnected) = (Arc::clone(&self.writer), self.disconnected.clone());
        let permit = self.outbound_permit();
        tokio::spawn(async move {
            let _permit = permit;
            // A host that has disconnected needs no response.
            let _ = write(&writer, &disconnected, frame).await;
        });
    }
}

/// Whether a message opens a session for rmcp: `initialize`, or a request whose `_meta` describes
/// the client, except the two requests that may come before.
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

/// Writes one whole frame. A frame that is not written in time ends the session: the host could not
/// read what follows a partial frame.
async fn write(
    writer: &Mutex<SharedStream>,
    disconnected: &CancellationToken,
    frame: Vec<u8>,
) -> io::Result<()> {
    let mut writer = writer.lock().await;
    if disconnected.is_cancelled() {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    let limit = Duration::from_millis(limits::WRITE_STALL_MS);
    let written = timeout(limit, writer.write_all(&frame))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    if written.is_err() {
        disconnected.cancel();
    }
    written
}

impl Transport<RoleServer> for FrameTransport {
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let (writer, disconnected) = (Arc::clone(&self.writer), self.disconnected.clone());
        let permit = self.outbound_permit();
        async move {
            // Held until the frame is written. A response without a permit is still sent: requests
            // that were read get their responses.
            let _permit = permit;
            let mut frame = serde_json::to_vec(&message)?;
            if frame.len() > limits::FRAME_BYTES {
                // The shim would treat it as a broken connection.
                let id = serde_json::to_value(&message)?["id"].take();
                let error = ErrorBody::answer_too_large().to_rpc();
                frame = serde_json::to_vec(&json!({ "jsonrpc": "2.0", "id": id, "error": error }))?;
            }
            frame.push(b'\n');
            write(&writer, &disconnected, frame).await
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            // Waits until a further response may be queued; the response takes its own permit.
            drop(self.outbound.acquire().await);
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
                    self.input_ended.cancel();
                    if socket::is_fully_closed(self.stream.stream()) {
                        self.disconnected.cancel();
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
        // Frames that are being written come first; each has its time limit.
        let all = u32::try_from(limits::OUTBOUND_FRAMES).unwrap_or(u32::MAX);
        drop(self.outbound.acquire_many(all).await);
        socket::half_close(self.stream.stream())
    }
}
