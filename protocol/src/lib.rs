//! What crosses Ingle's local socket, and what both of its ends must agree on.
//!
//! Owns the wire types, the frame codec, the one list of errors, the one list of limits, the timeout
//! ladder and where it is set, the layout of the Ingle folder, the typed client and the launcher.
//! Knows nothing of models, engines, HTTP or MCP: the shim depends on this crate and on little else.

pub mod client;
pub mod deadline;
pub mod env_file;
pub mod error;
pub mod exit;
pub mod frame;
pub mod keep_alive;
pub mod launch;
pub mod limits;
pub mod paths;
pub mod socket;
pub mod timeout_settings;
pub mod timeouts;
pub mod tools;
pub mod wire;

/// Version of the wire protocol. Raised when an old peer would misread a new one.
pub const PROTOCOL_VERSION: u32 = 1;

/// Version of the build, as both binaries report it.
pub const BUILD: &str = env!("CARGO_PKG_VERSION");
