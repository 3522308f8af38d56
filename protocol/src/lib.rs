//! The protocol of Ingle's local socket: types and rules that both of its ends share.
//!
//! Owns the wire types, the frame codec, JSON-RPC envelopes, the table of errors, the table of
//! limits, the table of sampling parameters, the timeout ladder with its deadlines, the syntax of
//! durations and keep-alives, and the table of MCP tools (their names, classes and the wording of their errors: the shim and the
//! daemon must agree on them). Does not know sockets, files, settings or processes (`ingle-client`
//! does), nor models, engines or HTTP.

pub mod deadline;
pub mod duration;
pub mod error;
pub mod frame;
pub mod jsonrpc;
pub mod keep_alive;
pub mod limits;
pub mod mcp_tools;
pub mod sampling;
pub mod timeouts;
pub mod wire;

/// Version of the wire protocol. Raised when an old peer would misread a new one.
pub const PROTOCOL_VERSION: u32 = 2;

/// Version of the build, as both binaries report it.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");
