//! The engine thread: one loop that owns every model and every running generation.
//!
//! Owns the order of things: commands, then departures, then a slice of loading, then admission,
//! then one step of every running sequence. It never awaits, never blocks on a reader, and waits
//! only when it has nothing to do. Everything native is made, used and dropped inside
//! [`Worker::run_thread`].

mod commands;
mod embed;
mod memory;
mod step;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ingle_protocol::limits;
use ingle_protocol::wire::generate::GenerateEvent;
use ingle_protocol::wire::status::Phase as Heartbeat;

use self::memory::{Asker, PendingLoad};
use super::admission::Admission;
use super::cores::Cores;
use super::crash_journal::CrashJournal;
use super::embedding::Embeddings;
use super::handle::{Command, EngineExit, EngineFailure, GenerateRequest};
use super::memory::MemoryOptions;
use super::registry::{LoadEnd, Registry};
use super::sequence::{self, Sequence, Waiting};
use super::settings::EngineSettings;
use super::status::StatusCell;

/// The state of the engine thread.
pub struct Worker {
    inbox: Receiver<Command>,
    status: StatusCell,
    waiting: Admission<Waiting>,
    running: Vec<Sequence>,
    embeddings: Embeddings,
    registry: Registry,
    /// Loads that wait for memory.
    loads: Vec<PendingLoad>,
    memory: MemoryOptions,
    /// What all models may take together.
    budget_bytes: u64,
    cores: Cores,
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
        settings: EngineSettings,
        memory: MemoryOptions,
        cores: Cores,
        mut journal: CrashJournal,
    ) -> EngineExit {
        let thread_status = status.clone();
        let outcome = catch_unwind(AssertUnwindSafe(move || {
            journal.start_thread();
            let budget_bytes = memory.budget.bytes(memory.memory_bytes, None);
            let mut worker = Self {
                inbox,
                status: thread_status,
                waiting: Admission::new(limits::QUEUED_GENERATIONS, limits::CONCURRENT_GENERATIONS),
                running: Vec::new(),
                embeddings: Embeddings::default(),
                registry: Registry::new(settings),
                loads: Vec::new(),
                memory,
                budget_bytes,
                cores,
                draining: false,
                journal,
            };
            worker.run();
        }));
        // Dropping the worker, on return or while unwinding, dropped every request's terminal
        // channel: their readers answer that the engine has ended.
        #[cfg(feature = "mlx")]
        super::mlx::cleanup();
        status.beat(Heartbeat::Stopped, Instant::now());
        match outcome {
            Ok(()) => EngineExit::Finished,
            Err(panic) => EngineExit::Panicked(super::panic_message(panic.as_ref()).to_owned()),
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
            while let Ok(command) = self.inbox.try_recv() {
                self.handle(command);
            }
            self.drop_ended();
            self.expire(Instant::now());
            self.load_slice();
            self.admit();
            // Before the step, which may take long or never end.
            self.publish();
            let shares = self.cores.begin_pass(self.registry.loading().is_some());
            self.registry.share_cores(shares);
            self.step();
            self.embed();
            self.cores.end_pass();
        }
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
            sequence::fail(waiting.request, failure);
        }
        for index in (0..self.running.len()).rev() {
            if let Some(failure) = self.running[index].ended(now) {
                self.take_out(index).fail(failure);
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
        let slice = Duration::from_millis(limits::ADOPT_SLICE_MS);
        let can_embed =
            self.embeddings.next_model(|model| self.registry.is_resident(model)).is_some();
        let ended = self.registry.adopt(slice, self.running.is_empty() && !can_embed);
        for waiting in self.waiting.iter_mut() {
            let fraction = self.registry.loading_fraction(&waiting.request.model.name);
            if let Some(fraction) = fraction {
                waiting.request.report(GenerateEvent::Loading { fraction });
            }
        }
        let now = Instant::now();
        for LoadEnd { name, result, .. } in &ended {
            match result {
                Ok(_) => {
                    self.status.update(|status| status.loads += 1);
                    let mine = |waiting: &&mut Waiting| waiting.request.model.name == *name;
                    for waiting in self.waiting.iter_mut().filter(mine) {
                        waiting.load_until = Some(now);
                    }
                }
                Err(error) => {
                    tracing::warn!(model = name, %error, "the model could not be loaded");
                    let mine = |waiting: &Waiting| waiting.request.model.name == *name;
                    for waiting in self.waiting.remove_where(mine) {
                        sequence::fail(waiting.request, error.clone().into());
                    }
                    self.embeddings.fail(Some(name), &error.clone().into());
                }
            }
        }
        if !ended.is_empty() {
            self.publish();
            ended.into_iter().for_each(LoadEnd::tell);
        }
    }

    fn admit(&mut self) {
        let now = Instant::now();
        self.start_waiting_loads(now);
        while let Some((waiting, admitted)) = self.next_admitted(now) {
            if let Err(failure) = admitted {
                sequence::fail(waiting.request, failure);
                continue;
            }
            self.registry.touch(&waiting.request.model.name, now);
            let first = first_choice(&self.running, &waiting.request).map(|first| first.seq);
            let Some(resident) = self.registry.resident(&waiting.request.model.name) else {
                sequence::fail(waiting.request, EngineFailure::Cancelled);
                continue;
            };
            let context_tokens = resident.generator.capacity().context_tokens;
            match resident.open(&waiting.request.prompt, first) {
                Ok((seq, cached)) => {
                    self.running.push(Sequence::start(waiting, seq, cached, context_tokens, now));
                }
                Err(error) => sequence::fail(waiting.request, error.into()),
            }
        }
    }

    fn active_on(&self, model: &str) -> usize {
        let running = self.running.iter();
        running.filter(|sequence| sequence.request.model.name == model).count()
            + self.embeddings.count(model)
    }

    fn beat(&self, phase: Heartbeat) {
        self.publish();
        self.status.beat(phase, Instant::now());
    }

    fn publish(&self) {
        let used_bytes = self.ledger(Asker::Patient).used_bytes();
        let expires = self.expiries();
        let models = self.registry.describe(|model| self.active_on(model));
        let loading = self.registry.loading_names();
        let quarantined = self.journal.quarantined();
        let budget_bytes = self.budget_bytes;
        self.status.update(|status| {
            status.active = self.running.len();
            status.queued = self.waiting.len();
            status.models = models;
            status.loading = loading;
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
