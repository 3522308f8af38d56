//! The scheduler: the engine thread's loop, which owns every model and running sequence.
//!
//! Owns the order of one turn: commands, departures, a slice of a load, admission, one step of
//! every running sequence, a slice of embedding. The thread never awaits, never blocks on a
//! client that reads slowly, and sleeps only when it is idle. Everything native is created, used
//! and dropped inside [`Scheduler::run_thread`].

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
use self::memory::Protection;
use super::admission::{Admission, Arrival};
use super::command::EngineExit;
use super::command::{Command, GenerateRequest};
use super::crash_journal::{CrashJournal, Work};
use super::embed_queue::EmbedQueue;
use super::error::EngineFailure;
use super::memory::MemoryOptions;
use super::registry::{FinishedLoad, LoadWaiter, Registry};
use super::sequence::{self, QueuedRequest, Sequence};
use super::status::StatusCell;
use super::time::millis;
use super::token_masks::MaskThread;
use ingle_engine::cores::Cores;
use ingle_engine::counters::{LoadOutcome, UnloadReason};
use ingle_engine::engines::Engines;
use ingle_engine::settings::EngineSettings;

/// Numbers whose change makes the cached status stale; token counts are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StatusCounts {
    models: u64,
    running: usize,
    waiting: usize,
    embeddings: usize,
    loads: usize,
}

/// The state of the engine thread.
pub struct Scheduler {
    inbox: Receiver<Command>,
    status: StatusCell,
    waiting: Admission<QueuedRequest>,
    running: Vec<Sequence>,
    embeddings: EmbedQueue,
    registry: Registry,
    /// Load commands whose load has not started.
    loads: Vec<PendingLoad>,
    /// Number of requests and load commands so far.
    arrivals: u64,
    /// Replies that are sent once the cached status agrees with them.
    answers: Vec<Box<dyn FnOnce()>>,
    /// The counts of the last published status, and its time.
    published: Option<(StatusCounts, Instant)>,
    memory: MemoryOptions,
    /// Memory budget of all models together.
    budget_bytes: u64,
    cores: Cores,
    /// Computes the token masks of constrained sequences.
    masks: MaskThread,
    /// New work is refused; the thread ends when no work is left.
    draining: bool,
    /// The last field, so that it is cleared, or marked, after everything native is dropped.
    journal: CrashJournal,
}

