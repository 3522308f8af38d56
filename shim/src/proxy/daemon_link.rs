//! Opening one connection to the daemon, up to the host's first byte.
//!
//! Owns connecting (and starting the daemon), `hello`, and repeating the state of the session to a
//! new daemon: MCP's handshake and the host's subscriptions. Does not know the requests in flight.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use ingle_client::exit;
use ingle_client::launch::{self, LaunchError};
use ingle_client::paths::Paths;
use ingle_client::socket::SharedStream;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::frame::{Frame, FrameReader};
use ingle_protocol::jsonrpc::{Line, Message, RequestId};
use ingle_protocol::wire::Method;
use ingle_protocol::wire::hello::{Hello, HelloParams, HelloReply};
use ingle_protocol::{PROTOCOL_VERSION, limits};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::message_fields;
use crate::proxy::session::{self, Handover, Handshake};

/// The two directions of a connection. Shutting the writer down half-closes it.
pub(crate) struct Pipes {
    /// From the daemon.
    pub(crate) reader: Box<dyn AsyncRead + Unpin>,
    /// To the daemon.
    pub(crate) writer: Box<dyn AsyncWrite + Unpin>,
}

/// A connection being made.
pub(crate) type Connecting = Pin<Box<dyn Future<Output = Result<Pipes, LaunchError>>>>;

/// Makes a connection, each time the proxy needs one.
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

/// A connection that is ready for the host's frames.
pub(crate) struct OpenConnection {
    /// Frames from the daemon.
    pub(crate) reader: FrameReader<Box<dyn AsyncRead + Unpin>>,
    /// Bytes to the daemon.
    pub(crate) writer: Box<dyn AsyncWrite + Unpin>,
    /// The daemon's reply to `hello`.
    pub(crate) hello: HelloReply,
    /// Frames for the host that arrived during the handover.
    pub(crate) strays: Vec<Vec<u8>>,
}

/// A failure to open a connection.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The daemon cannot be reached or started, or refuses us.
    Unavailable(LaunchError),
    /// The connection ended during the handshake: a retry may reach another daemon.
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
    handover: Handover,
) -> Result<OpenConnection, OpenError> {
    let pipes = connecting.await.map_err(OpenError::Unavailable)?;
    let limit = Duration::from_millis(ingle_client::limits::HELLO_MS);
    tokio::time::timeout(limit, greet(pipes, hello, handover)).await.unwrap_or_else(|_| {
        let message = format!(
            "the daemon did not answer `hello` within {} ms",
            ingle_client::limits::HELLO_MS
        );
        Err(unavailable(ErrorBody::new(ErrorCode::DaemonUnavailable, message)))
    })
}

fn unavailable(body: ErrorBody) -> OpenError {
    OpenError::Unavailable(LaunchError { body, exit_code: exit::UNAVAILABLE })
}

async fn greet(
    pipes: Pipes,
    hello: HelloParams,
    handover: Handover,
) -> Result<OpenConnection, OpenError> {
    let Pipes { reader, mut writer } = pipes;
    let mut reader = FrameReader::new(reader, limits::FRAME_BYTES);
    let request =
        json!({ "jsonrpc": "2.0", "id": "hello", "method": Hello::NAME, "params": hello });
    writer.write_all(format!("{request}\n").as_bytes()).await?;
    let hello = read_hello(&line(&mut reader).await?)?;
    let mut opened = OpenConnection { reader, writer, hello, strays: Vec::new() };
    if let Some(handshake) = &handover.handshake {
        repeat_handshake(&mut opened, handshake).await?;
    }
    repeat_subscriptions(&mut opened, &handover).await?;
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
    let message = Message::parse(line).map_err(|unreadable| {
        skew(format!("the daemon's `hello` cannot be read: {}", unreadable.error))
    })?;
    if let Some(error) = message.error() {
        return Err(unavailable(ErrorBody::from_rpc(&error)));
    }
    let reply: HelloReply = serde_json::from_str(message.result().map_or("null", |raw| raw.get()))
        .map_err(|error| skew(format!("the daemon's `hello` cannot be read: {error}")))?;
    if reply.protocol == PROTOCOL_VERSION {
        return Ok(reply);
    }
    Err(skew(format!(
        "the daemon (build {}) speaks protocol {}, and this `ingle` speaks {PROTOCOL_VERSION}",
        reply.build, reply.protocol
    )))
}

