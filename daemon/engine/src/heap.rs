//! Gives free memory of the C heap back to the system.
//!
//! An unsafe edge of a few calls. glibc takes large blocks from the system one by one and returns
//! them at once, but the size from which a block counts as large grows with what a program frees:
//! after a model has gone, tens of megabytes would stay resident, and never the same. Elsewhere the
//! allocator returns memory by itself.

#![allow(unsafe_code, reason = "the C library's calls have no safe binding")]

/// Blocks from this size on are returned to the system as soon as they are freed, in bytes. Passes
/// cost no more processor time for it than with glibc's own choice.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BLOCK: libc::c_int = 1 << 20;

/// Starts this program anew in its own place with glibc's caches of small blocks off, unless it runs
/// so already. Each thread keeps blocks of its own for reuse, which lie scattered where a model's
/// many small things were: the pages around them stay resident, 2 MiB more in ten loads. glibc takes
/// this setting from the environment only, when a process begins. A decode step allocates too little
/// to be slower for it.
///
/// Where that cannot be done, everything works, with those pages.
pub fn run_without_thread_caches() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::os::unix::process::CommandExt;
        const TUNABLES: &str = "GLIBC_TUNABLES";
        // Of our own, because the system may take the other one away on the way.
        const DONE: &str = "INGLE_HEAP_TUNED";
        let is_set = |name: &str| std::env::var_os(name).is_some();
        if is_set(DONE) || is_set(TUNABLES) {
            return;
        }
        if let Ok(program) = std::env::current_exe() {
            let mut command = std::process::Command::new(program);
            command.args(std::env::args_os().skip(1)).env(DONE, "1");
            // It only comes back if it fails.
            let _ = command.env(TUNABLES, "glibc.malloc.tcache_count=0").exec();
            // SAFETY: two numbers. The attempt has put the signal back to what ends a process that
            // writes to a reader who has gone; this process means to go on.
            unsafe {
                libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            }
        }
    }
}

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
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call takes a number, may be made from any thread, and touches free blocks only.
    unsafe {
        libc::malloc_trim(0);
    }
}
