//! One step of every running sequence: a forward pass a model, and what comes of it.
//!
//! Owns how a pass is put together, what gives way when the KV cache is full, and whose failure a
//! failed pass is. Which sequences run is not decided here.

use std::collections::BTreeSet;
use std::time::Instant;

use ingle_protocol::wire::status::Phase as Heartbeat;

use super::Worker;
use crate::crash_journal::Work;
use crate::pacing::Company;
use crate::registry::Resident;
use crate::sequence::{Phase, Sequence};
use ingle_engine::backend::Row;
use ingle_engine::counters::Activity;
use ingle_engine::error::EngineError;
use ingle_engine::sampling::{SampleSpec, Sampled};

impl Worker {
    /// One step of every running sequence, model by model.
    pub(super) fn step(&mut self) {
        let models: BTreeSet<String> =
            self.running.iter().map(|sequence| sequence.request.model.name.clone()).collect();
        let only_prompts =
            self.running.iter().all(|one| matches!(one.phase, Phase::Prefill { .. }));
        let is_single = self.running.len() == 1
            && self.waiting.is_empty()
            && self.embeddings.is_empty()
            && self.loads.is_empty()
            && self.registry.loading().is_none();
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
            let began_at = Instant::now();
            self.status.beat(heartbeat, began_at);
            let work = if prefill { Work::Prefill } else { Work::Decode };
            if let Some(first) = sequences.first() {
                let requests = sequences.iter().map(|one| one.request.request_id.as_str());
                self.journal.step(work, &first.request.model, requests);
            }
            let company = match (only_prompts, is_single && resident.generator.can_give_up()) {
                (false, _) => Company::Streams,
                (true, false) => Company::Prompts,
                (true, true) => Company::Nobody,
            };
            let outcomes = step_model(resident, &mut sequences, company);
            let activity = if prefill { Activity::Prefill } else { Activity::Decode };
            self.status.counters().busy(activity, began_at.elapsed());
            self.settle(&model, outcomes);
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
                        let sequence = self.take_out(index);
                        self.later(move || sequence.finish(finish, now));
                    }
                }
                Outcome::Failed(error) => {
                    // What its KV cache holds after a failure is not known.
                    let sequence = self.running.remove(index);
                    if let Some(resident) = self.registry.resident(model) {
                        resident.generator.close(sequence.seq);
                    }
                    self.registry.touch(model, now);
                    self.fail(sequence.request, error.into());
                }
            }
        }
    }
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
/// the pacing allows in all. One outcome a sequence.
fn step_model(
    resident: &mut Resident,
    sequences: &mut [&mut Sequence],
    company: Company,
) -> Vec<Outcome> {
    let mut prompt_left = resident.pacing.chunk_tokens(company);
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
        match run_pass(resident, sequences, &shares, &specs, company) {
            // Its request has ended, and leaves before the next step.
            Err(EngineError::Cancelled) if company == Company::Nobody => {
                return shares.iter().map(|_| Outcome::Nothing).collect();
            }
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
    company: Company,
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
    let ticket = if company == Company::Nobody {
        let wanted = || sequences.iter().all(|sequence| sequence.ended(Instant::now()).is_none());
        resident.generator.forward_while(&rows, &wanted)?
    } else {
        resident.generator.forward(&rows)?
    };
    if !specs.is_empty() {
        resident.generator.sample(&ticket, &specs)?;
    }
    resident.generator.collect(ticket)
}
