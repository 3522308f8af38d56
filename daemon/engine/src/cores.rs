//! Core reservations: keeps a CPU core free for work outside the engine thread.
//!
//! Owns the reservations. Engines compute on all cores with threads that wait for each other, so a
//! thread that occupies one core for 50 ms stretches a pass of 6 ms to 60 ms. Work of that size
//! reserves a core first, and the next pass runs on one thread less. Does not know engines or
//! models.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limits;

/// Core reservations, shared by the engine thread and other threads.
#[derive(Debug, Clone, Default)]
pub struct Cores(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Reservations that have not ended.
    reservations: usize,
    /// Whether the engine thread computes on all cores.
    takes_all: bool,
}

impl Cores {
    /// Reserves a core, and waits until the engine thread leaves one free.
    ///
    /// The wait lasts for the rest of the present pass, and is bounded. The reservation ends when
    /// it is dropped. Blocks the thread.
    #[must_use]
    pub fn reserve(&self) -> CoreReservation {
        let limit = Duration::from_millis(limits::CORE_RESERVATION_WAIT_MS);
        let mut state = self.lock();
        state.reservations += 1;
        // A longer pass is slowed down: the reserving work serves a request too.
        let waited = self.0.changed.wait_timeout_while(state, limit, |state| state.takes_all);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        CoreReservation(self.clone())
    }

    /// Number of reservations.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.lock().reservations
    }

    /// Starts a pass of the engine thread. Returns whether the pass must leave a core free.
    ///
    /// With `shares` it must in any case.
    pub fn begin_pass(&self, shares: bool) -> bool {
        let mut state = self.lock();
        let shares = shares || state.reservations > 0;
        state.takes_all = !shares;
        drop(state);
        if shares {
            self.0.changed.notify_all();
        }
        shares
    }

    /// Ends the pass.
    pub fn end_pass(&self) {
        self.lock().takes_all = false;
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A count and a flag, consistent after every statement.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reserved core, released when dropped.
#[derive(Debug)]
pub struct CoreReservation(Cores);

impl Drop for CoreReservation {
    fn drop(&mut self) {
        self.0.lock().reservations -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_leaves_a_core_while_one_is_reserved() {
        let cores = Cores::default();
        assert!(!cores.begin_pass(false));
        cores.end_pass();
        let (first, second) = (cores.reserve(), cores.reserve());
        assert!(cores.begin_pass(false));
        drop(first);
        assert!(cores.begin_pass(false));
        drop(second);
        assert!(!cores.begin_pass(false));
        assert!(cores.begin_pass(true), "a load is under way");
    }

    #[test]
    fn reservation_waits_for_end_of_pass() {
        let cores = Cores::default();
        assert!(!cores.begin_pass(false));
        let asking = {
            let cores = cores.clone();
            std::thread::spawn(move || drop(cores.reserve()))
        };
        while cores.lock().reservations == 0 && !asking.is_finished() {
            std::thread::yield_now();
        }
        assert_eq!(cores.lock().reservations, 1, "it waits");
        cores.end_pass();
        asking.join().unwrap();
        assert_eq!(cores.lock().reservations, 0);
    }

    #[test]
    fn reservation_does_not_wait_forever() {
        let cores = Cores::default();
        assert!(!cores.begin_pass(false));
        drop(cores.reserve());
    }
}
