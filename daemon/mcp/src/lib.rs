//! The Model Context Protocol on the local socket.
//!
//! Owns the session of one host: rmcp over our own bounded transport. Knows nothing of engines:
//! tools and resources call the service like every other edge.

mod brief;
mod complete;
pub mod limits;
mod misread;
mod news;
mod pages;
pub mod promote;
mod prompts;
mod resources;
pub mod session;
pub mod settings;
mod tools;
pub mod transport;

use std::sync::Arc;

use ingle_client::socket::SharedStream;
use ingle_protocol::wire::hello::HelloParams;
use tokio_util::sync::CancellationToken;

use ingle_jobs::Jobs;
use ingle_service::Service;
use promote::Patience;
use session::Session;
use settings::McpSettings;
use transport::FrameTransport;

/// Milliseconds that a host waits for one reply when it does not say: what the MCP SDKs do.
const HOST_TIMEOUT_MS: u64 = 60_000;

/// Serves one host until it goes or the daemon ends. `buffered` was read past its `hello`.
pub async fn serve(
    stream: SharedStream,
    hello: &HelloParams,
    buffered: Vec<u8>,
    service: Arc<Service>,
    jobs: Jobs,
    settings: McpSettings,
    closing: CancellationToken,
) {
    // Cancelled when the host goes: rmcp itself would let handlers run on for seconds.
    let gone = closing.child_token();
    let ended = gone.child_token();
    let transport = FrameTransport::new(stream, buffered, ended.clone(), gone.clone());
    let patience = Patience::new(hello.host_timeout_ms.unwrap_or(HOST_TIMEOUT_MS));
    let session = Session::new(service, jobs, settings, patience, ended, gone.clone());
    match rmcp::service::serve_server_with_ct(session, transport, gone.clone()).await {
        Ok(session) => {
            if let Err(error) = session.waiting().await {
                tracing::debug!(%error, "an MCP session ended with an error");
            }
        }
        Err(error) => tracing::debug!(%error, "an MCP session did not begin"),
    }
    gone.cancel();
}
