//! The engine interface between scheduling and numerics, and the parts that engines share.
//!
//! Owns the traits that an engine implements ([`backend`], [`engines`]), the plain types that cross
//! them, [`sampling`], the [`loader`] thread and the engines' counters. Does not know requests,
//! connections, RPC methods or text.
//!
//! # Features
//!
//! - `sim`: the simulated engine ([`sim`]), for tests. The product is built without it.
//! - `testing`: the reference model and the conformance tests that every engine runs.

use std::any::Any;

pub mod affine;
pub mod backend;
#[cfg(feature = "testing")]
pub mod conformance;
pub mod cores;
pub mod counters;
pub mod dequantize;
pub mod engines;
pub mod error;
pub mod estimate;
pub mod heap;
pub mod histogram;
pub mod limits;
pub mod loader;
pub mod model;
pub mod passes;
#[cfg(feature = "testing")]
pub mod plain;
pub mod role;
pub mod sampling;
pub mod settings;
#[cfg(feature = "sim")]
pub mod sim;
pub mod tensor;

/// The message of a panic.
#[must_use]
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
