//! One connection to the daemon, from nothing to the first byte of the host's.
//!
//! Owns connecting (and starting the daemon), `hello`, and telling a new daemon what the old one
//! was told: MCP's `initialize` and `notifications/initialized`. Must not know what is in flight.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::frame::{Frame, FrameReader};
use ingle_protocol::launch::{self, LaunchError};
use ingle_protocol::paths::Paths;
use ingle_protocol::socket::SharedStream;
use ingle_protocol::wire::Method;
use ingle_protocol::wire::envelope::Envelope;
use ingle_protocol::wire::hello::{Hello, HelloParams, HelloReply};
use ingle_protocol::{PROTOCOL_VERSION, exit, limits};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::envelope::{Id, Line, Message};

/// The two directions of a connection. Shutting the writer down half-closes it.
pub(crate) struct Pipes {
    /// From the daemon.
    pub(crate) reader: Box<dyn AsyncRead + Unpin>,
    /// To the daemon.
    pub(crate) writer: Box<dyn AsyncWrite + Unpin>,
}

/// A connection being made.
pub(crate) type Connecting = Pin<Box<dyn Future<Output = Result<Pipes, LaunchError>>>>;

/// How the pump gets a connection, each time it needs one.
pub(crate) type Connector = Box<dyn Fn() -> Connecting>;

/// Connects to the daemon of `paths`, and starts `program` when none runs.
pub(crate) fn to_daemon(paths: Paths, program: PathBuf) -> Connector {
    Box::new(move || {
        let (paths, program) = (paths.clone(), program.clone());
        Box::pin(async move {
            let stream = SharedStream::new(launch::connect_or_start(&paths, &program).await?);
            Ok(Pipes { reader: Box::new(stream.clone()), writer: Box::new(stream) })
        })
    })
}

/// What a new daemon must be told before it can go on with the host's session.
#[derive(Debug, Clone)]
pub(crate) struct Handover {
    /// The host's `initialize`, newline included.
    pub(crate) initialize: Vec<u8>,
    /// Its id.
    pub(crate) id: Id,
    /// The protocol version that was settled on.
    pub(crate) version: String,
    /// Whether the host has sent `notifications/initialized`.
    pub(crate) initialized: bool,
}

/// What is known of the host's MCP session.
#[derive(Debug, Default)]
pub(crate) struct McpSession {
    /// An `initialize` that the daemon has and has not answered.
    asked: Option<(Id, Vec<u8>)>,
    settled: Option<Handover>,
}

impl McpSession {
    /// The daemon has all of the host's `initialize`.
    pub(crate) fn ask(&mut self, id: Id, initialize: Vec<u8>) {
        self.asked = Some((id, initialize));
    }

    /// The daemon that was asked is gone.
    pub(crate) fn forget_question(&mut self) {
        self.asked = None;
    }

    /// A reply has come: the one to `initialize` says what the session settled on.
    pub(crate) fn hear_reply(&mut self, id: &Id, message: &Message<'_>) {
        if let Some((_, initialize)) = self.asked.take_if(|(asked, _)| asked == id)
            && let Some(version) = message.protocol_version()
        {
            let id = id.clone();
            self.settled = Some(Handover { initialize, id, version, initialized: false });
        }
    }

    /// The host has sent `notifications/initialized`.
    pub(crate) fn mark_initialized(&mut self) {
        if let Some(settled) = &mut self.settled {
            settled.initialized = true;
        }
    }

    /// What the next daemon must be told, once there is anything.
    pub(crate) fn handover(&self) -> Option<Handover> {
        self.settled.clone()
    }
}

/// A connection that is ready for the host's frames.
pub(crate) struct Opened {
    /// Frames from the daemon.
    pub(crate) reader: FrameReader<Box<dyn AsyncRead + Unpin>>,
    /// Bytes to the daemon.
    pub(crate) writer: Box<dyn AsyncWrite + Unpin>,
    /// What the daemon said of itself.
    pub(crate) hello: HelloReply,
    /// Frames for the host that came during the handover.
    pub(crate) strays: Vec<Vec<u8>>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The daemon cannot be reached or started, or refuses us.
    Unavailable(LaunchError),
    /// The connection ended during the handshake: another try may meet another daemon.
    Lost,
    /// The daemon no longer speaks the protocol version of the host's session.
    Changed(ErrorBody),
}

