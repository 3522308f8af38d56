//! Which waiting request runs next.
//!
//! Owns a bounded queue and the rule that takes from it. Pure policy: generic over its items, no
//! clock, no thread, no model. First come, first served among the requests that could run now, so
//! that one model's load holds nobody else up.

use std::collections::VecDeque;

/// When something came to the engine thread, in the one order over all its queues.
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
    /// At most `queue_limit` items wait; an item is taken only while fewer than `running_limit`
    /// run.
    #[must_use]
    pub fn new(queue_limit: usize, running_limit: usize) -> Self {
        Self { queue: VecDeque::new(), queue_limit, running_limit }
    }

    /// Puts an item at the end of the queue and tells how many stand before it.
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

    /// Takes out the item at `index`, counted from the queue's head.
    pub fn remove(&mut self, index: usize) -> Option<T> {
        self.queue.remove(index)
    }

    /// Which item runs next, counted from the queue's head: the first that can run, if fewer than
    /// the limit are running. One that cannot run yet holds nobody up.
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

    /// Takes out every item that `leaves`, in queue order.
    pub fn remove_where(&mut self, mut leaves: impl FnMut(&T) -> bool) -> Vec<T> {
        // Asked before every step, and nearly always in vain.
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

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether nobody waits.
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
    fn a_full_queue_gives_the_item_back() {
        let mut admission = Admission::new(1, 1);
        assert_eq!(admission.push('a'), Ok(0));
        assert_eq!(admission.push('b'), Err(QueueFull('b')));
    }

    #[test]
    fn an_item_that_cannot_run_yet_holds_nobody_up() {
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
        fn order_and_limits_hold_for_any_history(
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
