//! Blocking work that several requests want at once: done once, for all of them.
//!
//! Owns who works and who waits. The work belongs to its thread: whoever started it may give up, and
//! the next to ask finds it still under way instead of starting another on another thread. Knows
//! nothing of what is worked on.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ingle_protocol::error::{ErrorBody, ErrorCode};
use tokio::sync::watch;

/// What one thread works on.
#[derive(Debug)]
struct Flight<T> {
    outcome: watch::Receiver<Option<Result<T, ErrorBody>>>,
    since: Instant,
}

/// The work under way, by what it is about.
#[derive(Debug)]
pub(super) struct Flights<K, T> {
    under_way: Arc<Mutex<HashMap<K, Flight<T>>>>,
    /// How long work must have gone on before others wait for it instead of doing it themselves.
    join_after: Duration,
}

impl<K, T> Flights<K, T>
where
    K: Clone + Debug + Eq + Hash + Send + 'static,
    T: Clone + Debug + Send + Sync + 'static,
{
    /// Work that is the same for all who ask for it.
    pub(super) fn shared() -> Self {
        Self::joined_after(Duration::ZERO)
    }

    /// Work whose outcome may change, such as a look at a disk: shared only when it takes so long
    /// that doing it once more would not come out otherwise.
    pub(super) fn joined_after(join_after: Duration) -> Self {
        Self { under_way: Arc::default(), join_after }
    }

    /// The outcome of `work`, or of the same work if it is under way. Dropping the future ends
    /// nothing.
    ///
    /// # Errors
    /// What the work reports; `INTERNAL` when it panics.
    pub(super) async fn run(
        &self,
        key: K,
        work: impl FnOnce() -> Result<T, ErrorBody> + Send + 'static,
    ) -> Result<T, ErrorBody> {
        let mut outcome = self.join_or_start(key, work);
        match outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(ErrorBody::new(ErrorCode::Internal, "the work ended without an outcome")),
        }
    }

    fn join_or_start(
        &self,
        key: K,
        work: impl FnOnce() -> Result<T, ErrorBody> + Send + 'static,
    ) -> watch::Receiver<Option<Result<T, ErrorBody>>> {
        let mut under_way = lock(&self.under_way);
        let present = under_way.get(&key);
        if let Some(flight) = present.filter(|flight| flight.since.elapsed() >= self.join_after) {
            return flight.outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        // A second one on the same key is not noted: the first, which is older, is to be joined.
        let landing = present.is_none().then(|| {
            let flight = Flight { outcome: outcome.clone(), since: Instant::now() };
            under_way.insert(key.clone(), flight);
            Landing { under_way: Arc::clone(&self.under_way), key }
        });
        drop(under_way);
        tokio::task::spawn_blocking(move || {
            let outcome = work();
            // Whoever asks from here on looks anew.
            drop(landing);
            sender.send_replace(Some(outcome));
        });
        outcome
    }
}

/// Takes a flight off the list, however its work ends.
struct Landing<K: Eq + Hash, T> {
    under_way: Arc<Mutex<HashMap<K, Flight<T>>>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        lock(&self.under_way).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The map is whole after every statement, so a panic elsewhere cannot have torn it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[tokio::test]
    async fn work_that_was_given_up_is_joined_and_holds_up_nothing_else() {
        let flights: Flights<&str, usize> = Flights::shared();
        let (go_on, hangs) = mpsc::channel::<()>();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let hung = move || {
            let _ = hangs.recv();
            Ok(counted.fetch_add(1, Ordering::SeqCst) + 1)
        };
        let mut first = Box::pin(flights.run("a", hung));
        // Started, and given up.
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut first).await.is_err());
        drop(first);
        let mut again = Box::pin(flights.run("a", || panic!("it is under way")));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut again).await.is_err());
        assert_eq!(flights.run("b", || Ok(7)).await, Ok(7));
        go_on.send(()).unwrap();
        assert_eq!(again.await, Ok(1));
        // It has ended, so the next one is a new one.
        assert_eq!(flights.run("a", || Ok(2)).await, Ok(2));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_leaves_nothing_behind() {
        let flights: Flights<&str, ()> = Flights::shared();
        let outcome = flights.run("a", || panic!("injected")).await;
        assert_eq!(outcome.unwrap_err().code, ErrorCode::Internal);
        assert_eq!(flights.run("a", || Ok(())).await, Ok(()));
    }

    #[tokio::test]
    async fn quick_looks_are_not_shared() {
        let flights: Flights<&str, usize> = Flights::joined_after(Duration::from_secs(60));
        let (go_on, hangs) = mpsc::channel::<()>();
        let hung = move || {
            let _ = hangs.recv();
            Ok(1)
        };
        let mut first = Box::pin(flights.run("a", hung));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut first).await.is_err());
        assert_eq!(flights.run("a", || Ok(2)).await, Ok(2));
        go_on.send(()).unwrap();
        assert_eq!(first.await, Ok(1));
    }
}
