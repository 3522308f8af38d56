//! Model Context Protocol on the local socket.
//!
//! Owns the session of one host: rmcp over a bounded transport. Does not know engines: tools and
//! resources call the service, as RPC and HTTP do.
//!
//! Imports run one way: `session` over `tools`, `subscriptions`, `resources` and `complete`, and
//! these over `context`.

mod complete;
pub mod context;
pub mod host_timeout;
mod invalid_message;
pub mod limits;
mod pagination;
pub mod promote;
mod prompts;
mod resources;
pub mod session;
pub mod settings;
mod subscriptions;
mod tools;
pub mod transport;
mod truncate;

use std::sync::Arc;

use ingle_client::socket::SharedStream;
use ingle_protocol::wire::hello::HelloParams;
use tokio_util::sync::CancellationToken;

use context::HostContext;
use host_timeout::HostTimeout;
use ingle_jobs::Jobs;
use ingle_service::Service;
use session::Session;
use settings::McpSettings;
use transport::FrameTransport;

/// A host's timeout in milliseconds without one in its `hello`: the default of the MCP SDKs.
const HOST_TIMEOUT_MS: u64 = 60_000;

/// Serves one host until it disconnects or the daemon ends. `buffered` holds the bytes after its
/// `hello`.
pub async fn serve(
    stream: SharedStream,
    hello: &HelloParams,
    buffered: Vec<u8>,
    service: Arc<Service>,
    jobs: Jobs,
    settings: McpSettings,
    closing: CancellationToken,
) {
    // Cancelled when the host disconnects: rmcp itself would let handlers run for seconds more.
    let disconnected = closing.child_token();
    let input_ended = disconnected.child_token();
    let transport =
        FrameTransport::new(stream, buffered, input_ended.clone(), disconnected.clone());
    let timeout = HostTimeout::new(hello.host_timeout_ms.unwrap_or(HOST_TIMEOUT_MS));
    let host =
        HostContext::new(service, jobs, settings, timeout, input_ended, disconnected.clone());
    let session = Session::new(host);
    match rmcp::service::serve_server_with_ct(session, transport, disconnected.clone()).await {
        Ok(session) => {
            if let Err(error) = session.waiting().await {
                tracing::debug!(%error, "an MCP session failed");
            }
        }
        Err(error) => tracing::debug!(%error, "an MCP session could not start"),
    }
    disconnected.cancel();
}
