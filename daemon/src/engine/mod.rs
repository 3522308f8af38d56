//! The engine: one thread that owns every model, and the handle the rest of the daemon holds.
//!
//! Owns numerics, scheduling, loading and sampling. Knows nothing of connections, methods or chat
//! templates. Only [`handle`] is meant for the rest of the daemon: commands go in, events come out,
//! and no compute type crosses it. Inside, `worker -> {registry, admission, pacing, prompt_cache, sampling,
//! backend}` and `{gguf, mlx, sim} -> backend`; only `registry::engines` names a concrete engine.

use std::any::Any;

pub mod admission;
pub mod affine;
pub mod backend;
#[cfg(test)]
#[cfg(any(feature = "gguf", feature = "mlx"))]
pub(crate) mod conformance;
pub mod constrained;
pub mod cores;
pub mod counters;
pub mod crash_journal;
pub mod dequantize;
pub mod embedding;
#[cfg(feature = "gguf")]
pub mod gguf;
pub mod handle;
pub mod heap;
pub mod ledger;
pub mod loader;
pub mod memory;
#[cfg(feature = "mlx")]
pub mod mlx;
pub mod pacing;
#[cfg(any(feature = "gguf", feature = "mlx"))]
mod passes;
#[cfg(test)]
#[cfg(any(feature = "gguf", feature = "mlx"))]
pub(crate) mod plain;
pub mod prompt_cache;
pub mod quarantine;
pub mod registry;
pub mod role;
pub mod sampling;
pub mod sequence;
pub mod settings;
pub mod sim;
pub mod status;
pub mod tensor;
pub mod worker;

/// What a panic had to say.
fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
