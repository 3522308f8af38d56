//! The Model Context Protocol on the local socket.
//!
//! Owns the session of one host: rmcp over our own bounded transport. Knows nothing of engines:
//! [`tools`] calls the service like every other edge.

pub mod tools;
pub mod transport;

use std::sync::Arc;

use ingle_protocol::socket::SharedStream;
use tokio_util::sync::CancellationToken;

use crate::service::Service;
use tools::Tools;
use transport::FrameTransport;

/// Serves one host until it goes or the daemon ends. `buffered` was read past `hello`.
pub async fn serve(
    stream: SharedStream,
    buffered: Vec<u8>,
    service: Arc<Service>,
    closing: CancellationToken,
) {
    // Cancelled when the host goes: rmcp itself would let handlers run on for seconds.
    let gone = closing.child_token();
    let transport = FrameTransport::new(stream, buffered, gone.clone());
    let tools = Tools::new(service, gone.clone());
    match rmcp::service::serve_server_with_ct(tools, transport, gone.clone()).await {
        Ok(session) => {
            if let Err(error) = session.waiting().await {
                tracing::debug!(%error, "an MCP session ended with an error");
            }
        }
        Err(error) => tracing::debug!(%error, "an MCP session did not begin"),
    }
    gone.cancel();
}
