//! One sequence's constraint: what is computed where, and when.
//!
//! Owns the order of things between the engine thread, which draws tokens, and a thread beside it,
//! which finds out what may be drawn next while the pass of that step runs. The set depends on the
//! tokens so far only, so it can be begun the moment a token has come. Whoever needs it first makes
//! it: a set that the other thread has not begun is made in place, so that nobody ever waits for a
//! thread that has no core.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits;

use ingle_engine::sampling::{Mask, MaskSource, TokenSet};
use ingle_text::constraint::{Canceller, Constraint, ConstraintError};

/// The thread that makes sets ahead of need. It is started with the first constrained text, and
/// ends with the last handle.
#[derive(Debug, Clone, Default)]
pub struct MaskThread {
    jobs: Option<SyncSender<Arc<Shared>>>,
}

impl MaskThread {
    /// Has the next set made, if the thread has room for it.
    fn prepare(&mut self, shared: &Arc<Shared>) {
        let jobs = self.jobs.get_or_insert_with(|| {
            let (jobs, inbox) = sync_channel::<Arc<Shared>>(limits::CONCURRENT_GENERATIONS);
            let work = move || {
                for shared in inbox {
                    shared.make();
                }
            };
            // Without the thread every set is made in place, and its jobs go nowhere.
            let _ = std::thread::Builder::new().name("ingle-masks".to_owned()).spawn(work);
            jobs
        });
        let _ = jobs.try_send(Arc::clone(shared));
    }
}

/// How long constraints took, all of a text's steps together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MaskTimes {
    /// Making the sets, wherever that was.
    pub work: Duration,
    /// What of it the engine thread spent or waited for.
    pub wait: Duration,
}

/// A sequence's constraint.
#[derive(Debug)]
pub struct Constrained {
    shared: Arc<Shared>,
    thread: MaskThread,
}

impl Constrained {
    /// Begins with the set for the first token.
    #[must_use]
    pub fn new(constraint: Constraint, thread: &mut MaskThread) -> Self {
        let canceller = constraint.canceller();
        let state = State { constraint: Some(constraint), set: None, times: MaskTimes::default() };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), canceller });
        thread.prepare(&shared);
        Self { shared, thread: thread.clone() }
    }

    /// What the next token may be.
    #[must_use]
    pub fn mask(&self) -> Mask {
        let source: Arc<dyn MaskSource> = self.shared.clone();
        Mask::Pending(source)
    }

    /// Takes note of the drawn token, and has the next set begun. Whether the text is whole now, and
    /// nothing may follow. A failure comes out where the next set is asked for.
    pub fn accept(&mut self, token: u32) -> bool {
        let is_complete = self.shared.accept(token);
        if !is_complete {
            self.thread.prepare(&self.shared);
        }
        is_complete
    }

    /// How long it took so far.
    #[must_use]
    pub fn times(&self) -> MaskTimes {
        self.shared.lock().times
    }
}

/// Who has gone needs no set any more, and the thread is wanted by others.
impl Drop for Constrained {
    fn drop(&mut self) {
        if let Some(canceller) = &self.shared.canceller {
            canceller.cancel();
        }
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    canceller: Option<Canceller>,
}

#[derive(Debug)]
struct State {
    /// Absent while somebody is at work with it.
    constraint: Option<Constraint>,
    /// The set for the next token, once it is made.
    set: Option<Result<Arc<TokenSet>, String>>,
    times: MaskTimes,
}

impl Shared {
    /// Makes the set, unless it is there or in the making.
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
            // The set that the token was drawn from is there, so nobody is at work any more.
            None => {
                state.set = Some(Err(failed("a token came before it was asked for")));
                false
            }
        };
        let took = began.elapsed();
        state.times.work += took;
        state.times.wait += took;
        is_complete
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // It is whole after every statement: the work itself is done without the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MaskSource for Shared {
    fn wait(&self) -> Result<Arc<TokenSet>, String> {
        let began = Instant::now();
        self.make();
        let limit = Duration::from_millis(limits::MASK_MS);
        let waiting = |state: &mut State| state.set.is_none();
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

    fn constrained(lark: &str) -> Constrained {
        let grammars = Grammars::new(&TextModel::bytes()).unwrap();
        let format = OutputFormat::Grammar { lark: lark.to_owned() };
        let constraint = grammars.constraint(&format).unwrap().unwrap();
        Constrained::new(constraint, &mut MaskThread::default())
    }

    #[test]
    fn each_token_narrows_what_the_next_may_be_until_the_text_is_whole() {
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
    fn a_token_that_was_not_allowed_fails_the_next_step() {
        let mut text = constrained("start: \"ab\"");
        text.mask().wait().unwrap();
        assert!(!text.accept(120));
        let problem = text.mask().wait().unwrap_err();
        assert!(problem.starts_with("`format` could not be enforced"), "{problem}");
    }

    #[test]
    fn a_set_that_nobody_finishes_is_given_up() {
        let text = constrained("start: \"ab\"");
        text.mask().wait().unwrap();
        let (constraint, _) = {
            let mut state = text.shared.lock();
            (state.constraint.take(), state.set.take())
        };
        let problem = text.mask().wait().unwrap_err();
        assert!(problem.contains("took more than"), "{problem}");
        assert!(constraint.unwrap().allowed().is_err(), "who is at it is told to stop");
    }
}
