//! Conformance tests for engines, on the reference model [`plain`]: each engine's tests call
//! [`conforms`].
//!
//! Owns the checks of what the traits of `backend` promise, and helpers to run passes. Knows no
//! engine.

#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test support"
)]

use std::sync::Arc;

use super::backend::{Generator, Row, SeqId, TrimOutcome};
use super::error::EngineError;
use super::plain;
use super::sampling::{Mask, SampleSpec, SampledToken, SamplerSettings, TokenSet};

/// An engine with the plain model in it.
pub struct Subject<'a> {
    /// Makes a generator; the output head is the embedding (`true`) or a tensor of its own.
    pub generator: &'a dyn Fn(bool) -> Box<dyn Generator>,
    /// How far logarithms of probabilities may be off.
    pub tolerance: f64,
}

/// Prompt tokens; a longer prompt begins as a shorter one does.
pub fn tokens(count: usize) -> Vec<u32> {
    (0..count).map(|index| ((index * index + 7 * index + 3) % plain::VOCAB) as u32).collect()
}

/// A row whose logits are wanted.
pub fn row(seq: SeqId, tokens: &[u32]) -> Row<'_> {
    Row { seq, tokens, wants_logits: true }
}

/// Runs one pass; the log-probabilities of every token, for each row that wants them.
pub fn pass(generator: &mut dyn Generator, rows: &[Row<'_>]) -> Vec<Vec<f64>> {
    let vocab = generator.info().vocab_size;
    let spec = SampleSpec { logprobs: Some(vocab), ..SampleSpec::GREEDY };
    let ticket = generator.forward(rows).unwrap();
    let wanted = rows.iter().filter(|row| row.wants_logits).count();
    generator.sample(&ticket, &vec![spec; wanted]).unwrap();
    let outcomes = generator.collect(ticket).unwrap();
    assert_eq!(outcomes.len(), wanted);
    outcomes.into_iter().map(|outcome| by_id(&outcome.unwrap(), vocab)).collect()
}

/// The log-probabilities of a token drawn greedily, by token.
pub fn by_id(sampled: &SampledToken, vocab: usize) -> Vec<f64> {
    assert_eq!(sampled.token, sampled.top[0].0);
    let mut logprobs = vec![f64::NAN; vocab];
    for &(id, logprob) in &sampled.top {
        logprobs[id as usize] = f64::from(logprob);
    }
    logprobs
}

/// Compares log-probabilities token by token.
pub fn assert_close(tolerance: f64, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (id, (found, expected)) in found.iter().zip(expected).enumerate() {
        let gap = (found - expected).abs();
        assert!(gap < tolerance, "token {id}: {found}, expected {expected}");
    }
}

/// Runs all conformance checks.
pub fn conforms(subject: &Subject<'_>) {
    logits_agree_with_plain_loops(subject);
    chunks_and_single_tokens_give_what_one_pass_gives(subject);
    a_ragged_batch_gives_each_row_what_it_gets_alone(subject);
    many_single_token_rows_with_a_longer_one(subject);
    only_tokens_of_a_rows_mask_are_drawn(subject);
    a_second_pass_before_the_first_is_read_changes_nothing(subject);
    a_fork_and_its_origin_go_separate_ways(subject);
    a_trimmed_sequence_forgets_its_end(subject);
    refused_rows_leave_sequences_as_they_were(subject);
    a_pass_that_is_not_sampled_as_it_should_be_is_gone(subject);
}

impl Subject<'_> {
    fn tied(&self) -> Box<dyn Generator> {
        (self.generator)(true)
    }

    fn assert_follows(&self, found: &[f64], text: &[&[u32]]) {
        self.assert_close(found, &plain::logprobs(&plain::weights(true), &text.concat()));
    }

    fn assert_close(&self, found: &[f64], expected: &[f64]) {
        assert_close(self.tolerance, found, expected);
    }
}

fn logits_agree_with_plain_loops(subject: &Subject<'_>) {
    for tied in [true, false] {
        let weights = plain::weights(tied);
        let mut generator = (subject.generator)(tied);
        // One row, a few, one block of rows, more than one: each may take another path.
        for length in [1, 2, 7, 8, 9, 16, 21, 33] {
            let seq = generator.open().unwrap();
            let prompt = tokens(length);
            let found = pass(&mut *generator, &[row(seq, &prompt)]);
            subject.assert_close(&found[0], &plain::logprobs(&weights, &prompt));
            generator.close(seq);
        }
    }
}

