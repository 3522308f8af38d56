//! Token masks of a constrained sequence, computed on a thread of their own.
//!
//! Owns the hand-over between the engine thread, which samples tokens, and the mask thread, which
//! computes the allowed tokens of the next step while the pass of that step runs. The mask depends
//! on the tokens so far only, so its computation starts as soon as a token is sampled. A mask that
//! the mask thread has not started is computed on the engine thread when it is needed: the engine
//! thread never waits for a thread that has no core.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits;

use ingle_engine::sampling::{Mask, MaskSource, TokenSet};
use ingle_text::constraint::{Canceller, Constraint, ConstraintError};

/// The thread that computes masks ahead of need.
///
/// It starts with the first constrained sequence, and ends with the last handle.
#[derive(Debug, Clone, Default)]
pub struct MaskThread {
    jobs: Option<SyncSender<Arc<SharedMask>>>,
}

impl MaskThread {
    /// Queues the computation of the next mask, if the thread's queue is not full.
    fn prepare(&mut self, shared: &Arc<SharedMask>) {
        let jobs = self.jobs.get_or_insert_with(|| {
            let (jobs, inbox) = sync_channel::<Arc<SharedMask>>(limits::CONCURRENT_GENERATIONS);
            let work = move || {
                for shared in inbox {
                    shared.make();
                }
            };
            // If the thread cannot be started, every mask is computed on the engine thread, and
            // sends to the queue fail.
            let _ = std::thread::Builder::new().name("ingle-masks".to_owned()).spawn(work);
            jobs
        });
        let _ = jobs.try_send(Arc::clone(shared));
    }
}

/// Time spent on masks, over all steps of a sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MaskTimes {
    /// Time to compute the masks, on any thread.
    pub work: Duration,
    /// Time that the engine thread computed or waited.
    pub wait: Duration,
}

/// A sequence's constraint.
#[derive(Debug)]
pub struct SequenceConstraint {
    shared: Arc<SharedMask>,
    thread: MaskThread,
}

impl SequenceConstraint {
    /// Starts with the mask of the first token.
    #[must_use]
    pub fn new(constraint: Constraint, thread: &mut MaskThread) -> Self {
        let canceller = constraint.canceller();
        let state =
            MaskState { constraint: Some(constraint), set: None, times: MaskTimes::default() };
        let shared =
            Arc::new(SharedMask { state: Mutex::new(state), changed: Condvar::new(), canceller });
        thread.prepare(&shared);
        Self { shared, thread: thread.clone() }
    }

    /// The mask of the next token.
    #[must_use]
    pub fn mask(&self) -> Mask {
        let source: Arc<dyn MaskSource> = self.shared.clone();
        Mask::Pending(source)
    }

    /// Accepts the sampled token, and starts the next mask.
    ///
    /// Returns whether the text is complete, so that no token may follow. A failure is reported
    /// when the next mask is requested.
    pub fn accept(&mut self, token: u32) -> bool {
        let is_complete = self.shared.accept(token);
        if !is_complete {
            self.thread.prepare(&self.shared);
        }
        is_complete
    }

    /// Time spent so far.
    #[must_use]
    pub fn times(&self) -> MaskTimes {
        self.shared.lock().times
    }
}

/// Cancels a mask in progress, so that the thread is free for other sequences.
impl Drop for SequenceConstraint {
    fn drop(&mut self) {
        if let Some(canceller) = &self.shared.canceller {
            canceller.cancel();
        }
    }
}

#[derive(Debug)]
struct SharedMask {
    state: Mutex<MaskState>,
    changed: Condvar,
    canceller: Option<Canceller>,
}

#[derive(Debug)]
struct MaskState {
    /// `None` while a thread computes with it.
    constraint: Option<Constraint>,
    /// The mask of the next token, once it is computed.
    set: Option<Result<Arc<TokenSet>, String>>,
    times: MaskTimes,
}

