//! Gives free memory of the C heap back to the system.
//!
//! An unsafe edge of one call. glibc keeps freed blocks below its threshold for `mmap`, which grows
//! with what a program frees: after a model has gone, tens of megabytes would stay resident for
//! good. Elsewhere the allocator returns memory by itself.

#![allow(unsafe_code, reason = "the C library's call has no safe binding")]

/// Gives free memory back. Takes a few milliseconds for each gigabyte that was freed.
pub(super) fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call takes a number, may be made from any thread, and touches free blocks only.
    unsafe {
        libc::malloc_trim(0);
    }
}
