//! Memory figures of the operating system: the machine's total and this process's share.
//!
//! Owns reading them and their file formats. Does not know budgets or models.

use std::fs;
use std::path::{Path, PathBuf};

/// The assumed total where the system does not report one, in bytes.
const UNKNOWN_TOTAL: u64 = 8 << 30;

/// The machine's memory in bytes, or the limit of this process's control groups if that is less.
#[must_use]
pub fn total_bytes() -> u64 {
    let machine = machine_bytes().unwrap_or(UNKNOWN_TOTAL);
    control_group_limit(Path::new("/sys/fs/cgroup"), Path::new("/proc/self/cgroup"))
        .map_or(machine, |limit| limit.min(machine))
}

#[cfg(target_os = "macos")]
fn machine_bytes() -> Option<u64> {
    // The system call behind it has no safe binding; this runs once, at the start.
    let output = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "hw.memsize"]).output();
    String::from_utf8(output.ok()?.stdout).ok()?.trim().parse().ok()
}

#[cfg(not(target_os = "macos"))]
fn machine_bytes() -> Option<u64> {
    kib_field(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// The smallest memory limit of the control groups this process is in, if there is one. Both
/// layouts are read: one tree (version 2), or one tree a controller (version 1).
fn control_group_limit(root: &Path, membership: &Path) -> Option<u64> {
    let mut limits = Vec::new();
    for line in fs::read_to_string(membership).ok()?.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (tree, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            list if list.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // A group can have no more than its ancestors. Inside a container the path may name a
        // group that is not visible; the tree's root is then the container's own.
        let mut folder: PathBuf = tree.join(group.trim_start_matches('/'));
        loop {
            let limit = fs::read_to_string(folder.join(file)).ok();
            limits.extend(limit.and_then(|limit| limit.trim().parse::<u64>().ok()));
            if folder == tree || !folder.pop() {
                break;
            }
        }
    }
    limits.into_iter().min()
}

/// Resident memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resident {
    /// The present value, in bytes.
    pub bytes: u64,
    /// The peak, in bytes.
    pub peak_bytes: u64,
}

/// Resident memory of this process; `None` where no file of the system has it.
///
/// On macOS only unsafe calls or another process could read it, so it is left out.
#[must_use]
pub fn resident() -> Option<Resident> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let bytes = kib_field(&status, "VmRSS:")?;
    let peak_bytes = kib_field(&status, "VmHWM:").unwrap_or(bytes);
    Some(Resident { bytes, peak_bytes })
}

/// The bytes in a line such as `VmRSS:   1234 kB`.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smallest_control_group_limit_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let membership = root.join("self");
        for (lines, files, expected) in [
            ("0::/a/b\n", &[("memory.max", "max"), ("a/b/memory.max", "500\n")][..], Some(500)),
            ("0::/a/b\n", &[("a/memory.max", "300"), ("a/b/memory.max", "max")], Some(300)),
            ("4:cpu,memory:/x\n", &[("memory/memory.limit_in_bytes", "900")], Some(900)),
            ("0::/gone/away\n", &[("memory.max", "700")], Some(700)),
            ("0::/\n3:cpu:/\n", &[("memory.max", "max")], None),
            ("nonsense\n", &[], None),
        ] {
            for (name, text) in files {
                let file = root.join(name);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            fs::write(&membership, lines).unwrap();
            assert_eq!(control_group_limit(root, &membership), expected, "{lines}");
            for (name, _) in files {
                fs::remove_file(root.join(name)).unwrap();
            }
        }
    }

    #[test]
    fn memory_of_this_machine_is_read() {
        assert!(total_bytes() > 1 << 24);
        if let Some(resident) = resident() {
            assert!(resident.bytes > 1 << 20 && resident.peak_bytes >= resident.bytes / 2);
        }
    }
}
