//! Host process: the program that spawned this shim.
//!
//! Owns noticing its end, because some hosts end without closing our input. Does not know what the
//! shim does for it.

use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, getppid};
use tokio::sync::oneshot;

/// The parent process as it was when the shim started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostProcess {
    pid: Option<Pid>,
}

impl HostProcess {
    /// Remembers the parent. Called first of all, so that an early end of the host is noticed.
    pub(crate) fn remember() -> Self {
        Self { pid: getppid() }
    }

    /// The name of its program, where the system provides it.
    pub(crate) fn name(self) -> Option<String> {
        let path = format!("/proc/{}/comm", self.pid?.as_raw_nonzero());
        let name = std::fs::read_to_string(path).ok()?;
        Some(name.trim_end().to_owned())
    }

    /// Returns once the parent is another process.
    ///
    /// A thread waits for it: on Linux by a pidfd, and where the kernel has none by a slow check.
    /// (A parent-death signal would be wrong: it is sent when the *thread* that spawned us ends,
    /// and hosts spawn from short-lived pool threads.)
    pub(crate) async fn gone(self) {
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("host".to_owned()).stack_size(64 * 1024);
        let watch = thread.spawn(move || {
            self.wait();
            // The proxy may have ended first.
            let _ = end.send(());
        });
        // Without a thread, only the end of our input shows it.
        if watch.is_err() || ended.await.is_err() {
            std::future::pending().await
        }
    }

    fn wait(self) {
        let pidfd = self.pid.and_then(open_pidfd);
        let check_ms = i64::try_from(crate::limits::SHIM_PARENT_CHECK_MS).unwrap_or(i64::MAX);
        let pause = Timespec { tv_sec: check_ms / 1_000, tv_nsec: check_ms % 1_000 * 1_000_000 };
        let mut pidfd = pidfd.as_ref();
        while getppid() == self.pid {
            let mut files = pidfd.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN));
            let waited = match files.next() {
                Some(file) => poll(&mut [file], None),
                None => poll(&mut [], Some(&pause)),
            };
            if waited.is_ok_and(|ready| ready > 0) {
                // It has ended, and the kernel has set another parent by now. If that comes
                // later, the slow check notices it.
                pidfd = None;
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn open_pidfd(pid: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_pidfd(_pid: Pid) -> Option<OwnedFd> {
    None
}
