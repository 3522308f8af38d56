//! Single-flight execution of blocking work.
//!
//! Owns which request runs the work and which ones wait for its outcome. The work belongs to its
//! thread: the request that started it may go, and the next request with the same key joins it
//! instead of starting it again. Does not know what the work is.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ingle_protocol::error::{ErrorBody, ErrorCode};
use tokio::sync::watch;
use tracing::Span;

type Outcome<T> = watch::Receiver<Option<Result<T, ErrorBody>>>;

/// Work in progress on one thread.
#[derive(Debug)]
struct Flight<T> {
    outcome: Outcome<T>,
    since: Instant,
}

type Flights<K, T> = Arc<Mutex<HashMap<K, Flight<T>>>>;

/// Work in progress, by its key.
#[derive(Debug)]
pub(super) struct SingleFlight<K, T> {
    flights: Flights<K, T>,
    /// How long work must have run before others join it instead of doing it themselves.
    join_after: Duration,
}

impl<K, T> SingleFlight<K, T>
where
    K: Clone + Debug + Eq + Hash + Send + 'static,
    T: Clone + Debug + Send + Sync + 'static,
{
    /// Work whose outcome is the same for all requests with its key.
    pub(super) fn shared() -> Self {
        Self::joined_after(Duration::ZERO)
    }

    /// Work whose outcome may change, such as a lookup on a disk.
    ///
    /// It is joined only when it takes so long that a second run would not differ.
    pub(super) fn joined_after(join_after: Duration) -> Self {
        Self { flights: Arc::default(), join_after }
    }

    /// The outcome of `work`, or of the work in progress with this key.
    ///
    /// Dropping the future ends no work.
    ///
    /// # Errors
    /// The error of the work; `INTERNAL` when it panics.
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
    ) -> Outcome<T> {
        let mut flights = lock(&self.flights);
        let present = flights.get(&key);
        if let Some(flight) = present.filter(|flight| flight.since.elapsed() >= self.join_after) {
            return flight.outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        // A second flight with the same key is not recorded: later requests join the older one.
        let entry = present.is_none().then(|| {
            let flight = Flight { outcome: outcome.clone(), since: Instant::now() };
            flights.insert(key.clone(), flight);
            FlightEntry { flights: Arc::clone(&self.flights), key }
        });
        drop(flights);
        // In the span of the request that starts it, which the requests that join do not change.
        let span = Span::current();
        tokio::task::spawn_blocking(move || {
            let outcome = span.in_scope(work);
            // A request that comes from here on starts new work.
            drop(entry);
            sender.send_replace(Some(outcome));
        });
        outcome
    }
}

/// Removes a flight from the list when its work ends, a panic included.
struct FlightEntry<K: Eq + Hash, T> {
    flights: Flights<K, T>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for FlightEntry<K, T> {
    fn drop(&mut self) {
        lock(&self.flights).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every statement leaves the map whole, so a panic elsewhere cannot have torn it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[tokio::test]
    async fn abandoned_work_is_joined() {
        let flights: SingleFlight<&str, usize> = SingleFlight::shared();
        let (go_on, hangs) = mpsc::channel::<()>();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let hung = move || {
            let _ = hangs.recv();
            Ok(counted.fetch_add(1, Ordering::SeqCst) + 1)
        };
        let mut first = Box::pin(flights.run("a", hung));
        // Started, then abandoned.
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut first).await.is_err());
        drop(first);
        let mut again = Box::pin(flights.run("a", || panic!("it is in progress")));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut again).await.is_err());
        assert_eq!(flights.run("b", || Ok(7)).await, Ok(7));
        go_on.send(()).unwrap();
        assert_eq!(again.await, Ok(1));
        // It has ended, so the next run starts new work.
        assert_eq!(flights.run("a", || Ok(2)).await, Ok(2));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn panic_is_an_error_and_removes_the_flight() {
        let flights: SingleFlight<&str, ()> = SingleFlight::shared();
        let outcome = flights.run("a", || panic!("injected")).await;
        assert_eq!(outcome.unwrap_err().code, ErrorCode::Internal);
        assert_eq!(flights.run("a", || Ok(())).await, Ok(()));
    }

    #[tokio::test]
    async fn quick_lookups_are_not_joined() {
        let flights: SingleFlight<&str, usize> =
            SingleFlight::joined_after(Duration::from_secs(60));
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
