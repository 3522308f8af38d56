//! Admission queue: decides which waiting request runs next.
//!
//! Owns a bounded queue and the rule that takes from it. Pure policy: generic over its items, no
//! clock, no thread, no model. First come, first served among the requests that could run now, so
//! that one model's load does not delay requests for other models.

use std::collections::VecDeque;

/// Position of a request in the one arrival order over all queues of the engine thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arrival(pub u64);

/// The queue is full; the refused item comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueFull<T>(pub T);

/// A bounded queue of waiting items and a limit on running ones.
#[derive(Debug)]
pub struct Admission<T> {
    queue: VecDeque<T>,
    queue_limit: usize,
    running_limit: usize,
}

impl<T> Admission<T> {
    /// Creates an empty queue.
    ///
    /// At most `queue_limit` items wait; an item is taken only while fewer than `running_limit`
    /// run.
    #[must_use]
    pub fn new(queue_limit: usize, running_limit: usize) -> Self {
        Self { queue: VecDeque::new(), queue_limit, running_limit }
    }

    /// Appends an item to the queue and returns the number of items before it.
    ///
    /// # Errors
    /// [`QueueFull`] with the item when the queue is full.
    pub fn push(&mut self, item: T) -> Result<usize, QueueFull<T>> {
        if self.queue.len() >= self.queue_limit {
            return Err(QueueFull(item));
        }
        self.queue.push_back(item);
        Ok(self.queue.len() - 1)
    }

    /// Removes the item at `index`, counted from the head of the queue.
    pub fn remove(&mut self, index: usize) -> Option<T> {
        self.queue.remove(index)
    }

    /// Index of the item that runs next, counted from the head of the queue.
    ///
    /// That is the first item that can run, if fewer than the limit are running. An item that
    /// cannot run yet does not delay those behind it.
    pub fn next(
        &self,
        running: usize,
        mut can_run: impl FnMut(usize, &T) -> bool,
    ) -> Option<usize> {
        if running >= self.running_limit {
            return None;
        }
        let mut items = self.queue.iter().enumerate();
        items.find(|(index, item)| can_run(*index, item)).map(|(index, _)| index)
    }

    /// Removes every item for which `leaves` holds, in queue order.
    pub fn remove_where(&mut self, mut leaves: impl FnMut(&T) -> bool) -> Vec<T> {
        // Called before every step, and nearly always without a match.
        if !self.queue.iter().any(&mut leaves) {
            return Vec::new();
        }
        let (out, stay): (Vec<T>, Vec<T>) = self.queue.drain(..).partition(|item| leaves(item));
        self.queue = stay.into();
        out
    }

    /// The waiting items, first come first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.queue.iter()
    }

    /// The waiting items, first come first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.queue.iter_mut()
    }

    /// Number of waiting items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether the queue is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn full_queue_returns_the_item() {
        let mut admission = Admission::new(1, 1);
        assert_eq!(admission.push('a'), Ok(0));
        assert_eq!(admission.push('b'), Err(QueueFull('b')));
    }

    #[test]
    fn blocked_item_does_not_delay_others() {
        let mut admission = Admission::new(4, 2);
        for item in ["cold 1", "warm 1", "cold 2"] {
            admission.push(item).unwrap();
        }
        let warm = |_: usize, item: &&str| item.starts_with("warm");
        assert_eq!(admission.next(0, warm), Some(1));
        assert_eq!(admission.next(2, warm), None, "as many run as may");
        assert_eq!(admission.remove(1), Some("warm 1"));
        assert_eq!(admission.next(0, warm), None);
        assert_eq!(admission.next(0, |_, _| true), Some(0));
    }

    proptest! {
        #[test]
        fn order_and_limits_hold(
            steps in prop::collection::vec((any::<bool>(), 0_usize..4), 0..200),
        ) {
            let mut admission = Admission::new(8, 3);
            let (mut next, mut last_taken) = (0_u32, None);
            for (push, running) in steps {
                if push {
                    let full = admission.len() == 8;
                    prop_assert_eq!(admission.push(next).is_err(), full);
                    next += 1;
                } else if let Some(item) =
                    admission.next(running, |_, _| true).and_then(|index| admission.remove(index))
                {
                    prop_assert!(running < 3);
                    prop_assert!(last_taken < Some(item));
                    last_taken = Some(item);
                }
            }
        }
    }
}
