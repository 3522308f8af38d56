//! The engine thread: one loop that owns every model and every running generation.
//!
//! Owns the order of things: commands, then departures, then a slice of loading, then admission,
//! then one step of every running sequence. It never awaits, never blocks on a reader, and waits
//! only when it has nothing to do. Everything native is made, used and dropped inside
//! [`Worker::run_thread`].

mod commands;
mod demand;
mod embed;
mod loads;
mod memory;
mod step;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::limits;
use ingle_protocol::wire::generate::GenerateEvent;
use ingle_protocol::wire::status::Phase as Heartbeat;
use tokio::sync::oneshot;

use self::loads::PendingLoad;
use self::memory::Asker;
use super::admission::{Admission, Arrival};
use super::command::EngineExit;
use super::command::{Command, GenerateRequest};
use super::constrained::MaskThread;
use super::crash_journal::{CrashJournal, Work};
use super::embedding::Embeddings;
use super::error::EngineFailure;
use super::memory::MemoryOptions;
use super::registry::{LoadEnd, Registry};
use super::sequence::{self, Sequence, Waiting};
use super::status::StatusCell;
use super::time::millis;
use ingle_engine::cores::Cores;
use ingle_engine::counters::{LoadOutcome, UnloadReason};
use ingle_engine::engines::Engines;
use ingle_engine::settings::EngineSettings;

/// What a change of the status shows in, token counts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    models: u64,
    running: usize,
    waiting: usize,
    embeddings: usize,
    loads: usize,
}

/// The state of the engine thread.
pub struct Worker {
    inbox: Receiver<Command>,
    status: StatusCell,
    waiting: Admission<Waiting>,
    running: Vec<Sequence>,
    embeddings: Embeddings,
    registry: Registry,
    /// Loads that have not begun.
    loads: Vec<PendingLoad>,
    /// How many requests and loads have come.
    arrivals: u64,
    /// Answers that go out once the status shows what they say.
    answers: Vec<Box<dyn FnOnce()>>,
    /// What the status showed last, and when.
    published: Option<(Counts, Instant)>,
    memory: MemoryOptions,
    /// What all models may take together.
    budget_bytes: u64,
    cores: Cores,
    /// Finds out what constrained texts may go on with.
    masks: MaskThread,
    /// New work is refused; the thread ends when nothing is left.
    draining: bool,
    /// Last, so that it is cleared, or marked, when everything native has been dropped.
    journal: CrashJournal,
}

impl Worker {
    /// The body of the engine thread. A panic fails what is in flight, and everything native is
    /// dropped here either way.
    #[must_use]
    pub fn run_thread(
        inbox: Receiver<Command>,
        status: StatusCell,
        engines: Engines,
        settings: EngineSettings,
        memory: MemoryOptions,
        cores: Cores,
        journal: CrashJournal,
    ) -> EngineExit {
        let thread_status = status.clone();
        let at_the_end = engines.clone();
        let outcome = catch_unwind(AssertUnwindSafe(move || {
            Self::new(inbox, thread_status, engines, settings, memory, cores, journal).run();
        }));
        // Dropping the worker, on return or while unwinding, dropped every request's terminal
        // channel: their readers answer that the engine has ended.
        at_the_end.release_memory();
        status.beat(Heartbeat::Stopped, Instant::now());
        match outcome {
            Ok(()) => EngineExit::Finished,
            Err(panic) => {
                EngineExit::Panicked(ingle_engine::panic_message(panic.as_ref()).to_owned())
            }
        }
    }

    fn new(
        inbox: Receiver<Command>,
        status: StatusCell,
        engines: Engines,
        settings: EngineSettings,
        memory: MemoryOptions,
        cores: Cores,
        journal: CrashJournal,
    ) -> Self {
        Self {
            inbox,
            status,
            waiting: Admission::new(limits::QUEUED_GENERATIONS, limits::CONCURRENT_GENERATIONS),
            running: Vec::new(),
            embeddings: Embeddings::default(),
            registry: Registry::new(engines, settings),
            loads: Vec::new(),
            arrivals: 0,
            answers: Vec::new(),
            published: None,
            budget_bytes: memory.budget.bytes(memory.memory_bytes, None),
            memory,
            cores,
            masks: MaskThread::default(),
            draining: false,
            journal,
        }
    }

