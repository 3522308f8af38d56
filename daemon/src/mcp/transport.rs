//! rmcp's transport over our own frames.
//!
//! Owns the translation between frames and rmcp's messages: bounded in size, one answer to a frame
//! that cannot be read, and a token that fires when the host has really gone (a half-close lets
//! answers still go out).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::frame::{Frame, FrameReader};
use ingle_protocol::limits;
use ingle_protocol::socket::{self, SharedStream};
use rmcp::RoleServer;
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;
use tokio::time::{Duration, timeout};
use tokio_util::sync::CancellationToken;

/// One host's connection, as rmcp sees it.
#[derive(Debug)]
pub struct FrameTransport {
    reader: FrameReader<SharedStream>,
    stream: SharedStream,
    /// Held for one whole frame, so that frames never mix.
    writer: Arc<Mutex<SharedStream>>,
    gone: CancellationToken,
    /// Messages of a batch that rmcp has not taken yet. Older revisions of MCP have batches; each
    /// message is answered by itself.
    batch: VecDeque<Value>,
}

impl FrameTransport {
    /// Goes on where `hello` ended; `gone` is cancelled when the host has closed both directions.
    #[must_use]
    pub fn new(stream: SharedStream, buffered: Vec<u8>, gone: CancellationToken) -> Self {
        let reader = FrameReader::new(stream.clone(), limits::FRAME_BYTES).with_buffered(buffered);
        let writer = Arc::new(Mutex::new(stream.clone()));
        Self { reader, stream, writer, gone, batch: VecDeque::new() }
    }

    /// Answers a message that rmcp cannot read; an unknown notification is passed over.
    async fn refuse_message(&self, message: &Value, error: &serde_json::Error) {
        let id = message.get("id").cloned();
        match (id, message["method"].as_str()) {
            (None, Some(_)) => {}
            (Some(id), Some(method)) => {
                let text = format!("`{method}` cannot be read: {error}");
                self.refuse(id, ErrorCode::InvalidParams, text).await;
            }
            (id, None) => {
                let text = "the frame is JSON, but not an MCP message".to_owned();
                self.refuse(id.unwrap_or(Value::Null), ErrorCode::InvalidRequest, text).await;
            }
        }
    }

    async fn refuse(&self, id: Value, code: ErrorCode, message: String) {
        let error = ErrorBody::new(code, message).to_rpc();
        let answer = json!({ "jsonrpc": "2.0", "id": id, "error": error });
        let frame = format!("{answer}\n").into_bytes();
        // A host that has gone needs no answer.
        let _ = write(&self.writer, &self.gone, frame).await;
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
        async move {
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
            if let Some(message) = self.batch.pop_front() {
                match serde_json::from_value(message.clone()) {
                    Ok(message) => return Some(message),
                    Err(error) => self.refuse_message(&message, &error).await,
                }
                continue;
            }
            let line = match self.reader.next().await {
                Ok(Some(Frame::Line(line) | Frame::Torn(line))) => line,
                Ok(Some(Frame::TooLong)) => {
                    let message = format!("a frame may have {} bytes", limits::FRAME_BYTES);
                    self.refuse(Value::Null, ErrorCode::FrameTooLarge, message).await;
                    continue;
                }
                Ok(None) | Err(_) => {
                    if socket::is_fully_closed(self.stream.stream()) {
                        self.gone.cancel();
                    }
                    return None;
                }
            };
            match serde_json::from_slice(&line) {
                Ok(message) => return Some(message),
                Err(error) => match serde_json::from_slice::<Value>(&line) {
                    Ok(Value::Array(messages)) if messages.len() <= limits::BATCH_REQUESTS => {
                        self.batch = messages.into();
                    }
                    Ok(message) => self.refuse_message(&message, &error).await,
                    Err(error) => {
                        let message = format!("the frame is not JSON: {error}");
                        self.refuse(Value::Null, ErrorCode::ParseError, message).await;
                    }
                },
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        socket::half_close(self.stream.stream())
    }
}
