//! End-to-end tests on the real binaries, one program so that it is linked once.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test these are how it fails"
)]

mod bench;
mod broken;
mod cancel;
mod chat;
mod cli;
mod crash;
mod embed;
mod failures;
mod format;
mod generate;
mod hostile;
mod hosts;
mod http;
mod http_tcp;
mod jobs;
mod launch;
mod mcp;
mod mcp_resources;
mod mcp_revisions;
mod mcp_storm;
mod mcp_tools;
mod memory;
mod metrics;
mod minilm;
mod models;
mod orphans;
mod reference;
mod sampling;
mod tidy;
mod timeouts;
