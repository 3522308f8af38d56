//! The transitions of a job's life, and the arithmetic of its time.
//!
//! Owns the one race between result, cancel, timeout, interruption and promotion, and when a job is
//! warned or retried. Pure but for [`JobPhase`], which is one atomic: elapsed time is an argument,
//! measured by the monotonic clock, so that a jump of the wall clock neither ends nor prolongs a job.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::limits;
use ingle_protocol::timeouts::{MAX_WORK_MS, MIN_WORK_MS};
use ingle_protocol::wire::jobs::{JobParams, JobStatus, JobTimeout, JobWarning, JobWork};

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// With a result, or with an error of its own.
    Result,
    /// By a cancel.
    Cancelled,
    /// At the end of its time.
    TimedOut,
    /// By the end of the daemon.
    Interrupted,
}

impl Ending {
    /// Every ending.
    pub const ALL: [Self; 4] = [Self::Result, Self::Cancelled, Self::TimedOut, Self::Interrupted];
}

/// The phase of a job: attached to a call, detached, or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It belongs to the call that started it, and ends with that call's connection.
    Attached,
    /// It is stored and belongs to no call.
    Detached,
    /// It has ended.
    Ended {
        /// The way it ended.
        ending: Ending,
        /// Whether it was stored.
        was_detached: bool,
    },
}

/// A transition of a job's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transition {
    /// The call becomes a stored job.
    Promote,
    /// The call that started it is gone.
    HangUp,
    /// It ends.
    End(Ending),
}

impl Phase {
    /// The phase after a transition; `None` when that comes too late.
    #[must_use]
    pub const fn after(self, transition: Transition) -> Option<Self> {
        match (self, transition) {
            (Self::Attached, Transition::Promote) => Some(Self::Detached),
            (Self::Attached, Transition::HangUp) => {
                Some(Self::Ended { ending: Ending::Cancelled, was_detached: false })
            }
            (Self::Attached, Transition::End(ending)) => {
                Some(Self::Ended { ending, was_detached: false })
            }
            (Self::Detached, Transition::End(ending)) => {
                Some(Self::Ended { ending, was_detached: true })
            }
            (Self::Detached, Transition::Promote | Transition::HangUp)
            | (Self::Ended { .. }, _) => None,
        }
    }

    /// Whether the job is stored or about to be.
    #[must_use]
    pub const fn is_detached(self) -> bool {
        matches!(self, Self::Detached | Self::Ended { was_detached: true, .. })
    }

    /// Whether a cancel ended the job.
    #[must_use]
    pub const fn is_cancelled(self) -> bool {
        matches!(self, Self::Ended { ending: Ending::Cancelled, .. })
    }

    /// The index in [`Phase::ALL`].
    fn to_bits(self) -> u8 {
        let index = Self::ALL.iter().position(|&phase| phase == self);
        index.and_then(|index| u8::try_from(index).ok()).unwrap_or(0)
    }

    fn from_bits(bits: u8) -> Self {
        Self::ALL.get(usize::from(bits)).copied().unwrap_or(Self::Attached)
    }

    /// Every phase.
    pub const ALL: [Self; 10] = {
        let mut all = [Self::Attached; 10];
        all[1] = Self::Detached;
        let mut index = 0;
        while index < Ending::ALL.len() {
            let ending = Ending::ALL[index];
            all[2 + 2 * index] = Self::Ended { ending, was_detached: false };
            all[3 + 2 * index] = Self::Ended { ending, was_detached: true };
            index += 1;
        }
        all
    };
}

/// A job's phase, which changes by one compare-and-set.
///
/// Of transitions at the same time the first one wins, and the others fail.
#[derive(Debug)]
pub struct JobPhase(AtomicU8);

impl JobPhase {
    /// A job in this phase.
    #[must_use]
    pub fn new(phase: Phase) -> Self {
        Self(AtomicU8::new(phase.to_bits()))
    }

    /// The present phase.
    #[must_use]
    pub fn get(&self) -> Phase {
        Phase::from_bits(self.0.load(Ordering::Acquire))
    }

    /// Applies a transition unless it comes too late, and gives the phase before it.
    ///
    /// # Errors
    /// The present phase, which does not allow the transition.
    pub fn apply(&self, transition: Transition) -> Result<Phase, Phase> {
        let changed = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |bits| {
            Phase::from_bits(bits).after(transition).map(Phase::to_bits)
        });
        changed.map(Phase::from_bits).map_err(Phase::from_bits)
    }
}