    fn run(&mut self) {
        loop {
            if self.is_idle() {
                if self.draining {
                    // What came after the drain began is refused, not dropped.
                    while let Ok(command) = self.inbox.try_recv() {
                        self.handle(command);
                    }
                    return;
                }
                self.journal.idle();
                self.beat(Heartbeat::Idle);
                match self.inbox.recv_timeout(self.idle_limit(Instant::now())) {
                    Ok(command) => self.handle(command),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            self.turn();
        }
    }

    /// Once through everything there is to do.
    fn turn(&mut self) {
        while let Ok(command) = self.inbox.try_recv() {
            self.handle(command);
        }
        self.drop_ended();
        self.expire(Instant::now());
        self.load_slice();
        self.admit();
        // Before the step, which may take long or never end.
        self.report();
        let shares = self.cores.begin_pass(self.registry.loading().is_some());
        self.registry.share_cores(shares);
        self.step();
        self.report();
        self.embed();
        self.cores.end_pass();
        self.report();
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty()
            && self.waiting.is_empty()
            && self.embeddings.is_empty()
            && self.loads.is_empty()
            && self.registry.loading().is_none()
    }

    /// Ends what was cancelled or ran out of time, waiting or running.
    fn drop_ended(&mut self) {
        let now = Instant::now();
        self.embeddings.drop_ended(now);
        for waiting in self.waiting.remove_where(|waiting| waiting.ended(now).is_some()) {
            let failure = waiting.ended(now).unwrap_or(EngineFailure::Cancelled);
            self.fail(waiting.request, failure);
        }
        for index in (0..self.running.len()).rev() {
            if let Some(failure) = self.running[index].ended(now) {
                let sequence = self.take_out(index);
                self.fail(sequence.request, failure);
            }
        }
    }

    /// Takes a sequence out and keeps its KV cache for prompts that begin alike. Of a request's
    /// several choices only the first is kept: they share what is long, the prompt, and together
    /// they would take the place of everybody else's.
    fn take_out(&mut self, index: usize) -> Sequence {
        let sequence = self.running.remove(index);
        let model = &sequence.request.model.name;
        self.registry.touch(model, Instant::now());
        if let Some(resident) = self.registry.resident(model) {
            if sequence.request.choice.index == 0 {
                resident.keep(sequence.seq, sequence.cached_text());
            } else {
                resident.generator.close(sequence.seq);
            }
        }
        sequence
    }

    fn load_slice(&mut self) {
        self.journal.loads_go_on(&self.registry.loading_names());
        let Some((model, fraction)) = self.registry.loading() else { return };
        let heartbeat = Heartbeat::Loading { model: model.to_owned(), fraction };
        self.beat(heartbeat);
        self.journal.adopts();
        let may_wait = self.running.is_empty() && self.next_job(Instant::now()).is_none();
        let slice = if may_wait { limits::ADOPT_SLICE_MS } else { limits::ADOPT_BETWEEN_STEPS_MS };
        let begun_at = Instant::now();
        let ended = self.registry.adopt(Duration::from_millis(slice), may_wait);
        let took = begun_at.elapsed();
        if took >= Duration::from_millis(2 * limits::ADOPT_SLICE_MS) {
            // One piece of it was too large, or the machine was busy: streams have stood still.
            tracing::debug!(took_ms = millis(took), "a slice of a load took long");
        }
        for waiting in self.waiting.iter_mut() {
            let fraction = self.registry.loading_fraction(&waiting.request.model.name);
            if let Some(fraction) = fraction {
                waiting.request.report(GenerateEvent::Loading { fraction });
            }
        }
        let now = Instant::now();
        for LoadEnd { name, result, .. } in &ended {
            match result {
                Ok(loaded) => {
                    self.status.update(|status| status.loads += 1);
                    self.status.counters().load_ended(LoadOutcome::Loaded);
                    let took = Duration::try_from_secs_f64(loaded.load_ms / 1_000.0);
                    self.status.counters().load_time.record(took.unwrap_or_default());
                    let mine = |waiting: &&mut Waiting| waiting.request.model.name == *name;
                    for waiting in self.waiting.iter_mut().filter(mine) {
                        waiting.load_until = Some(now);
                    }
                }
                Err(error) => {
                    self.status.counters().load_ended(LoadOutcome::Failed);
                    tracing::warn!(model = name, %error, "the model could not be loaded");
                    self.end_requests(name, &error.clone().into());
                }
            }
        }
        for end in ended {
            self.later(move || end.tell());
        }
        self.report();
    }

    fn admit(&mut self) {
        let now = Instant::now();
        self.start_waiting_loads(now);
        while let Some((waiting, admitted)) = self.next_admitted(now) {
            if let Err(failure) = admitted {
                self.fail(waiting.request, failure);
                continue;
            }
            self.registry.touch(&waiting.request.model.name, now);
            let first = first_choice(&self.running, &waiting.request).map(|first| first.seq);
            // Opening and forking a sequence is native code too.
            let GenerateRequest { model, request_id, .. } = &waiting.request;
            self.journal.step(Work::Prefill, model, std::iter::once(request_id.as_str()));
            let Some(resident) = self.registry.resident(&waiting.request.model.name) else {
                self.fail(waiting.request, EngineFailure::Cancelled);
                continue;
            };
            let context_tokens = resident.generator.capacity().context_tokens;
            match resident.open(&waiting.request.prompt, first) {
                Ok((seq, cached)) => {
                    let (counters, masks) = (self.status.counters(), &mut self.masks);
                    self.running.push(Sequence::start(
                        waiting,
                        seq,
                        cached,
                        context_tokens,
                        counters,
                        masks,
                        now,
                    ));
                }
                Err(error) => self.fail(waiting.request, error.into()),
            }
        }
    }

    fn next_arrival(&mut self) -> Arrival {
        self.arrivals += 1;
        Arrival(self.arrivals)
    }

    /// Ends the requests that wait for `name`.
    fn end_requests(&mut self, name: &str, failure: &EngineFailure) {
        for waiting in self.waiting.remove_where(|waiting| waiting.request.model.name == name) {
            self.fail(waiting.request, failure.clone());
        }
        self.embeddings.end_where(|job| (job.request.model.name == name).then(|| failure.clone()));
    }

    /// Drops a model for a reason, or cancels its load, whose waiters hear `failure`. Whether there
    /// was one.
    fn drop_model(&mut self, name: &str, reason: UnloadReason, failure: &EngineFailure) -> bool {
        let was_resident = self.registry.is_resident(name);
        let waiters = self.registry.unload(name);
        let was_there = waiters.is_some();
        if was_there {
            self.count_departure(was_resident, reason);
        }
        for waiter in waiters.into_iter().flatten() {
            self.reply(waiter.done, Err(failure.clone()));
        }
        was_there
    }

    /// Counts a model that has gone, or one that was on its way into memory.
    fn count_departure(&self, was_resident: bool, reason: UnloadReason) {
        let counters = self.status.counters();
        if was_resident {
            counters.unloaded(reason);
        } else {
            counters.load_ended(LoadOutcome::Cancelled);
        }
    }

    /// Does something once the status shows what has happened: who hears of an outcome may ask for
    /// the status next.
    fn later(&mut self, answer: impl FnOnce() + 'static) {
        self.answers.push(Box::new(answer));
    }

    fn reply<T: 'static>(&mut self, done: oneshot::Sender<T>, answer: T) {
        // A caller that has gone needs no answer.
        self.later(move || drop(done.send(answer)));
    }

    fn fail(&mut self, request: GenerateRequest, failure: EngineFailure) {
        self.later(move || sequence::fail(request, failure));
    }

    fn beat(&mut self, phase: Heartbeat) {
        self.report();
        self.status.beat(phase, Instant::now());
    }

    /// Brings the status up to date, then sends what is to be answered.
    fn report(&mut self) {
        let now = Instant::now();
        let counts = Counts {
            models: self.registry.revision(),
            running: self.running.len(),
            waiting: self.waiting.len(),
            embeddings: self.embeddings.len(),
            loads: self.loads.len(),
        };
        let refresh = Duration::from_millis(limits::STATUS_REFRESH_MS);
        let is_fresh = self.published.is_some_and(|(published, at)| {
            published == counts && now.saturating_duration_since(at) < refresh
        });
        let owes_answers = !self.answers.is_empty() || self.embeddings.has_outcomes();
        if owes_answers || !is_fresh {
            self.publish();
            self.published = Some((counts, now));
        }
        for answer in std::mem::take(&mut self.answers) {
            answer();
        }
        self.embeddings.answer();
    }

    fn publish(&self) {
        let used_bytes = self.ledger(Asker::Patient).used_bytes();
        let expires = self.expiries();
        let models = self.registry.describe(|model| self.demand(model).in_use());
        let loading = self.registry.loading_names();
        let engines = self.engines();
        let quarantined = self.journal.quarantined();
        let budget_bytes = self.budget_bytes;
        self.status.update(|status| {
            status.active = self.running.len();
            status.queued = self.waiting.len();
            status.embeddings = self.embeddings.len();
            status.waiting_loads = self.loads.len();
            status.models = models;
            status.loading = loading;
            status.engines = engines;
            status.quarantined = quarantined;
            status.budget_bytes = budget_bytes;
            status.used_bytes = used_bytes;
            status.expires = expires;
        });
    }
}

/// The running first choice of the request that `request` is a further choice of.
fn first_choice<'a>(running: &'a [Sequence], request: &GenerateRequest) -> Option<&'a Sequence> {
    let is_first = |sequence: &&Sequence| {
        sequence.request.choice.index == 0 && sequence.request.request_id == request.request_id
    };
    running.iter().find(is_first).filter(|_| request.choice.index > 0)
}

#[cfg(test)]
mod tests;
