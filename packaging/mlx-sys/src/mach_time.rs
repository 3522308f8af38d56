//! `mach_approximate_time`, which `mlx-rs` seeds its random state from and only macOS provides.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds that differ from call to call and from run to run; used as a seed, not as a clock.
// SAFETY: the symbol exists on macOS only, where this module is not compiled, so it clashes with
// nothing; the signature is that of Apple's <mach/mach_time.h>.
#[unsafe(no_mangle)]
extern "C" fn mach_approximate_time() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Truncation keeps the low bits, which are the ones that vary.
    since_epoch.as_nanos() as u64
}
