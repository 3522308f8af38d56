//! C heap settings: returns free memory to the operating system.
//!
//! Owns a few unsafe calls. glibc allocates large blocks one by one and returns them at once, but
//! its threshold for a large block grows with the sizes that a program frees: after a model is
//! unloaded, tens of megabytes would stay resident, and a different amount each time. On other
//! systems the allocator returns memory by itself.

#![allow(unsafe_code, reason = "the C library's calls have no safe binding")]

/// Bytes from which a block is returned to the system as soon as it is freed.
///
/// Passes take no more processor time with it than with glibc's own threshold.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BLOCK: libc::c_int = 1 << 20;

/// Restarts this program in place with glibc's thread caches off, unless they are off already.
///
/// Each thread caches small free blocks, which are scattered over the memory of unloaded models and
/// keep the pages around them resident: 2 MiB more in ten loads. glibc reads this setting from the
/// environment only, when a process starts. A decode step allocates too little to be slower for it.
///
/// If the restart fails, the program goes on with those pages resident.
pub fn run_without_thread_caches() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::os::unix::process::CommandExt;
        const TUNABLES: &str = "GLIBC_TUNABLES";
        // A variable of our own, because the system may remove the other one on the way.
        const DONE: &str = "INGLE_HEAP_TUNED";
        let is_set = |name: &str| std::env::var_os(name).is_some();
        if is_set(DONE) || is_set(TUNABLES) {
            return;
        }
        if let Ok(program) = std::env::current_exe() {
            let mut command = std::process::Command::new(program);
            command.args(std::env::args_os().skip(1)).env(DONE, "1");
            // `exec` returns only if it fails.
            let _ = command.env(TUNABLES, "glibc.malloc.tcache_count=0").exec();
            // SAFETY: two numbers. The attempt has reset SIGPIPE to its default, which ends a
            // process that writes to a closed pipe; this process goes on and must ignore it.
            unsafe {
                libc::signal(libc::SIGPIPE, libc::SIG_IGN);
            }
        }
    }
}

/// Fixes the threshold for large blocks, and gives all threads one heap.
///
/// Free memory at the end of another thread's heap is never returned, and a vocabulary that one
/// thread reads and another drops would stay there. Called once, when the process starts.
pub fn configure() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the calls take two numbers each. Nothing depends on their success.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BLOCK);
    }
}

/// Returns free memory to the system; takes a few milliseconds per freed gigabyte.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call takes a number, may be made from any thread, and touches free blocks only.
    unsafe {
        libc::malloc_trim(0);
    }
}
