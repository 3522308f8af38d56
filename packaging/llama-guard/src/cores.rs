//! How many threads matrix products should run on.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use crate::sys;

/// Physical cores this process may use, at least one. Two threads of one core share its vector
/// units, so that the second gains nothing.
#[must_use]
pub fn physical_cores() -> usize {
    // Heeds affinity masks and control groups, but counts threads of cores.
    let allowed = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // SAFETY: the function takes nothing and reads system values only.
    let native = unsafe { sys::guard_physical_cores() };
    let cores = usize::try_from(native).ok().filter(|&cores| cores > 0).or_else(cores_of_linux);
    cores.map_or(allowed, |cores| cores.min(allowed))
}

/// Linux lists, for every processor, the processors of the same core.
fn cores_of_linux() -> Option<usize> {
    let entries = std::fs::read_dir("/sys/devices/system/cpu").ok()?;
    let siblings: BTreeSet<String> = entries
        .filter_map(|entry| {
            let list = entry.ok()?.path().join("topology/thread_siblings_list");
            std::fs::read_to_string(list).ok()
        })
        .collect();
    (!siblings.is_empty()).then_some(siblings.len())
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_a_core() {
        let allowed = std::thread::available_parallelism().unwrap().get();
        assert!((1..=allowed).contains(&super::physical_cores()));
    }
}