impl From<io::Error> for OpenError {
    fn from(_: io::Error) -> Self {
        Self::Lost
    }
}

/// Makes a connection ready for the host's frames.
///
/// # Errors
/// See [`OpenError`].
pub(crate) async fn open(
    connecting: Connecting,
    hello: HelloParams,
    handover: Option<Handover>,
) -> Result<Opened, OpenError> {
    let pipes = connecting.await.map_err(OpenError::Unavailable)?;
    let limit = Duration::from_millis(limits::HELLO_MS);
    tokio::time::timeout(limit, greet(pipes, hello, handover)).await.unwrap_or_else(|_| {
        let message = format!("the daemon did not answer `hello` within {} ms", limits::HELLO_MS);
        Err(unavailable(ErrorBody::new(ErrorCode::DaemonUnavailable, message)))
    })
}

fn unavailable(body: ErrorBody) -> OpenError {
    OpenError::Unavailable(LaunchError { body, exit_code: exit::UNAVAILABLE })
}

async fn greet(
    pipes: Pipes,
    hello: HelloParams,
    handover: Option<Handover>,
) -> Result<Opened, OpenError> {
    let Pipes { reader, mut writer } = pipes;
    let mut reader = FrameReader::new(reader, limits::FRAME_BYTES);
    let request =
        json!({ "jsonrpc": "2.0", "id": "hello", "method": Hello::NAME, "params": hello });
    writer.write_all(format!("{request}\n").as_bytes()).await?;
    let hello = read_hello(&line(&mut reader).await?)?;
    let mut opened = Opened { reader, writer, hello, strays: Vec::new() };
    if let Some(handover) = handover {
        hand_over(&mut opened, &handover).await?;
    }
    Ok(opened)
}

async fn line(reader: &mut FrameReader<Box<dyn AsyncRead + Unpin>>) -> Result<Vec<u8>, OpenError> {
    match reader.next().await? {
        Some(Frame::Line(line)) => Ok(line),
        _ => Err(OpenError::Lost),
    }
}

fn read_hello(line: &[u8]) -> Result<HelloReply, OpenError> {
    let skew = |message: String| unavailable(ErrorBody::new(ErrorCode::VersionSkew, message));
    let envelope: Envelope<'_> = serde_json::from_slice(line)
        .map_err(|error| skew(format!("the daemon's `hello` cannot be read: {error}")))?;
    if let Some(error) = &envelope.error {
        return Err(unavailable(ErrorBody::from_rpc(error)));
    }
    let reply: HelloReply =
        serde_json::from_str(envelope.result.map_or("null", |raw| raw.get()))
            .map_err(|error| skew(format!("the daemon's `hello` cannot be read: {error}")))?;
    if reply.protocol == PROTOCOL_VERSION {
        return Ok(reply);
    }
    Err(skew(format!(
        "the daemon (build {}) speaks protocol {}, and this `ingle` speaks {PROTOCOL_VERSION}",
        reply.build, reply.protocol
    )))
}

/// Repeats the host's `initialize` and keeps its reply from the host, who has had one.
async fn hand_over(opened: &mut Opened, handover: &Handover) -> Result<(), OpenError> {
    opened.writer.write_all(&handover.initialize).await?;
    let version = loop {
        let mut line = line(&mut opened.reader).await?;
        let parsed = Line::parse(&line);
        let reply = parsed.as_ref().ok().and_then(|line| {
            let message = line.messages().first()?;
            (Id::read(message.as_reply()?) == handover.id).then(|| message.protocol_version())
        });
        match reply {
            Some(version) => break version,
            None => {
                let is_message = parsed.is_ok();
                if opened.strays.len() == limits::OUTBOUND_FRAMES {
                    return Err(OpenError::Lost);
                }
                if is_message {
                    line.push(b'\n');
                    opened.strays.push(line);
                }
            }
        }
    };
    if version.as_ref() != Some(&handover.version) {
        let now = version.as_deref().unwrap_or("none that this session can use");
        let message = format!(
            "the daemon was replaced: this session began with MCP {}, and the new daemon settles on {now}",
            handover.version
        );
        let error = ErrorBody::new(ErrorCode::VersionSkew, message)
            .with_remediation("Restart this MCP server in its host.");
        return Err(OpenError::Changed(error));
    }
    if handover.initialized {
        let notification = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n";
        opened.writer.write_all(notification).await?;
    }
    Ok(())
}