/// A job's times and retries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JobPlan {
    /// W of the first attempt in milliseconds; without it only the stall limit guards the job.
    pub work_ms: Option<u64>,
    /// Milliseconds of work after which the completion ends with its next sentence.
    pub soft_ms: Option<u64>,
    /// The number of retries after a timeout.
    pub retries: u32,
    /// The factor of both times for each retry.
    pub factor: f64,
}

impl JobPlan {
    /// Reads a job's parameters; a job that names no timeout has `default_ms`.
    ///
    /// # Errors
    /// The parameter and its problem.
    pub fn new(params: &JobParams, default_ms: u64) -> Result<Self, (&'static str, String)> {
        let work_ms = match params.timeout_s {
            None => Some(default_ms),
            Some(JobTimeout::None) => None,
            Some(JobTimeout::Seconds(seconds)) => {
                let ms = millis(seconds).filter(|ms| (MIN_WORK_MS..=MAX_WORK_MS).contains(ms));
                let problem = || {
                    let (least, most) = (as_seconds(MIN_WORK_MS), MAX_WORK_MS / 1_000);
                    let range = format!("must be from {least} to {most} seconds, or \"none\"");
                    ("timeout_s", format!("is {seconds}; it {range}"))
                };
                Some(ms.ok_or_else(problem)?)
            }
        };
        let soft_ms = match params.soft_timeout_s {
            None => None,
            Some(_) if matches!(params.work, JobWork::Embed(_)) => {
                let problem = "applies to `generate` only: an `embed` has no text to end";
                return Err(("soft_timeout_s", problem.to_owned()));
            }
            Some(seconds) => {
                let ms = millis(seconds).filter(|&ms| ms > 0 && ms < work_ms.unwrap_or(u64::MAX));
                let problem = || {
                    let problem = "it must be more than 0 and less than the job's timeout";
                    ("soft_timeout_s", format!("is {seconds}; {problem}"))
                };
                Some(ms.ok_or_else(problem)?)
            }
        };
        let (retries, factor) =
            params.retry.map_or((0, 1.0), |retry| (retry.times, retry.factor.unwrap_or(2.0)));
        if retries > limits::JOB_RETRIES {
            return Err(("retry.times", format!("must be at most {}", limits::JOB_RETRIES)));
        }
        if !(1.0..=limits::JOB_RETRY_FACTOR).contains(&factor) {
            let most = limits::JOB_RETRY_FACTOR;
            return Err(("retry.factor", format!("is {factor}; it must be from 1 to {most}")));
        }
        Ok(Self { work_ms, soft_ms, retries, factor })
    }

    /// The times of an attempt, which are counted from 1. Neither grows past ten days.
    #[must_use]
    pub fn times(&self, attempt: u32) -> AttemptTimes {
        let grown = |ms: u64| {
            let retries = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
            let grown = times(ms, self.factor.powi(retries)).min(MAX_WORK_MS);
            // A plan may be longer than the bound on retries.
            grown.max(ms.min(MAX_WORK_MS))
        };
        AttemptTimes { work_ms: self.work_ms.map(grown), soft_ms: self.soft_ms.map(grown) }
    }

    /// Whether another attempt follows after `attempt` timed out.
    #[must_use]
    pub const fn has_retry_after(&self, attempt: u32) -> bool {
        attempt <= self.retries
    }
}

/// The times of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptTimes {
    /// W in milliseconds.
    pub work_ms: Option<u64>,
    /// Its soft timeout in milliseconds.
    pub soft_ms: Option<u64>,
}

impl AttemptTimes {
    /// Milliseconds of work at 80 % of W.
    #[must_use]
    pub fn warn_ms(&self) -> Option<u64> {
        self.work_ms.map(|work_ms| work_ms - work_ms / 5)
    }

    /// The warnings that are due after `elapsed_ms` of work.
    #[must_use]
    pub fn due(&self, elapsed_ms: u64) -> Vec<JobWarning> {
        let is_past = |at_ms: Option<u64>| at_ms.is_some_and(|at_ms| elapsed_ms >= at_ms);
        let soft = is_past(self.soft_ms).then_some(JobWarning::SoftTimeout);
        let eighty = is_past(self.warn_ms()).then_some(JobWarning::EightyPercent);
        soft.into_iter().chain(eighty).collect()
    }

    /// The time of the next warning after `elapsed_ms` of work, in milliseconds of work.
    #[must_use]
    pub fn next_due_ms(&self, elapsed_ms: u64) -> Option<u64> {
        let all = self.soft_ms.into_iter().chain(self.warn_ms());
        all.filter(|&at_ms| at_ms > elapsed_ms).min()
    }
}

