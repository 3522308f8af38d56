//! The listener of the local socket.
//!
//! Owns binding, the check of the peer's user, the limit on connections, and whether a connection
//! is RPC or MCP after its `hello`. Does not know the messages on a connection.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use ingle_client::socket::{self, SharedStream, Stream};
use ingle_protocol::error::ErrorBody;
use ingle_protocol::wire::Method;
use ingle_protocol::wire::hello::{Hello, HelloParams, Role};
use interprocess::local_socket::ListenerOptions;
use interprocess::local_socket::tokio::Listener;
use interprocess::local_socket::tokio::prelude::*;
use jsonrpsee::core::middleware::Request;
use jsonrpsee::core::server::Methods;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::rpc::connection::{self, Counts, End};
use ingle_jobs::Jobs;
use ingle_mcp::settings::McpSettings;
use ingle_service::Service;
use ingle_service::metrics::Edge;

/// Binds the socket with mode 0600.
///
/// The caller holds the daemon lock and has removed a stale socket. The process's umask keeps it
/// private from its first moment; macOS has no way to set its mode before it is bound.
///
/// # Errors
/// The system's error.
pub fn bind(path: &Path) -> io::Result<Listener> {
    let listener = ListenerOptions::new().name(socket::name(path)?).create_tokio()?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The parts that every connection needs.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The method table.
    pub methods: Methods,
    /// The service, for MCP and the counters.
    pub service: Arc<Service>,
    /// The jobs, for MCP.
    pub jobs: Jobs,
    /// The settings of MCP.
    pub mcp: McpSettings,
    /// Closes every connection at once.
    pub closing: CancellationToken,
    /// The open connections.
    pub tracker: TaskTracker,
}

/// Accepts connections until the daemon drains.
pub async fn accept(listener: Listener, shared: Shared) {
    let permits = Arc::new(Semaphore::new(limits::CONNECTIONS));
    let mut number = 0;
    loop {
        let accepted = tokio::select! {
            () = shared.service.draining().cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                // Most likely out of file descriptors, until a connection ends.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !is_same_user(&stream) {
            tracing::warn!("a connection of another user was refused");
            continue;
        }
        number += 1;
        let shared = shared.clone();
        let tracker = shared.tracker.clone();
        match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => tracker.spawn(serve(stream, number, permit, shared)),
            Err(_) => {
                shared.service.metrics().connection_refused(Edge::Rpc);
                tracker.spawn(refuse(stream))
            }
        };
    }
}

fn is_same_user(stream: &Stream) -> bool {
    let user = rustix::process::geteuid().as_raw();
    // Root is allowed, so that `sudo ingle status` works.
    let peer = stream.peer_creds().ok().and_then(|creds| creds.euid());
    peer.is_some_and(|peer| peer == user || peer == 0)
}

async fn serve(stream: Stream, number: usize, _permit: OwnedSemaphorePermit, shared: Shared) {
    let metrics = shared.service.metrics();
    let connected = metrics.connected(Edge::Rpc);
    let counts = Counts { timeouts: shared.service.timeout_counters(), metrics };
    let stream = SharedStream::new(stream);
    let draining = shared.service.draining();
    let end = connection::serve(
        &stream,
        number,
        &shared.methods,
        mcp_hello,
        counts,
        draining,
        &shared.closing,
    )
    .await;
    if let End::Mcp { hello, buffered } = end {
        let _connected = metrics.connected(Edge::Mcp);
        drop(connected);
        let (service, jobs) = (Arc::clone(&shared.service), shared.jobs.clone());
        ingle_mcp::serve(
            stream,
            &hello,
            buffered,
            service,
            jobs,
            shared.mcp,
            shared.closing.clone(),
        )
        .await;
    }
}

fn mcp_hello(line: &[u8]) -> Option<HelloParams> {
    let request = serde_json::from_slice::<Request<'_>>(line).ok()?;
    let params = request.params.as_ref().filter(|_| request.method == Hello::NAME)?;
    let hello: HelloParams = serde_json::from_str(params.get()).ok()?;
    let is_ours = hello.protocol == ingle_protocol::PROTOCOL_VERSION;
    Some(hello).filter(|hello| hello.role == Role::Mcp && is_ours)
}

async fn refuse(stream: Stream) {
    let error =
        ErrorBody::overloaded(format!("{} connections are open already", limits::CONNECTIONS));
    let frame = json!({ "jsonrpc": "2.0", "id": null, "error": error.to_rpc() });
    // The reply fits the socket's buffer; a peer that is gone needs none.
    let _ = (&stream).write_all(format!("{frame}\n").as_bytes()).await;
}