impl SharedMask {
    /// Computes the mask, unless it is ready or in progress.
    fn make(&self) {
        let mut state = self.lock();
        if state.set.is_some() {
            return;
        }
        let Some(mut constraint) = state.constraint.take() else { return };
        drop(state);
        let began = Instant::now();
        let set = constraint.allowed();
        let set =
            set.map(|words| Arc::new(TokenSet::new(words))).map_err(|error| error.to_string());
        let mut state = self.lock();
        state.times.work += began.elapsed();
        state.set = Some(set);
        state.constraint = Some(constraint);
        drop(state);
        self.changed.notify_all();
    }

    fn accept(&self, token: u32) -> bool {
        let began = Instant::now();
        let mut state = self.lock();
        let accepted = state
            .constraint
            .as_mut()
            .map(|constraint| constraint.accept(token).map(|()| constraint.is_complete()));
        state.set = None;
        let is_complete = match accepted {
            Some(Ok(is_complete)) => is_complete,
            Some(Err(error)) => {
                state.set = Some(Err(error.to_string()));
                false
            }
            // Cannot happen: the token was sampled with a finished mask, so no thread computes.
            None => {
                state.set = Some(Err(failed("a token was accepted before its mask was requested")));
                false
            }
        };
        let took = began.elapsed();
        state.times.work += took;
        state.times.wait += took;
        is_complete
    }

    fn lock(&self) -> MutexGuard<'_, MaskState> {
        // Consistent after every statement: the computation itself runs without the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MaskSource for SharedMask {
    fn wait(&self) -> Result<Arc<TokenSet>, String> {
        let began = Instant::now();
        self.make();
        let limit = Duration::from_millis(limits::MASK_MS);
        let waiting = |state: &mut MaskState| state.set.is_none();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, waiting);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.times.wait += began.elapsed();
        match &state.set {
            Some(set) => set.clone(),
            None => {
                if let Some(canceller) = &self.canceller {
                    canceller.cancel();
                }
                Err(failed(&format!("one step took more than {} ms", limits::MASK_MS)))
            }
        }
    }
}

fn failed(problem: &str) -> String {
    ConstraintError::Exceeded(problem.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use ingle_protocol::wire::generate::OutputFormat;

    use super::*;
    use ingle_text::TextModel;
    use ingle_text::constraint::Grammars;

    fn constrained(lark: &str) -> SequenceConstraint {
        let grammars = Grammars::new(&TextModel::bytes()).unwrap();
        let format = OutputFormat::Grammar { lark: lark.to_owned() };
        let constraint = grammars.constraint(&format).unwrap().unwrap();
        SequenceConstraint::new(constraint, &mut MaskThread::default())
    }

    #[test]
    fn mask_follows_tokens_until_text_is_complete() {
        let mut text = constrained("start: \"a\" (\"b\" | \"c\")");
        assert_eq!(text.mask().wait().unwrap().only(), Some(97));
        assert!(!text.accept(97));
        let set = text.mask().wait().unwrap();
        assert!(set.contains(98) && set.contains(99) && !set.contains(97) && set.only().is_none());
        assert!(text.accept(99));
        let times = text.times();
        assert!(times.work > Duration::ZERO && times.wait <= Duration::from_secs(60));
    }

    #[test]
    fn disallowed_token_fails_the_next_step() {
        let mut text = constrained("start: \"ab\"");
        text.mask().wait().unwrap();
        assert!(!text.accept(120));
        let problem = text.mask().wait().unwrap_err();
        assert!(problem.starts_with("`format` could not be enforced"), "{problem}");
    }

    #[test]
    fn unfinished_mask_times_out() {
        let text = constrained("start: \"ab\"");
        text.mask().wait().unwrap();
        let (constraint, _) = {
            let mut state = text.shared.lock();
            (state.constraint.take(), state.set.take())
        };
        let problem = text.mask().wait().unwrap_err();
        assert!(problem.contains("took more than"), "{problem}");
        assert!(constraint.unwrap().allowed().is_err(), "the computation is cancelled");
    }
}