fn chunks_and_single_tokens_give_what_one_pass_gives(subject: &Subject<'_>) {
    let mut generator = subject.tied();
    let prompt = tokens(40);
    for chunk in [1, 3, 13, 39, 40] {
        let seq = generator.open().unwrap();
        let mut found = Vec::new();
        for chunk in prompt.chunks(chunk) {
            found = pass(&mut *generator, &[row(seq, chunk)]);
        }
        subject.assert_follows(&found[0], &[&prompt]);
        generator.close(seq);
    }
}

fn a_ragged_batch_gives_each_row_what_it_gets_alone(subject: &Subject<'_>) {
    let mut generator = subject.tied();
    let prompts: Vec<Vec<u32>> = [4, 17, 1, 9].iter().map(|&length| tokens(length)).collect();
    let seqs: Vec<SeqId> = prompts.iter().map(|_| generator.open().unwrap()).collect();
    // Prefill together; the third row's logits are not wanted.
    let rows: Vec<Row<'_>> =
        (0..4).map(|i| Row { seq: seqs[i], tokens: &prompts[i], wants_logits: i != 2 }).collect();
    let found = pass(&mut *generator, &rows);
    for (found, i) in found.iter().zip([0, 1, 3]) {
        subject.assert_follows(found, &[&prompts[i]]);
    }
    // A decode step for three, in another order, with a prefill chunk for the fourth.
    let (one, chunk) = ([11_u32], tokens(6));
    let order = [(3, &one[..]), (0, &one), (2, &chunk), (1, &one)];
    let rows: Vec<Row<'_>> = order.iter().map(|(i, more)| row(seqs[*i], more)).collect();
    let found = pass(&mut *generator, &rows);
    for (found, (i, more)) in found.iter().zip(order) {
        subject.assert_follows(found, &[&prompts[i], more]);
    }
}

/// Eleven tokens, nine of them wanted: an engine that pads to blocks pads both to one length.
fn many_single_token_rows_with_a_longer_one(subject: &Subject<'_>) {
    let mut generator = subject.tied();
    let prompts: Vec<Vec<u32>> = (0..9).map(|index| vec![3 * index + 1; 1]).collect();
    let long = tokens(3);
    let rows: Vec<(SeqId, &[u32])> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| (generator.open().unwrap(), if index == 2 { &long } else { prompt }))
        .map(|(seq, prompt)| (seq, prompt.as_slice()))
        .collect();
    let batch: Vec<Row<'_>> = rows.iter().map(|&(seq, prompt)| row(seq, prompt)).collect();
    for (found, (_, prompt)) in pass(&mut *generator, &batch).iter().zip(&rows) {
        subject.assert_follows(found, &[prompt]);
    }
}

fn only_tokens_of_a_rows_mask_are_drawn(subject: &Subject<'_>) {
    let mut generator = subject.tied();
    let prompt = tokens(6);
    let masks = [vec![1_u32 << 5], vec![0b1010], vec![u32::MAX; plain::VOCAB.div_ceil(32)]];
    let seqs: Vec<SeqId> = masks.iter().map(|_| generator.open().unwrap()).collect();
    let free = &pass(&mut *generator, &[row(seqs[2], &prompt)])[0];
    let likeliest = (0..plain::VOCAB).max_by(|&a, &b| free[a].total_cmp(&free[b])).unwrap();
    assert_eq!(generator.trim(seqs[2], 0), Ok(TrimOutcome::Done));
    let hot = SamplerSettings { temperature: 100.0, ..SamplerSettings::GREEDY };
    for settings in [SamplerSettings::GREEDY, hot] {
        let rows: Vec<Row<'_>> = seqs.iter().map(|&seq| row(seq, &prompt)).collect();
        let ticket = generator.forward(&rows).unwrap();
        let specs: Vec<SampleSpec> = masks
            .iter()
            .map(|words| Mask::Ready(Arc::new(TokenSet::new(words.clone()))))
            .map(|mask| SampleSpec { settings, mask: Some(mask), ..SampleSpec::GREEDY })
            .collect();
        generator.sample(&ticket, &specs).unwrap();
        let drawn = generator.collect(ticket).unwrap();
        let drawn: Vec<u32> = drawn.into_iter().map(|sampled| sampled.unwrap().token).collect();
        assert_eq!(drawn[0], 5);
        assert!(drawn[1] == 1 || drawn[1] == 3, "{drawn:?}");
        assert!(settings == hot || drawn[2] as usize == likeliest, "{drawn:?}");
    }
}

