//! Gives free memory of the C heap back to the system.
//!
//! An unsafe edge of three calls. glibc takes large blocks from the system one by one and returns
//! them at once, but the size from which a block counts as large grows with what a program frees:
//! after a model has gone, tens of megabytes would stay resident, and never the same. Elsewhere the
//! allocator returns memory by itself.

#![allow(unsafe_code, reason = "the C library's calls have no safe binding")]

/// Blocks from this size on are returned to the system as soon as they are freed, in bytes. Passes
/// cost no more processor time for it than with glibc's own choice.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BLOCK: libc::c_int = 1 << 20;

/// Fixes the size from which a block counts as large, and gives all threads one heap: what is free
/// at the end of another thread's heap is never given back, and a vocabulary that one thread reads
/// and another drops would stay there. Called once, when the process starts.
pub fn configure() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the calls take two numbers each. Nothing depends on their success.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK);
    }
}

/// Gives free memory back. Takes a few milliseconds for each gigabyte that was freed.
pub(super) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call takes a number, may be made from any thread, and touches free blocks only.
    unsafe {
        libc::malloc_trim(0);
    }
}
