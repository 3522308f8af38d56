//! MLX's memory: its counts and its limits.
//!
//! Owns the calls. MLX counts for the whole process, and so does everything here. Does not know
//! budgets: callers pass the numbers in.

use std::sync::Once;

use mlx_rs::memory;

use crate::error::MlxError;

/// Freed memory that MLX keeps for reuse, at most, unless told otherwise. Passes of a like size
/// need like buffers, so some of it saves time; without a bound a long prompt's buffers would stay
/// for good.
const CACHE_LIMIT_BYTES: usize = 256 << 20;

/// Whether limits have been set. Like MLX's own state it is one for the process.
static LIMITED: Once = Once::new();

/// What MLX holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg(test)]
pub(super) struct MemoryUse {
    /// Of arrays that are in use.
    pub active_bytes: u64,
    /// Freed and kept for reuse.
    pub cache_bytes: u64,
    /// The most that was in use at once.
    pub peak_bytes: u64,
}

/// What MLX may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Freed memory it keeps for reuse, in bytes.
    pub cache_bytes: usize,
    /// Memory it keeps from being paged out, in bytes; on Metal only. Off by default: such limits
    /// are linked to kernel panics on some Macs (ml-explore/mlx#3186).
    pub wired_bytes: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cache_bytes: CACHE_LIMIT_BYTES, wired_bytes: None }
    }
}

/// Prepares MLX: installs mlx-rs' error handler, which the first fallible call does (MLX's own
/// would end the process), and sets the default limits unless others have been set.
pub(super) fn start() -> Result<(), MlxError> {
    memory::active_memory()?;
    let mut outcome = Ok(());
    LIMITED.call_once(|| outcome = apply(Limits::default()));
    outcome
}

/// What MLX holds now.
///
/// # Errors
/// [`EngineError::Native`] when MLX refuses.
#[cfg(test)]
pub(super) fn memory() -> Result<MemoryUse, MlxError> {
    Ok(MemoryUse {
        active_bytes: memory::active_memory()? as u64,
        cache_bytes: memory::cache_memory()? as u64,
        peak_bytes: memory::peak_memory()? as u64,
    })
}

/// Sets what MLX may hold from now on. What is too much is let go with the next allocation.
///
/// # Errors
/// [`EngineError::Native`] when MLX refuses; a wired limit is refused wherever there is no Metal.
pub(super) fn set_limits(limits: Limits) -> Result<(), MlxError> {
    // The defaults must not come after.
    LIMITED.call_once(|| {});
    apply(limits)
}

fn apply(limits: Limits) -> Result<(), MlxError> {
    memory::set_cache_limit(limits.cache_bytes)?;
    if let Some(bytes) = limits.wired_bytes {
        memory::set_wired_limit(bytes)?;
    }
    Ok(())
}

/// Gives all freed memory back to the system.
///
/// # Errors
/// [`EngineError::Native`] when MLX refuses.
pub(super) fn clear_cache() -> Result<(), MlxError> {
    Ok(memory::clear_cache()?)
}

#[cfg(test)]
mod tests {
    use mlx_rs::Array;

    use super::*;

    /// The counts are those of the process, in which other tests run too, so only bounds that hold
    /// with them are checked.
    #[test]
    fn arrays_are_counted_while_they_live() {
        start().unwrap();
        let array = Array::from_slice(&vec![1.0_f32; 4 << 20], &[4 << 20]);
        let doubled = array.add(&array).unwrap();
        doubled.eval().unwrap();
        let held = memory().unwrap();
        assert!(held.active_bytes >= 16 << 20, "{held:?}");
        assert!(held.peak_bytes >= held.active_bytes, "{held:?}");
        drop((array, doubled));
        clear_cache().unwrap();
        set_limits(Limits { cache_bytes: 64 << 20, wired_bytes: None }).unwrap();
        // A load does not undo what has been set.
        start().unwrap();
        assert_eq!(memory::set_cache_limit(CACHE_LIMIT_BYTES).unwrap(), 64 << 20);
    }
}
