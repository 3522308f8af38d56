//! The scheduler: one engine thread that owns every model, and the handle to it.
//!
//! Owns admission, batching, memory, loading and eviction. Does not know connections, RPC methods
//! or chat templates, and names no concrete engine.
//!
//! # Layout
//!
//! - [`handle`] is the only entry: [`command`]s go in, events and one terminal result come out, and
//!   no compute type crosses it.
//! - [`thread`] holds the scheduler itself and its loop. Start reading at `Scheduler::turn`.
//! - [`admission`], [`ledger`], [`pacing`], [`prompt_cache`] and [`quarantine`] are pure policy:
//!   they read no clock, do no I/O, and take time as an argument.
//! - [`registry`] holds the models; [`sequence`] and [`embed_queue`] hold the requests.
//! - [`crash_journal`] and [`watchdog`] deal with a native crash and a stalled thread.

pub mod admission;
pub mod command;
pub mod crash_journal;
pub mod embed_queue;
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
pub mod stall_alarm;
pub mod status;
pub mod thread;
pub mod time;
pub mod token_masks;
pub mod watchdog;
