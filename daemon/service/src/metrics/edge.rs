//! The edges, as labels of metrics.

/// The edge that a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// JSON-RPC on the local socket.
    Rpc,
    /// A tool call of an MCP host.
    Mcp,
    /// HTTP.
    Http,
}

impl Edge {
    /// Every edge.
    pub const ALL: [Self; 3] = [Self::Rpc, Self::Mcp, Self::Http];

    /// The name in labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rpc => "rpc",
            Self::Mcp => "mcp",
            Self::Http => "http",
        }
    }
}
