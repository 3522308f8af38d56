//! Raw bindings to mlx-c, the C interface to Apple's MLX.
//!
//! Stands in for the published `mlx-sys` 0.7.0 with the same names and types, so that `mlx-rs`
//! builds on it unchanged. It owns the foreign declarations and the few symbols that MLX's Rust
//! side expects but the platform lacks; it must not know Ingle. Everything safe is in `mlx-rs`.

// Foreign names keep their C spelling, and generated code answers to no style.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnecessary_transmutes,
    unreachable_pub,
    unsafe_code,
    unused_qualifications,
    clippy::all
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

#[cfg(not(target_arch = "aarch64"))]
mod half;
#[cfg(not(target_arch = "aarch64"))]
pub use half::*;

#[cfg(not(target_os = "macos"))]
mod mach_time;
