//! The decode step: one forward pass per model over its running sequences, and its outcomes.
//!
//! Owns the batch of a pass, the eviction when the KV cache is full, and the attribution of a
//! failed pass. Does not decide which sequences run.

use std::collections::BTreeSet;
use std::time::Instant;

use ingle_protocol::wire::status::Phase as Heartbeat;

use super::Scheduler;
use crate::crash_journal::Work;
use crate::pacing::Contention;
use crate::registry::ResidentGenerator;
use crate::sequence::{Sequence, SequencePhase};
use ingle_engine::backend::Row;
use ingle_engine::counters::Activity;
use ingle_engine::error::EngineError;
use ingle_engine::sampling::{SampleSpec, SampledToken};

impl Scheduler {
    /// Runs one step of every running sequence, model by model.
    pub(super) fn step(&mut self) {
        let models: BTreeSet<String> =
            self.running.iter().map(|sequence| sequence.request.model.name.clone()).collect();
        let only_prompts =
            self.running.iter().all(|one| matches!(one.phase, SequencePhase::Prefill { .. }));
        // With a single request and no other work, a pass may be abandoned half way when its
        // request ends, and its chunk may be large.
        let is_single = self.running.len() == 1
            && self.waiting.is_empty()
            && self.embeddings.is_empty()
            && self.loads.is_empty()
            && self.registry.loading().is_none();
        for model in models {
            let Some(resident) = self.registry.resident_mut(&model) else { continue };
            let mine = |sequence: &&mut Sequence| sequence.request.model.name == model;
            let mut sequences: Vec<&mut Sequence> = self.running.iter_mut().filter(mine).collect();
            let prefill = sequences
                .iter()
                .any(|sequence| matches!(sequence.phase, SequencePhase::Prefill { .. }));
            let heartbeat = if prefill {
                Heartbeat::Prefill { model: model.clone() }
            } else {
                Heartbeat::Decode { model: model.clone() }
            };
            let began_at = Instant::now();
            self.status.beat(heartbeat, began_at);
            // The heartbeat and the journal come before native code: the watchdog and the next
            // daemon read them if the pass never returns.
            let work = if prefill { Work::Prefill } else { Work::Decode };
            if let Some(first) = sequences.first() {
                let requests = sequences.iter().map(|one| one.request.request_id.as_str());
                self.journal.step(work, &first.request.model, requests);
            }
            let contention = match (only_prompts, is_single && resident.generator.can_give_up()) {
                (false, _) => Contention::Streams,
                (true, false) => Contention::Prompts,
                (true, true) => Contention::None,
            };
            let outcomes = step_model(resident, &mut sequences, contention);
            let activity = if prefill { Activity::Prefill } else { Activity::Decode };
            self.status.counters().busy(activity, began_at.elapsed());
            self.apply_outcomes(&model, outcomes);
        }
    }

    /// Applies each outcome to its sequence of `model`, in running order.
    fn apply_outcomes(&mut self, model: &str, outcomes: Vec<StepOutcome>) {
        let now = Instant::now();
        let indexes: Vec<usize> = (0..self.running.len())
            .filter(|&index| self.running[index].request.model.name == model)
            .collect();
        // From the last to the first, so that a removal does not shift the indexes still to come.
        for (index, outcome) in indexes.into_iter().zip(outcomes).rev() {
            match outcome {
                StepOutcome::Nothing => {}
                StepOutcome::Token(sampled) => {
                    if let Some(finish) = self.running[index].accept(sampled, now) {
                        self.journal.succeeded(model);
                        let sequence = self.remove_running(index);
                        self.defer(move || sequence.finish(finish, now));
                    }
                }
                StepOutcome::Failed(error) => {
                    // The content of its KV cache is unknown after a failure, so it is not kept.
                    let sequence = self.running.remove(index);
                    if let Some(resident) = self.registry.resident_mut(model) {
                        resident.generator.close(sequence.seq);
                    }
                    self.registry.touch(model, now);
                    self.fail(sequence.request, error.into());
                }
            }
        }
    }
}

