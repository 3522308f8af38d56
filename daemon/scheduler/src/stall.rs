//! The stall report: an engine thread that does not respond, and its last known phase.
//!
//! Owns the report's fields and its message. Does not detect a stall: the watchdog does.

use ingle_protocol::wire::status::Phase;

/// An engine thread that does not respond.
#[derive(Debug, Clone, PartialEq)]
pub struct Stall {
    /// Its phase at the last heartbeat.
    pub phase: Phase,
    /// Milliseconds since the last heartbeat.
    pub silent_ms: u64,
}

impl std::fmt::Display for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { phase, silent_ms } = self;
        write!(f, "the engine has not responded for {silent_ms} ms while {phase}")
    }
}