impl Scheduler {
    /// The body of the engine thread.
    ///
    /// A panic fails the requests in flight. Everything native is dropped here either way.
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
        let remaining_engines = engines.clone();
        let outcome = catch_unwind(AssertUnwindSafe(move || {
            Self::new(inbox, thread_status, engines, settings, memory, cores, journal).run();
        }));
        // The scheduler is dropped by now, on return or by unwinding, and with it the terminal
        // channel of every request: their receivers report that the engine has ended.
        remaining_engines.release_memory();
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
            embeddings: EmbedQueue::default(),
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
                    // Commands that came after the drain began are refused, not dropped: every
                    // caller gets an answer.
                    while let Ok(command) = self.inbox.try_recv() {
                        self.handle(command);
                    }
                    return;
                }
                // No model is to blame for a crash from here on.
                self.journal.idle();
                self.beat(Heartbeat::Idle);
                // The only place where the thread sleeps: until a command comes, or until a model
                // expires or the heap is due for a trim.
                match self.inbox.recv_timeout(self.idle_limit(Instant::now())) {
                    Ok(command) => self.handle(command),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            self.turn();
        }
    }

    /// One turn of the loop: one pass over every kind of work.
    fn turn(&mut self) {
        // Commands first: a cancellation or shutdown takes effect before the next step, and new
        // requests can join the batch of this turn. The inbox is bounded, and so is this loop.
        while let Ok(command) = self.inbox.try_recv() {
            self.handle(command);
        }
        // Departures before admission: cancelled and timed-out requests free their sequences and
        // memory for the waiting ones. Expired models likewise.
        self.drop_ended();
        self.expire(Instant::now());
        // Loading before admission: a model that becomes resident here gets its waiting requests
        // admitted in the same turn. The slice is short while sequences are running.
        self.load_slice();
        self.admit();
        // The status must be current before the step, which may take long or never end.
        self.report();
        // The step after admission: one forward pass per model over all its sequences, new ones
        // included. The pass leaves a core free if a loader thread or another part reserved one.
        let shares = self.cores.begin_pass(self.registry.loading().is_some());
        self.registry.share_cores(shares);
        self.step();
        self.report();
        // Embedding last: one slice between two steps, so that streams pause for one slice only.
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

    /// Ends cancelled and timed-out requests, waiting or running.
    fn drop_ended(&mut self) {
        let now = Instant::now();
        self.embeddings.drop_ended(now);
        for waiting in self.waiting.remove_where(|waiting| waiting.end_reason(now).is_some()) {
            let failure = waiting.end_reason(now).unwrap_or(EngineFailure::Cancelled);
            self.fail(waiting.request, failure);
        }
        for index in (0..self.running.len()).rev() {
            if let Some(failure) = self.running[index].end_reason(now) {
                let sequence = self.remove_running(index);
                self.fail(sequence.request, failure);
            }
        }
    }

    /// Removes a running sequence and keeps its KV cache for prompts with the same beginning.
    ///
    /// Of a request with several choices only the first is kept. The choices share the long part,
    /// the prompt, and together they would evict the kept sequences of other requests.
    fn remove_running(&mut self, index: usize) -> Sequence {
        let sequence = self.running.remove(index);
        let model = &sequence.request.model.name;
        self.registry.touch(model, Instant::now());
        if let Some(resident) = self.registry.resident_mut(model) {
            if sequence.request.choice.index == 0 {
                resident.keep(sequence.seq, sequence.kv_tokens());
            } else {
                resident.generator.close(sequence.seq);
            }
        }
        sequence
    }

    /// Adopts tensors of the loads in progress for one slice, and ends finished loads.
    fn load_slice(&mut self) {
        self.journal.retain_loads(&self.registry.loading_names());
        let Some((model, fraction)) = self.registry.loading() else { return };
        let heartbeat = Heartbeat::Loading { model: model.to_owned(), fraction };
        self.beat(heartbeat);
        self.journal.adopts();
        // With other work to do, the slice must not wait for the loader thread.
        let may_wait = self.running.is_empty() && self.next_embed_job(Instant::now()).is_none();
        let slice = if may_wait { limits::ADOPT_SLICE_MS } else { limits::ADOPT_BETWEEN_STEPS_MS };
        let begun_at = Instant::now();
        let ended = self.registry.adopt(Duration::from_millis(slice), may_wait);
        let took = begun_at.elapsed();
        if took >= Duration::from_millis(2 * limits::ADOPT_SLICE_MS) {
            // One tensor was too large, or the machine was busy: streams paused meanwhile.
            tracing::debug!(took_ms = millis(took), "adoption slice took long");
        }
        for waiting in self.waiting.iter_mut() {
            let fraction = self.registry.loading_fraction(&waiting.request.model.name);
            if let Some(fraction) = fraction {
                waiting.request.report(GenerateEvent::Loading { fraction });
            }
        }
        let now = Instant::now();
        for FinishedLoad { name, result, .. } in &ended {
            match result {
                Ok(loaded) => {
                    self.status.update(|status| status.loads += 1);
                    self.status.counters().load_ended(LoadOutcome::Loaded);
                    let took = Duration::try_from_secs_f64(loaded.load_ms / 1_000.0);
                    self.status.counters().load_time.record(took.unwrap_or_default());
                    let mine = |waiting: &&mut QueuedRequest| waiting.request.model.name == *name;
                    for waiting in self.waiting.iter_mut().filter(mine) {
                        waiting.load_until = Some(now);
                    }
                }
                Err(error) => {
                    self.status.counters().load_ended(LoadOutcome::Failed);
                    tracing::warn!(model = name, %error, "model load failed");
                    self.end_requests(name, &error.clone().into());
                }
            }
        }
        for end in ended {
            self.defer(move || end.notify());
        }
        self.report();
    }

    /// Starts loads and admits waiting requests, as far as memory and capacity allow.
    fn admit(&mut self) {
        let now = Instant::now();
        // Loads first, so that admissions do not take the memory that an earlier load needs.
        self.start_waiting_loads(now);
        while let Some((waiting, admitted)) = self.next_admitted(now) {
            if let Err(failure) = admitted {
                self.fail(waiting.request, failure);
                continue;
            }
            self.registry.touch(&waiting.request.model.name, now);
            let first = first_choice(&self.running, &waiting.request).map(|first| first.seq);
            // Opening and forking a sequence runs native code too, so the journal names it.
            let GenerateRequest { model, request_id, .. } = &waiting.request;
            self.journal.step(Work::Prefill, model, std::iter::once(request_id.as_str()));
            let Some(resident) = self.registry.resident_mut(&waiting.request.model.name) else {
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

    /// Ends the requests that wait for model `name`.
    fn end_requests(&mut self, name: &str, failure: &EngineFailure) {
        for waiting in self.waiting.remove_where(|waiting| waiting.request.model.name == name) {
            self.fail(waiting.request, failure.clone());
        }
        self.embeddings.end_where(|job| (job.request.model.name == name).then(|| failure.clone()));
    }

    /// Unloads a model, or cancels its load and fails the load's waiters with `failure`.
    ///
    /// Returns whether the model was in memory or being loaded.
    fn drop_model(&mut self, name: &str, reason: UnloadReason, failure: &EngineFailure) -> bool {
        let was_resident = self.registry.is_resident(name);
        let waiters = self.registry.unload(name);
        let was_there = waiters.is_some();
        if was_there {
            self.count_departure(was_resident, reason);
        }
        for waiter in waiters.into_iter().flatten() {
            self.fail_load(waiter, failure.clone());
        }
        was_there
    }

    /// Counts an unloaded model, or a cancelled load.
    fn count_departure(&self, was_resident: bool, reason: UnloadReason) {
        let counters = self.status.counters();
        if was_resident {
            counters.unloaded(reason);
        } else {
            counters.load_ended(LoadOutcome::Cancelled);
        }
    }

    /// Defers a reply until the status is published: its receiver may read the status next.
    fn defer(&mut self, answer: impl FnOnce() + 'static) {
        self.answers.push(Box::new(answer));
    }

    fn reply<T: 'static>(&mut self, done: oneshot::Sender<T>, answer: T) {
        // A closed channel is no error: the caller has gone.
        self.defer(move || drop(done.send(answer)));
    }

    /// Answers a load's caller with a failure.
    fn fail_load(&mut self, waiter: LoadWaiter, failure: EngineFailure) {
        self.defer(move || waiter.notify(Err(failure)));
    }

    fn fail(&mut self, request: GenerateRequest, failure: EngineFailure) {
        self.defer(move || sequence::fail(request, failure));
    }

    fn beat(&mut self, phase: Heartbeat) {
        self.report();
        self.status.beat(phase, Instant::now());
    }

    /// Publishes the status if it is stale, then sends the deferred replies.
    fn report(&mut self) {
        let now = Instant::now();
        let counts = StatusCounts {
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
        self.embeddings.answer(now);
    }

    fn publish(&self) {
        let used_bytes = self.ledger(Protection::All).used_bytes();
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

/// The running first choice of the request that `request` is another choice of.
fn first_choice<'a>(running: &'a [Sequence], request: &GenerateRequest) -> Option<&'a Sequence> {
    let is_first = |sequence: &&Sequence| {
        sequence.request.choice.index == 0 && sequence.request.request_id == request.request_id
    };
    running.iter().find(is_first).filter(|_| request.choice.index > 0)
}

#[cfg(test)]
mod tests;