/// The outcome of one step for one sequence.
enum StepOutcome {
    /// The sequence took no part, or read a prompt chunk that was not the last.
    Nothing,
    /// A token was sampled.
    Token(SampledToken),
    /// The sequence's row or the whole pass failed.
    Failed(EngineError),
}

/// Runs one forward pass over all sequences of one model, and returns one outcome per sequence.
///
/// Decoding sequences take one token each. Prompts share as many tokens as the pacing allows.
fn step_model(
    resident: &mut ResidentGenerator,
    sequences: &mut [&mut Sequence],
    contention: Contention,
) -> Vec<StepOutcome> {
    let mut prompt_left = resident.pacing.chunk_tokens(contention);
    let mut prompt_tokens = 0;
    // Tokens of each sequence in the pass; 0 is a prompt that waits for the next pass.
    let mut shares: Vec<usize> = sequences
        .iter()
        .map(|sequence| {
            let tokens = sequence.next_tokens(prompt_left).len();
            if matches!(sequence.phase, SequencePhase::Prefill { .. }) {
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
        match run_pass(resident, sequences, &shares, &specs, contention) {
            // The only request has ended; the next turn removes it.
            Err(EngineError::Cancelled) if contention == Contention::None => {
                return shares.iter().map(|_| StepOutcome::Nothing).collect();
            }
            Err(EngineError::KvFull { .. }) if resident.evict_kept() => {}
            // No kept sequence is left to evict: the youngest sequence fails, and the rest goes on.
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
                (_, Some(refused)) => StepOutcome::Failed(refused),
                (0, None) => StepOutcome::Nothing,
                (_, None) => StepOutcome::Failed(error.clone()),
            };
            return shares.iter().zip(refused).map(failed).collect();
        }
    };
    let mut outcomes = Vec::with_capacity(shares.len());
    for ((sequence, share), refused) in sequences.iter_mut().zip(shares).zip(refused) {
        if let Some(refused) = refused {
            outcomes.push(StepOutcome::Failed(refused));
            continue;
        }
        let wanted = share > 0 && sequence.wants_logits(share);
        if share > 0 {
            sequence.prefilled(share);
        }
        outcomes.push(match wanted.then(|| sampled.next()) {
            None => StepOutcome::Nothing,
            Some(Some(Ok(sampled))) => StepOutcome::Token(sampled),
            Some(Some(Err(error))) => StepOutcome::Failed(error),
            Some(None) => StepOutcome::Failed(EngineError::Native(
                "the engine gave too few tokens".to_owned(),
            )),
        });
    }
    outcomes
}

/// The sample spec of each sequence that gets a token.
///
/// Made once per step, and not per attempt: each spec takes a number from the sequence's seeded
/// stream.
fn specs(sequences: &mut [&mut Sequence], shares: &[usize]) -> Vec<Option<SampleSpec>> {
    let draws = |(sequence, &share): (&mut &mut Sequence, &usize)| {
        (share > 0 && sequence.wants_logits(share)).then(|| sequence.sample_spec())
    };
    sequences.iter_mut().zip(shares).map(draws).collect()
}

/// Runs the pass: forward, sample, collect. The result has one entry per row that wants logits.
fn run_pass(
    resident: &mut ResidentGenerator,
    sequences: &[&mut Sequence],
    shares: &[usize],
    specs: &[Option<SampleSpec>],
    contention: Contention,
) -> Result<Vec<Result<SampledToken, EngineError>>, EngineError> {
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
    let ticket = if contention == Contention::None {
        let wanted =
            || sequences.iter().all(|sequence| sequence.end_reason(Instant::now()).is_none());
        resident.generator.forward_while(&rows, &wanted)?
    } else {
        resident.generator.forward(&rows)?
    };
    if !specs.is_empty() {
        resident.generator.sample(&ticket, &specs)?;
    }
    resident.generator.collect(ticket)
}
