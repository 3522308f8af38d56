//! Number of physical cores, on which matrix products should run.

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

/// Linux lists, for every processor, the processors of the same core. Cores count of which this
/// process may use a processor.
fn cores_of_linux() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let siblings: BTreeSet<String> = processors(allowed)?
        .map(|processor| {
            let folder = format!("/sys/devices/system/cpu/cpu{processor}");
            std::fs::read_to_string(format!("{folder}/topology/thread_siblings_list")).ok()
        })
        .collect::<Option<_>>()?;
    (!siblings.is_empty()).then_some(siblings.len())
}

/// The numbers of a list such as `0-3,8`.
fn processors(list: &str) -> Option<impl Iterator<Item = usize>> {
    let ranges = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
    });
    Some(ranges.collect::<Option<Vec<_>>>()?.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_a_core() {
        let allowed = std::thread::available_parallelism().unwrap().get();
        assert!((1..=allowed).contains(&super::physical_cores()));
    }

    #[test]
    fn lists_of_processors_are_read() {
        let numbers = |list| Some(super::processors(list)?.collect::<Vec<_>>());
        assert_eq!(numbers(" 0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(numbers("5"), Some(vec![5]));
        assert_eq!(numbers("0-"), None);
    }
}
