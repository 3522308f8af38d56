//! The engine thread: one loop that owns every model and every running generation.
//!
//! Owns the order of things: commands, then departures, then a slice of loading, then admission,
//! then one step of every running sequence. It never awaits, never blocks on a reader, and waits
//! only when it has nothing to do. Everything native is made, used and dropped inside
//! [`Worker::run_thread`].

mod memory;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ingle_protocol::limits;
use ingle_protocol::wire::generate::GenerateEvent;
use ingle_protocol::wire::status::Phase as Heartbeat;

use self::memory::{Asker, PendingLoad, Residence};
use super::admission::{Admission, QueueFull};
use super::backend::{EngineError, Row};
use super::cores::Cores;
use super::crash_journal::{CrashJournal, Work};
use super::embedding::Embeddings;
use super::handle::{Command, EmbedRequest, EngineExit, EngineFailure, GenerateRequest};
use super::memory::{MemoryOptions, ModelOptions};
use super::registry::{LoadEnd, LoadWaiter, Registry, Resident};
use super::sampling::{SampleSpec, Sampled};
use super::sequence::{self, Phase, Sequence, Waiting};
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

    fn handle(&mut self, command: Command) {
        match command {
            Command::Generate(request) => {
                self.enqueue(*request);
                // At once, so that a burst does not fill the queue while slots are free.
                self.admit();
            }
            Command::Embed(request) => self.enqueue_texts(*request),
            Command::Load { model, options, force, progress, done } => {
                if self.draining {
                    let _ = done.send(Err(EngineFailure::ShuttingDown));
                    return;
                }
                if force {
                    self.journal.forgive(&model.name);
                }
                let (waiter, since) = (LoadWaiter { progress, done }, Instant::now());
                let load = PendingLoad { model, asked: options, waiter, since };
                self.load(load, Asker::Patient);
            }
            Command::Estimate { model, done } => {
                // A caller that has gone needs no answer.
                let _ = done.send(Ok(self.estimate(&model)));
            }
            Command::Unload { name, done } => {
                // Requests that only wait for a slot are somebody's too; those that wait for the
                // load go with it.
                let mut active = self.active_on(&name);
                if self.registry.is_resident(&name) {
                    let waiting = self.waiting.iter_mut();
                    active += waiting.filter(|waiting| waiting.request.model.name == name).count();
                }
                let outcome = if active > 0 {
                    Err(EngineFailure::Busy { model: name, active })
                } else {
                    Ok(self.unload(&name))
                };
                let _ = done.send(outcome);
            }
            Command::Shutdown { now } => {
                self.draining = true;
                if now {
                    for waiting in self.waiting.remove_where(|_| true) {
                        sequence::fail(waiting.request, EngineFailure::ShuttingDown);
                    }
                    for index in (0..self.running.len()).rev() {
                        self.take_out(index).fail(EngineFailure::ShuttingDown);
                    }
                    self.embeddings.fail(None, &EngineFailure::ShuttingDown);
                }
                for load in self.loads.drain(..) {
                    let _ = load.waiter.done.send(Err(EngineFailure::ShuttingDown));
                }
                // A load is worth nothing to a daemon that ends, unless a request waits for it.
                for name in self.registry.loading_names() {
                    let is_awaited =
                        self.waiting.iter_mut().any(|waiting| waiting.request.model.name == name)
                            || self.embeddings.count(&name) > 0;
                    if !is_awaited {
                        self.registry.unload(&name, &EngineFailure::ShuttingDown);
                    }
                }
            }
        }
        self.publish();
    }

    /// Drops a model. Requests that wait for its load end as cancelled.
    fn unload(&mut self, name: &str) -> bool {
        for waiting in self.waiting.remove_where(|waiting| waiting.request.model.name == name) {
            sequence::fail(waiting.request, EngineFailure::Cancelled);
        }
        self.embeddings.fail(Some(name), &EngineFailure::Cancelled);
        self.registry.unload(name, &EngineFailure::Cancelled)
    }

    fn enqueue(&mut self, request: GenerateRequest) {
        if self.draining {
            sequence::fail(request, EngineFailure::ShuttingDown);
            return;
        }
        if let Some(failure) = self.quarantined(&request.model) {
            sequence::fail(request, failure);
            return;
        }
        let now = Instant::now();
        let (none, asker) = (ModelOptions::default(), self.asker(self.waiting.len(), None, now));
        let tokens = request.prompt.len().saturating_add(request.max_tokens);
        let residence = match self.make_resident(&request.model, tokens, none, asker, now) {
            Ok(residence) => residence,
            Err(failure) => {
                sequence::fail(request, failure);
                return;
            }
        };
        let mut waiting = Waiting::new(request);
        if !self.registry.is_resident(&waiting.request.model.name) {
            waiting.memory(residence == Residence::Awaited, now);
        }
        // The first of a request's choices speaks for all.
        let events = (waiting.request.choice.index == 0).then(|| waiting.request.events.clone());
        match self.waiting.push(waiting) {
            Ok(position) => {
                self.status.update(|status| status.accepted += 1);
                let waits = position > 0 || self.running.len() >= limits::CONCURRENT_GENERATIONS;
                if let Some(events) = events.filter(|_| waits) {
                    // Progress that finds no room is not missed.
                    let _ = events.try_send(GenerateEvent::Queued { position });
                }
            }
            Err(QueueFull(waiting)) => {
                let failure = EngineFailure::Overloaded { waiting: self.waiting.len() };
                sequence::fail(waiting.request, failure);
            }
        }
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
        let can_embed =
            self.embeddings.next_model(|model| self.registry.is_resident(model)).is_some();
        let may_wait = self.running.is_empty() && !can_embed;
        let slice = if may_wait { limits::ADOPT_SLICE_MS } else { limits::ADOPT_BETWEEN_STEPS_MS };
        let ended = self.registry.adopt(Duration::from_millis(slice), may_wait);
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

    /// One step of every running sequence, model by model.
    fn step(&mut self) {
        let models: BTreeSet<String> =
            self.running.iter().map(|sequence| sequence.request.model.name.clone()).collect();
        let alone = self.running.iter().all(|one| matches!(one.phase, Phase::Prefill { .. }));
        for model in models {
            let Some(resident) = self.registry.resident(&model) else { continue };
            let mine = |sequence: &&mut Sequence| sequence.request.model.name == model;
            let mut sequences: Vec<&mut Sequence> = self.running.iter_mut().filter(mine).collect();
            let prefill =
                sequences.iter().any(|sequence| matches!(sequence.phase, Phase::Prefill { .. }));
            let heartbeat = if prefill {
                Heartbeat::Prefill { model: model.clone() }
            } else {
                Heartbeat::Decode { model: model.clone() }
            };
            self.status.beat(heartbeat, Instant::now());
            let work = if prefill { Work::Prefill } else { Work::Decode };
            if let Some(first) = sequences.first() {
                let requests = sequences.iter().map(|one| one.request.request_id.as_str());
                self.journal.step(work, &first.request.model, requests);
            }
            let outcomes = step_model(resident, &mut sequences, alone);
            self.settle(&model, outcomes);
        }
    }

    /// Takes a request for embeddings in, or answers it.
    fn enqueue_texts(&mut self, request: EmbedRequest) {
        let refused = if self.draining {
            Some(EngineFailure::ShuttingDown)
        } else {
            self.quarantined(&request.model)
        };
        match refused {
            None => {
                self.status.update(|status| status.accepted += 1);
                self.embeddings.push(request);
            }
            Some(failure) => {
                // A caller that has gone needs no answer.
                let _ = request.done.send(Err(failure));
            }
        }
    }

    /// Starts the loads that requests for embeddings need and there is memory for, then works off a
    /// slice of one request.
    fn embed(&mut self) {
        let now = Instant::now();
        for model in self.embeddings.models() {
            let asker = self.asker(self.waiting.len(), None, now);
            if let Err(failure) = self.make_resident(&model, 0, ModelOptions::default(), asker, now)
            {
                self.embeddings.fail(Some(&model.name), &failure);
            }
        }
        let registry = &self.registry;
        let Some(next) = self.embeddings.next_model(|model| registry.is_resident(model)) else {
            return;
        };
        let (model, request_id) = (next.model.clone(), next.request_id.clone());
        self.status.beat(Heartbeat::Prefill { model: model.name.clone() }, now);
        self.journal.step(Work::Prefill, &model, std::iter::once(request_id.as_str()));
        match self.registry.embedder(&model.name) {
            Some(embedder) => {
                if self.embeddings.step(&model.name, embedder) {
                    self.journal.succeeded(&model.name);
                }
                self.registry.touch(&model.name, Instant::now());
            }
            // The service does not ask for it.
            None => {
                let problem = format!("`{}` is not an embedding model", model.name);
                self.embeddings.fail(Some(&model.name), &EngineError::Native(problem).into());
            }
        }
    }

    /// Hands each outcome to its sequence of `model`, in running order.
    fn settle(&mut self, model: &str, outcomes: Vec<Outcome>) {
        let now = Instant::now();
        let indexes: Vec<usize> = (0..self.running.len())
            .filter(|&index| self.running[index].request.model.name == model)
            .collect();
        // From the last to the first, so that taking one out moves no index still to come.
        for (index, outcome) in indexes.into_iter().zip(outcomes).rev() {
            match outcome {
                Outcome::Nothing => {}
                Outcome::Token(sampled) => {
                    if let Some(finish) = self.running[index].accept(sampled, now) {
                        self.journal.succeeded(model);
                        self.take_out(index).finish(finish, now);
                    }
                }
                Outcome::Failed(error) => {
                    // What its KV cache holds after a failure is not known.
                    let sequence = self.running.remove(index);
                    if let Some(resident) = self.registry.resident(model) {
                        resident.generator.close(sequence.seq);
                    }
                    sequence.fail(error.into());
                }
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

/// What one step came to for one sequence.
enum Outcome {
    /// It took no part, or read a prompt chunk that was not the last.
    Nothing,
    /// A token.
    Token(Sampled),
    /// Its row or the whole pass failed.
    Failed(EngineError),
}

/// One forward pass over all sequences of one model: a token each, and as many prompt tokens as
/// the pacing allows in all, which is more if nobody generates (`alone`). One outcome a sequence.
fn step_model(
    resident: &mut Resident,
    sequences: &mut [&mut Sequence],
    alone: bool,
) -> Vec<Outcome> {
    let mut prompt_left = resident.pacing.chunk_tokens(alone);
    let mut prompt_tokens = 0;
    // Tokens each sequence gives to the pass; 0 is a prompt that has to wait for the next one.
    let mut shares: Vec<usize> = sequences
        .iter()
        .map(|sequence| {
            let tokens = sequence.next_tokens(prompt_left).len();
            if matches!(sequence.phase, Phase::Prefill { .. }) {
                prompt_left -= tokens;
                prompt_tokens += tokens;
            }
            tokens
        })
        .collect();
    let specs = specs(sequences, &shares);
    let started_at = Instant::now();
    let mut refused: Vec<Option<EngineError>> = vec![None; shares.len()];
    let sampled = loop {
        match run_pass(resident, sequences, &shares, &specs) {
            Err(EngineError::KvFull { .. }) if resident.give_up_kept() => {}
            // Nothing is left to give up but the youngest sequence, for the sake of the others.
            Err(error @ EngineError::KvFull { .. }) => {
                let Some(youngest) = shares.iter().rposition(|&share| share > 0) else {
                    break Err(error);
                };
                resident.generator.close(sequences[youngest].seq);
                shares[youngest] = 0;
                refused[youngest] = Some(error);
                if shares.iter().all(|&share| share == 0) {
                    break Ok(Vec::new());
                }
            }
            sampled => break sampled,
        }
    };
    if prompt_tokens > 0 {
        resident.pacing.learn(prompt_tokens, started_at.elapsed());
    }
    let mut sampled = match sampled {
        Ok(sampled) => sampled.into_iter(),
        Err(error) => {
            let failed = |(&share, refused): (&usize, Option<EngineError>)| match (share, refused) {
                (_, Some(refused)) => Outcome::Failed(refused),
                (0, None) => Outcome::Nothing,
                (_, None) => Outcome::Failed(error.clone()),
            };
            return shares.iter().zip(refused).map(failed).collect();
        }
    };
    let mut outcomes = Vec::with_capacity(shares.len());
    for ((sequence, share), refused) in sequences.iter_mut().zip(shares).zip(refused) {
        if let Some(refused) = refused {
            outcomes.push(Outcome::Failed(refused));
            continue;
        }
        let wanted = share > 0 && sequence.wants_logits(share);
        if share > 0 {
            sequence.prefilled(share);
        }
        outcomes.push(match wanted.then(|| sampled.next()) {
            None => Outcome::Nothing,
            Some(Some(Ok(sampled))) => Outcome::Token(sampled),
            Some(Some(Err(error))) => Outcome::Failed(error),
            Some(None) => {
                Outcome::Failed(EngineError::Native("the engine gave too few tokens".to_owned()))
            }
        });
    }
    outcomes
}

/// What each sequence that gets a token draws it with. Made once a step, because each takes a
/// number from its sequence's seeded stream.
fn specs(sequences: &mut [&mut Sequence], shares: &[usize]) -> Vec<Option<SampleSpec>> {
    let draws = |(sequence, &share): (&mut &mut Sequence, &usize)| {
        (share > 0 && sequence.wants_logits(share)).then(|| sequence.sample_spec())
    };
    sequences.iter_mut().zip(shares).map(draws).collect()
}

fn run_pass(
    resident: &mut Resident,
    sequences: &[&mut Sequence],
    shares: &[usize],
    specs: &[Option<SampleSpec>],
) -> Result<Vec<Result<Sampled, EngineError>>, EngineError> {
    let takes_part = |&(spec, share): &(&Option<SampleSpec>, &usize)| *share > 0 && spec.is_some();
    let specs: Vec<SampleSpec> =
        specs.iter().zip(shares).filter(takes_part).filter_map(|(spec, _)| spec.clone()).collect();
    let rows: Vec<Row<'_>> = sequences
        .iter()
        .zip(shares)
        .filter(|(_, share)| **share > 0)
        .map(|(sequence, &share)| Row {
            seq: sequence.seq,
            tokens: sequence.next_tokens(share),
            wants_logits: sequence.wants_logits(share),
        })
        .collect();
    let ticket = resident.generator.forward(&rows)?;
    if !specs.is_empty() {
        resident.generator.sample(&ticket, &specs)?;
    }
    resident.generator.collect(ticket)
}
