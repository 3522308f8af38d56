//! `hello`: the optional handshake in the first line of a connection.
//!
//! Owns the role, the versions and the timeout ladder that it carries. A peer that skips it gets
//! plain RPC, so that `socat` is enough to talk to the daemon.

use serde::{Deserialize, Serialize};

use super::Method;
use crate::timeouts::WorkTimeouts;

/// The handshake method.
#[derive(Debug)]
pub struct Hello;

impl Method for Hello {
    const NAME: &'static str = "hello";
    type Params = HelloParams;
    type Output = HelloReply;
}

/// The protocol that follows on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Ingle's own JSON-RPC.
    Rpc,
    /// The Model Context Protocol.
    Mcp,
}

/// Parameters of `hello`: the sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HelloParams {
    /// The protocol that follows on the connection.
    pub role: Role,
    /// The sender's [`crate::PROTOCOL_VERSION`].
    pub protocol: u32,
    /// The sender's build.
    pub build: String,
    /// The program that spawned the sender, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// MCP: the host's timeout for one reply, in milliseconds; a minute when absent. A call that is
    /// not finished by then becomes a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_timeout_ms: Option<u64>,
}

impl HelloParams {
    /// This build's handshake for one role.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role,
            protocol: crate::PROTOCOL_VERSION,
            build: crate::BUILD.to_owned(),
            host: None,
            host_timeout_ms: None,
        }
    }
}

/// The reply: the daemon, and its timeout ladder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HelloReply {
    /// The daemon's protocol version.
    pub protocol: u32,
    /// The daemon's build.
    pub build: String,
    /// The daemon's process id.
    pub pid: u32,
    /// W of every class as the daemon resolved it; shim and client derive their limits from it.
    pub timeouts: WorkTimeouts,
}
