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
mod cli;
mod crash;
mod embed;
mod failures;
mod generate;
mod hostile;
mod http;
mod http_tcp;
mod jobs;
mod launch;
mod mcp;
mod memory;
mod metrics;
mod minilm;
mod models;
mod reference;
mod sampling;
mod tidy;
mod timeouts;