/// The status of a job with this ending, with a result or with an error.
#[must_use]
pub const fn status_of(ending: Ending, has_result: bool) -> JobStatus {
    match ending {
        Ending::Result if has_result => JobStatus::Done,
        Ending::Result => JobStatus::Failed,
        Ending::Cancelled => JobStatus::Cancelled,
        Ending::TimedOut => JobStatus::TimedOut,
        Ending::Interrupted => JobStatus::Interrupted,
    }
}

/// Milliseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "ten days of milliseconds fit a float exactly")]
#[must_use]
pub fn as_seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// Seconds as milliseconds, rounded up; `None` for a number that is no duration.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that is finite and not negative, and far out of range saturates"
)]
fn millis(seconds: f64) -> Option<u64> {
    (seconds.is_finite() && seconds >= 0.0).then(|| (seconds * 1_000.0).ceil() as u64)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "neither is negative, and what is far out of range saturates"
)]
fn times(ms: u64, factor: f64) -> u64 {
    (ms as f64 * factor).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use ingle_protocol::wire::generate::GenerateParams;
    use ingle_protocol::wire::jobs::JobRetry;
    use proptest::prelude::*;

    fn any_transition() -> impl Strategy<Value = Transition> {
        prop_oneof![
            Just(Transition::Promote),
            Just(Transition::HangUp),
            proptest::sample::select(&Ending::ALL[..]).prop_map(Transition::End),
        ]
    }

    proptest! {
        /// In any order of transitions there is one end at most, which never changes again, and a
        /// promoted job is not ended by its connection.
        #[test]
        fn first_end_wins_and_promoted_job_survives(
            moves in proptest::collection::vec(any_transition(), 0..12),
            is_stored in any::<bool>(),
        ) {
            let first = if is_stored { Phase::Detached } else { Phase::Attached };
            let job = JobPhase::new(first);
            let (mut ends, mut promotions) = (0, 0);
            for step in moves {
                let before = job.get();
                let outcome = job.apply(step);
                prop_assert_eq!(outcome.is_ok(), before.after(step).is_some());
                prop_assert_eq!(outcome.unwrap_or_else(|phase| phase), before);
                match (before, step) {
                    (Phase::Ended { .. }, _) => prop_assert_eq!(job.get(), before),
                    (Phase::Detached, Transition::HangUp) => {
                        prop_assert_eq!(job.get(), Phase::Detached);
                    }
                    _ => {}
                }
                if outcome.is_ok() {
                    promotions += u32::from(step == Transition::Promote);
                    ends += u32::from(matches!(job.get(), Phase::Ended { .. }));
                }
            }
            prop_assert!(ends <= 1 && promotions <= 1);
            prop_assert_eq!(job.get().is_detached(), is_stored || promotions == 1);
        }

        #[test]
        fn retry_times_grow_up_to_ten_days(
            work_ms in MIN_WORK_MS..=MAX_WORK_MS,
            factor in 1.0..=limits::JOB_RETRY_FACTOR,
            attempt in 1..=limits::JOB_RETRIES,
        ) {
            let plan = JobPlan { work_ms: Some(work_ms), soft_ms: None, retries: 10, factor };
            let (now, next) = (plan.times(attempt).work_ms, plan.times(attempt + 1).work_ms);
            prop_assert!(now <= next && next <= Some(MAX_WORK_MS));
        }

        #[test]
        fn next_warning_is_the_first_not_due(
            work_ms in MIN_WORK_MS..=MAX_WORK_MS,
            soft_ms in proptest::option::of(1..=MAX_WORK_MS),
            elapsed_ms in 0..=MAX_WORK_MS,
        ) {
            let times = AttemptTimes { work_ms: Some(work_ms), soft_ms };
            prop_assert!(times.warn_ms() < Some(work_ms));
            match times.next_due_ms(elapsed_ms) {
                Some(next_ms) => {
                    prop_assert_eq!(times.due(next_ms - 1).len(), times.due(elapsed_ms).len());
                    prop_assert!(times.due(next_ms).len() > times.due(elapsed_ms).len());
                }
                None => prop_assert_eq!(times.due(elapsed_ms), times.due(u64::MAX)),
            }
        }
    }

    /// Each transition is one step, so all orders are all interleavings.
    #[test]
    fn every_order_of_transitions_has_one_end() {
        let steps: Vec<Transition> = Ending::ALL
            .map(Transition::End)
            .into_iter()
            .chain([Transition::Promote, Transition::HangUp])
            .collect();
        let mut orders = vec![Vec::new()];
        for _ in 0..steps.len() {
            orders = orders
                .into_iter()
                .flat_map(|order: Vec<Transition>| {
                    let rest = steps.iter().filter(|step| !order.contains(step));
                    rest.map(|step| [&order[..], &[*step]].concat()).collect::<Vec<_>>()
                })
                .collect();
        }
        assert_eq!(orders.len(), 720);
        for order in orders {
            let job = JobPhase::new(Phase::Attached);
            let won: Vec<Transition> =
                order.iter().copied().filter(|step| job.apply(*step).is_ok()).collect();
            let promoted = won.contains(&Transition::Promote);
            let hung_up = won.contains(&Transition::HangUp);
            let ends = won.iter().filter(|step| matches!(step, Transition::End(_))).count();
            // The client gets the job's id or its end, or is gone; the work ends once.
            assert_eq!(ends + usize::from(hung_up), 1, "{order:?}: {won:?}");
            assert!(!(promoted && hung_up), "{order:?}: {won:?}");
            assert_eq!(job.get().is_detached(), promoted, "{order:?}");
        }
    }

    /// Real threads test the compare-and-set itself.
    #[test]
    fn racing_threads_end_a_job_once() {
        for round in 0..200 {
            let job = JobPhase::new(Phase::Attached);
            let job = &job;
            let won: usize = std::thread::scope(|scope| {
                let steps =
                    Ending::ALL.map(Transition::End).into_iter().chain([Transition::HangUp]);
                let threads: Vec<_> = steps
                    .map(|step| scope.spawn(move || usize::from(job.apply(step).is_ok())))
                    .collect();
                let _ = job.apply(Transition::Promote);
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(won, 1, "round {round}");
        }
    }

    fn params() -> JobParams {
        let work = JobWork::Generate(GenerateParams::default());
        JobParams { work, timeout_s: None, soft_timeout_s: None, retry: None }
    }

    #[test]
    fn bad_times_are_refused_by_name() {
        let seconds = |seconds| Some(JobTimeout::Seconds(seconds));
        let plan = |params: &JobParams| JobPlan::new(params, 120_000);
        assert_eq!(plan(&params()).unwrap().work_ms, Some(120_000));
        let none = JobParams { timeout_s: Some(JobTimeout::None), ..params() };
        assert_eq!(plan(&none).unwrap().times(1), AttemptTimes { work_ms: None, soft_ms: None });
        let retry = Some(JobRetry { times: 2, factor: None });
        let full =
            JobParams { timeout_s: seconds(10.0), soft_timeout_s: Some(4.0), retry, ..params() };
        let plan_of_full = plan(&full).unwrap();
        let third = AttemptTimes { work_ms: Some(40_000), soft_ms: Some(16_000) };
        assert_eq!(plan_of_full.times(3), third);
        assert_eq!([2, 3].map(|attempt| plan_of_full.has_retry_after(attempt)), [true, false]);
        let retry = |times, factor| Some(JobRetry { times, factor });
        for (field, params) in [
            ("timeout_s", JobParams { timeout_s: seconds(0.0), ..params() }),
            ("timeout_s", JobParams { timeout_s: seconds(f64::NAN), ..params() }),
            ("timeout_s", JobParams { timeout_s: seconds(1e9), ..params() }),
            ("soft_timeout_s", JobParams { soft_timeout_s: Some(120.0), ..params() }),
            ("soft_timeout_s", JobParams { soft_timeout_s: Some(-1.0), ..params() }),
            ("retry.times", JobParams { retry: retry(11, None), ..params() }),
            ("retry.factor", JobParams { retry: retry(1, Some(0.5)), ..params() }),
        ] {
            assert_eq!(plan(&params).unwrap_err().0, field);
        }
    }

    #[test]
    fn warnings_are_due_at_their_share_of_work() {
        let times = AttemptTimes { work_ms: Some(1_000), soft_ms: Some(500) };
        assert_eq!(times.due(499), []);
        assert_eq!(times.due(799), [JobWarning::SoftTimeout]);
        assert_eq!(times.due(800), [JobWarning::SoftTimeout, JobWarning::EightyPercent]);
        assert_eq!(times.next_due_ms(500), Some(800));
        assert_eq!(AttemptTimes { work_ms: None, soft_ms: None }.next_due_ms(0), None);
    }
}