/// Repeats the host's `initialize`. The reply is not passed on, because the host has one; a
/// notification makes it list the resources again.
async fn repeat_handshake(
    opened: &mut OpenConnection,
    handshake: &Handshake,
) -> Result<(), OpenError> {
    opened.writer.write_all(&handshake.initialize).await?;
    let mut version = None;
    let is_reply = |id: &RequestId| *id == handshake.id;
    until(opened, 1, is_reply, |_, message| version = message_fields::protocol_version(message))
        .await?;
    if version.as_ref() != Some(&handshake.version) {
        let now = version.as_deref().unwrap_or("no version that this session can use");
        let message = format!(
            "the daemon was replaced: this session uses MCP {}, and the new daemon offers {now}",
            handshake.version
        );
        let error = ErrorBody::new(ErrorCode::VersionSkew, message)
            .with_remediation("Restart this MCP server in its host.");
        return Err(OpenError::Changed(error));
    }
    if handshake.initialized {
        let notification = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n";
        opened.writer.write_all(notification).await?;
        // Models and jobs may have changed while no daemon was connected.
        opened.strays.push(session::list_changed(None));
    }
    Ok(())
}

/// Repeats the subscriptions, for a host that did not notice the interruption, and makes it read
/// the resources again. Open `subscriptions/listen` requests are sent again; their replies go to
/// the host.
async fn repeat_subscriptions(
    opened: &mut OpenConnection,
    handover: &Handover,
) -> Result<(), OpenError> {
    let id = |place: usize| format!("ingle-subscribe-{place}");
    let subscriptions = &handover.subscriptions;
    for (place, subscription) in subscriptions.iter().enumerate() {
        opened.writer.write_all(subscription.request(&id(place)).as_bytes()).await?;
    }
    let ids: Vec<RequestId> =
        (0..subscriptions.len()).map(|place| RequestId::String(id(place))).collect();
    let mut held = Vec::new();
    until(
        opened,
        ids.len(),
        |id| ids.contains(id),
        |id, message| {
            // A subscription that is refused now is of a resource that no longer exists.
            held.extend(ids.iter().position(|other| other == id).filter(|_| message.is_success()));
        },
    )
    .await?;
    let updates = held.into_iter().map(|place| subscriptions[place].updated().into_bytes());
    opened.strays.extend(updates);
    for listen in &handover.listens {
        opened.writer.write_all(listen).await?;
    }
    Ok(())
}

/// Reads until this number of replies to requests of ours has come. All other frames are the
/// host's.
async fn until(
    opened: &mut OpenConnection,
    mut replies: usize,
    is_ours: impl Fn(&RequestId) -> bool,
    mut on_reply: impl FnMut(&RequestId, &Message<'_>),
) -> Result<(), OpenError> {
    while replies > 0 {
        let mut line = line(&mut opened.reader).await?;
        let Ok(parsed) = Line::parse(&line) else { continue };
        let message = parsed.messages().first();
        let id = message.and_then(Message::as_reply).map(RequestId::read);
        if let (Some(message), Some(id)) = (message, id.filter(&is_ours)) {
            on_reply(&id, message);
            replies -= 1;
        } else if opened.strays.len() == limits::OUTBOUND_FRAMES {
            return Err(OpenError::Lost);
        } else {
            line.push(b'\n');
            opened.strays.push(line);
        }
    }
    Ok(())
}
