//! The scheduler: one engine thread that owns every model, and the handle the daemon holds.
//!
//! Owns admission, batching, memory, loading and eviction. [`handle`] is the only way in: commands
//! go in, events come out, and no compute type crosses it. Does not know connections, methods or
//! chat templates, and names no concrete engine.

pub mod admission;
pub mod command;
pub mod constrained;
pub mod crash_journal;
pub mod embedding;
pub mod error;
pub mod handle;
pub mod ledger;
pub mod limits;
pub mod memory;
pub mod pacing;
pub mod prompt_cache;
pub mod quarantine;
pub mod registry;
pub mod sequence;
pub mod stall;
pub mod status;
pub mod thread;
pub mod time;
pub mod watchdog;