fn a_second_pass_before_the_first_is_read_changes_nothing(subject: &Subject<'_>) {
    let mut generator = subject.tied();
    let (one, other) = (generator.open().unwrap(), generator.open().unwrap());
    let (first, second) = (tokens(5), tokens(8));
    let spec = SampleSpec { logprobs: Some(plain::VOCAB), ..SampleSpec::GREEDY };
    let early = generator.forward(&[row(one, &first)]).unwrap();
    let late = generator.forward(&[row(other, &second)]).unwrap();
    for (ticket, prompt) in [(late, second), (early, first)] {
        generator.sample(&ticket, std::slice::from_ref(&spec)).unwrap();
        let outcome = generator.collect(ticket).unwrap().remove(0).unwrap();
        subject.assert_follows(&by_id(&outcome, plain::VOCAB), &[&prompt]);
    }
}

fn a_fork_and_its_origin_go_separate_ways(subject: &Subject<'_>) {
    let mut generator = subject.tied();
    let prompt = tokens(12);
    let origin = generator.open().unwrap();
    pass(&mut *generator, &[row(origin, &prompt)]);
    let whole = generator.fork(origin, 12).unwrap();
    let fork = generator.fork(origin, 8).unwrap();
    let (ours, theirs) = ([1_u32, 2, 3], [4_u32, 5]);
    let found = pass(&mut *generator, &[row(fork, &ours)]);
    subject.assert_follows(&found[0], &[&prompt[..8], &ours]);
    let found = pass(&mut *generator, &[row(origin, &theirs)]);
    subject.assert_follows(&found[0], &[&prompt, &theirs]);
    // The forks were not disturbed by the origin's writes, and its end takes nothing from them.
    let found = pass(&mut *generator, &[row(fork, &[6])]);
    subject.assert_follows(&found[0], &[&prompt[..8], &ours, &[6]]);
    generator.close(origin);
    let found = pass(&mut *generator, &[row(fork, &[7]), row(whole, &[8])]);
    subject.assert_follows(&found[0], &[&prompt[..8], &ours, &[6, 7]]);
    subject.assert_follows(&found[1], &[&prompt, &[8]]);
}

fn a_trimmed_sequence_forgets_its_end(subject: &Subject<'_>) {
    let mut generator = subject.tied();
    let prompt = tokens(10);
    let seq = generator.open().unwrap();
    pass(&mut *generator, &[row(seq, &prompt)]);
    assert_eq!(generator.trim(seq, 6), Ok(TrimOutcome::Done));
    let found = pass(&mut *generator, &[row(seq, &[9, 8])]);
    subject.assert_follows(&found[0], &[&prompt[..6], &[9, 8]]);
    assert!(matches!(generator.trim(seq, 9), Err(EngineError::Native(_))), "longer than it is");
    assert_eq!(generator.trim(seq, 0), Ok(TrimOutcome::Done));
    let found = pass(&mut *generator, &[row(seq, &prompt)]);
    subject.assert_follows(&found[0], &[&prompt]);
}

fn refused_rows_leave_sequences_as_they_were(subject: &Subject<'_>) {
    let mut generator = subject.tied();
    let seq = generator.open().unwrap();
    let prompt = tokens(5);
    pass(&mut *generator, &[row(seq, &prompt)]);
    let (one, too_many) = ([1_u32], tokens(plain::CONTEXT));
    let refused: [(&str, Vec<Row<'_>>); 6] = [
        ("at least one row", vec![]),
        ("not open", vec![row(seq, &one), row(SeqId(999), &one)]),
        ("twice", vec![row(seq, &one), row(seq, &one)]),
        ("no new tokens", vec![row(seq, &[])]),
        ("outside the vocabulary", vec![row(seq, &[plain::VOCAB as u32])]),
        ("limit of 700", vec![row(seq, &too_many)]),
    ];
    for (expected, rows) in refused {
        let message = generator.forward(&rows).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let found = pass(&mut *generator, &[row(seq, &one)]);
    subject.assert_follows(&found[0], &[&prompt, &one]);
}

fn a_pass_that_is_not_sampled_as_it_should_be_is_gone(subject: &Subject<'_>) {
    let mut generator = subject.tied();
    let seq = generator.open().unwrap();
    let ticket = generator.forward(&[row(seq, &[1])]).unwrap();
    let refused = generator.sample(&ticket, &[]).unwrap_err().to_string();
    assert!(refused.contains("1 rows want logits, 0 sampler settings"), "{refused}");
    assert!(generator.collect(ticket).is_err());
    // Its tokens were read all the same.
    let found = pass(&mut *generator, &[row(seq, &[2])]);
    subject.assert_follows(&found[0], &[&[1, 2]]);
}
