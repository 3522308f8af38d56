//! Processor cores that the engine thread leaves to others.
//!
//! Owns who has asked for one. Engines compute on all cores with threads that wait for each other,
//! so a thread that takes one of them away for 50 ms stretches a pass of 6 ms to 60. Whoever has
//! that much to do while streams run asks for a core first, and the next pass runs on one thread
//! less. Knows nothing of engines or models.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limits;

/// Who wants a core, and whether the engine thread knows.
#[derive(Debug, Clone, Default)]
pub struct Cores(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Loans that have not ended.
    reservations: usize,
    /// Whether the engine thread computes, with no core left to others.
    takes_all: bool,
}

impl Cores {
    /// Asks for a core and waits, for a limited time, until the engine thread leaves one: that is
    /// the rest of its pass. It is given back when the loan is dropped. Blocks the thread.
    #[must_use]
    pub fn reserve(&self) -> CoreReservation {
        let limit = Duration::from_millis(limits::CORE_RESERVATION_WAIT_MS);
        let mut state = self.lock();
        state.reservations += 1;
        // A pass that takes longer is slowed down: what asks is somebody's request too.
        let waited = self.0.changed.wait_timeout_while(state, limit, |state| state.takes_all);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        CoreReservation(self.clone())
    }

    /// How many are lent now, or asked for.
    #[must_use]
    pub fn reserved(&self) -> usize {
        self.lock().reservations
    }

    /// The engine thread is about to compute. Whether it has to leave a core, which it has to
    /// anyhow if `shares`.
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

    /// The engine thread has computed.
    pub fn end_pass(&self) {
        self.lock().takes_all = false;
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A count and a flag, whole after every statement.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A core in use; dropping it gives it back.
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
    fn a_pass_leaves_a_core_while_one_is_lent() {
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
    fn a_loan_waits_for_the_end_of_the_pass_that_takes_all() {
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
    fn a_pass_that_never_ends_is_not_waited_for() {
        let cores = Cores::default();
        assert!(!cores.begin_pass(false));
        drop(cores.reserve());
    }
}
