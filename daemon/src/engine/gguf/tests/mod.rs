//! Tests of the llama.cpp engine on tiny models with seeded weights: nothing is downloaded.

mod broken;
mod embed;
mod models;

use std::time::Duration;

use super::*;
use crate::engine::backend::{EngineError, Generator, Row, SeqId, Trimmed};
use crate::engine::loader::LoadItem;
use crate::engine::plain;
use crate::engine::sampling::{SampleSpec, Sampled};
use models::{ModelFile, llama, mamba, tensors_of};

/// llama.cpp keeps keys and values in half precision; the reference does not.
const TOLERANCE: f64 = 0.05;

fn tokens(count: usize) -> Vec<u32> {
    (0..count).map(|index| ((index * index + 7 * index + 3) % plain::VOCAB) as u32).collect()
}

fn row(seq: SeqId, tokens: &[u32]) -> Row<'_> {
    Row { seq, tokens, wants_logits: true }
}

/// Runs one pass; the log-probabilities of every token, for each row that wants them.
fn pass(generator: &mut dyn Generator, rows: &[Row<'_>]) -> Vec<Vec<f64>> {
    let spec = SampleSpec { logprobs: Some(plain::VOCAB), ..SampleSpec::GREEDY };
    let ticket = generator.forward(rows).unwrap();
    let wanted = rows.iter().filter(|row| row.wants_logits).count();
    generator.sample(&ticket, &vec![spec; wanted]).unwrap();
    let outcomes = generator.collect(ticket).unwrap();
    assert_eq!(outcomes.len(), wanted);
    outcomes.into_iter().map(|outcome| by_id(&outcome.unwrap())).collect()
}

fn by_id(sampled: &Sampled) -> Vec<f64> {
    let mut logprobs = vec![f64::NAN; plain::VOCAB];
    for &(id, logprob) in &sampled.top {
        logprobs[id as usize] = f64::from(logprob);
    }
    logprobs
}

fn assert_close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (id, (found, expected)) in found.iter().zip(expected).enumerate() {
        let gap = (found - expected).abs();
        assert!(gap < TOLERANCE, "token {id}: {found}, expected {expected}");
    }
}

#[test]
fn logits_agree_with_plain_loops() {
    for tied in [true, false] {
        let weights = plain::weights(tied);
        let mut generator = llama(tied).generator();
        for length in [1, 2, 9, 33] {
            let seq = generator.open().unwrap();
            let prompt = tokens(length);
            let found = pass(&mut *generator, &[row(seq, &prompt)]);
            assert_close(&found[0], &plain::logprobs(&weights, &prompt));
            generator.close(seq);
        }
    }
}

#[test]
fn chunks_and_single_tokens_give_what_one_pass_gives() {
    let weights = plain::weights(true);
    let mut generator = llama(true).generator();
    let prompt = tokens(40);
    let expected = plain::logprobs(&weights, &prompt);
    for chunk in [1, 13, 39] {
        let seq = generator.open().unwrap();
        let mut found = Vec::new();
        for chunk in prompt.chunks(chunk) {
            found = pass(&mut *generator, &[row(seq, chunk)]);
        }
        assert_close(&found[0], &expected);
        generator.close(seq);
    }
}

#[test]
fn a_ragged_batch_gives_each_row_what_it_gets_alone() {
    let weights = plain::weights(true);
    // The second takes seven tokens at a time, so that rows begin and end in different batches.
    for mut generator in [llama(true).generator(), llama(true).generator_of(64, 7)] {
        let prompts: Vec<Vec<u32>> = [4, 17, 1, 9].iter().map(|&length| tokens(length)).collect();
        let seqs: Vec<SeqId> = prompts.iter().map(|_| generator.open().unwrap()).collect();
        // Prefill together; the third row's logits are not wanted.
        let rows: Vec<Row<'_>> = (0..4)
            .map(|i| Row { seq: seqs[i], tokens: &prompts[i], wants_logits: i != 2 })
            .collect();
        let found = pass(&mut *generator, &rows);
        for (found, i) in found.iter().zip([0, 1, 3]) {
            assert_close(found, &plain::logprobs(&weights, &prompts[i]));
        }
        // A decode step for three, in another order, beside a chunk for the fourth.
        let (one, chunk) = ([11_u32], tokens(6));
        let order = [(3, &one[..]), (0, &one), (2, &chunk), (1, &one)];
        let rows: Vec<Row<'_>> = order.iter().map(|(i, more)| row(seqs[*i], more)).collect();
        let found = pass(&mut *generator, &rows);
        for (found, (i, more)) in found.iter().zip(order) {
            assert_close(found, &plain::logprobs(&weights, &[&prompts[i], more].concat()));
        }
    }
}

#[test]
fn a_second_pass_before_the_first_is_read_changes_nothing() {
    let weights = plain::weights(true);
    let mut generator = llama(true).generator();
    let (one, other) = (generator.open().unwrap(), generator.open().unwrap());
    let (first, second) = (tokens(5), tokens(8));
    let spec = SampleSpec { logprobs: Some(plain::VOCAB), ..SampleSpec::GREEDY };
    let early = generator.forward(&[row(one, &first)]).unwrap();
    let late = generator.forward(&[row(other, &second)]).unwrap();
    for (ticket, prompt) in [(late, second), (early, first)] {
        generator.sample(&ticket, std::slice::from_ref(&spec)).unwrap();
        let outcome = generator.collect(ticket).unwrap().remove(0).unwrap();
        assert_close(&by_id(&outcome), &plain::logprobs(&weights, &prompt));
    }
}

#[test]
fn a_fork_and_its_origin_go_separate_ways() {
    let weights = plain::weights(true);
    let mut generator = llama(true).generator();
    let prompt = tokens(12);
    let origin = generator.open().unwrap();
    pass(&mut *generator, &[row(origin, &prompt)]);
    let fork = generator.fork(origin, 8).unwrap();
    let (ours, theirs) = ([1_u32, 2, 3], [4_u32, 5]);
    let found = pass(&mut *generator, &[row(fork, &ours)]);
    assert_close(&found[0], &plain::logprobs(&weights, &[&prompt[..8], &ours].concat()));
    let found = pass(&mut *generator, &[row(origin, &theirs)]);
    assert_close(&found[0], &plain::logprobs(&weights, &[&prompt[..], &theirs].concat()));
    // The origin's end takes nothing from the fork.
    generator.close(origin);
    let found = pass(&mut *generator, &[row(fork, &[6])]);
    assert_close(&found[0], &plain::logprobs(&weights, &[&prompt[..8], &ours, &[6]].concat()));
}

#[test]
fn a_trimmed_sequence_forgets_its_end() {
    let weights = plain::weights(true);
    let mut generator = llama(true).generator();
    let prompt = tokens(10);
    let seq = generator.open().unwrap();
    pass(&mut *generator, &[row(seq, &prompt)]);
    assert_eq!(generator.trim(seq, 6), Ok(Trimmed::Done));
    let found = pass(&mut *generator, &[row(seq, &[9, 8])]);
    assert_close(&found[0], &plain::logprobs(&weights, &[&prompt[..6], &[9, 8]].concat()));
    assert!(matches!(generator.trim(seq, 9), Err(EngineError::Native(_))), "longer than it is");
    assert_eq!(generator.trim(seq, 0), Ok(Trimmed::Done));
    let found = pass(&mut *generator, &[row(seq, &prompt)]);
    assert_close(&found[0], &plain::logprobs(&weights, &prompt));
}

#[test]
fn refused_rows_leave_sequences_as_they_were() {
    let weights = plain::weights(true);
    let mut generator = llama(true).generator();
    let seq = generator.open().unwrap();
    let prompt = tokens(5);
    pass(&mut *generator, &[row(seq, &prompt)]);
    let (one, too_many) = ([1_u32], tokens(plain::CONTEXT));
    let refused: [(&str, Vec<Row<'_>>); 6] = [
        ("at least one row", vec![]),
        ("not open", vec![row(seq, &one), row(SeqId(999), &one)]),
        ("twice", vec![row(seq, &one), row(seq, &one)]),
        ("no tokens", vec![row(seq, &[])]),
        ("outside the vocabulary", vec![row(seq, &[plain::VOCAB as u32])]),
        ("limit of 700", vec![row(seq, &too_many)]),
    ];
    for (expected, rows) in refused {
        let message = generator.forward(&rows).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let found = pass(&mut *generator, &[row(seq, &one)]);
    assert_close(&found[0], &plain::logprobs(&weights, &[&prompt[..], &one].concat()));
}

#[test]
fn a_full_pool_refuses_and_nothing_has_advanced() {
    let weights = plain::weights(true);
    // 512 tokens in all, in batches of 64: the refusal comes when part of the pass has run.
    let mut generator = llama(true).generator_of(512, 64);
    let prompt = tokens(300);
    let (one, other) = (generator.open().unwrap(), generator.open().unwrap());
    pass(&mut *generator, &[row(one, &prompt)]);
    let refused = generator.forward(&[row(other, &prompt), row(one, &[3])]);
    assert_eq!(refused, Err(EngineError::KvFull { tokens: 512 }));
    // Both go on from where they were.
    let found = pass(&mut *generator, &[row(one, &[3]), row(other, &prompt[..20])]);
    assert_close(&found[0], &plain::logprobs(&weights, &[&prompt[..], &[3]].concat()));
    assert_close(&found[1], &plain::logprobs(&weights, &prompt[..20]));
    // A shared beginning takes no room, and closing a sequence gives its room back.
    let fork = generator.fork(one, 300).unwrap();
    pass(&mut *generator, &[row(fork, &[5])]);
    generator.close(one);
    generator.close(fork);
    pass(&mut *generator, &[row(other, &prompt)]);
}

#[test]
fn all_sequences_are_used_before_one_is_refused() {
    let mut generator = llama(true).generator();
    let capacity = generator.capacity().sequences;
    let mut open: Vec<SeqId> = (0..capacity).map(|_| generator.open().unwrap()).collect();
    assert_eq!(generator.open(), Err(EngineError::NoCapacity { sequences: capacity }));
    let closed = open.remove(3);
    generator.close(closed);
    generator.close(closed);
    assert!(generator.open().is_ok());
    assert_eq!(generator.open(), Err(EngineError::NoCapacity { sequences: capacity }));
}

#[test]
fn the_pool_has_the_size_that_arithmetic_gives() {
    let mut generator = llama(true).generator_of(512, 64);
    let token_bytes = (plain::LAYERS * 2 * plain::KV_HEADS * plain::HEAD_DIM * 2) as u64;
    assert_eq!(generator.kv_bytes(), 512 * token_bytes);
    let seq = generator.open().unwrap();
    pass(&mut *generator, &[row(seq, &tokens(100))]);
    assert_eq!(generator.bytes(seq), 100 * token_bytes);
    assert_eq!(generator.bytes(SeqId(999)), 0);
}

#[test]
fn a_state_that_cannot_go_back_is_forked_whole() {
    let mut generator = mamba().generator();
    let prompt = tokens(12);
    let (whole, parts) = (generator.open().unwrap(), generator.open().unwrap());
    let expected = pass(&mut *generator, &[row(whole, &prompt)]);
    pass(&mut *generator, &[row(parts, &prompt[..7])]);
    let fork = generator.fork(parts, 7).unwrap();
    assert!(generator.fork(parts, 5).is_err(), "it holds seven tokens, not five");
    assert_eq!(generator.trim(parts, 5), Ok(Trimmed::Unsupported));
    assert_eq!(generator.trim(parts, 7), Ok(Trimmed::Done));
    for seq in [parts, fork] {
        let found = pass(&mut *generator, &[row(seq, &prompt[7..])]);
        assert_close(&found[0], &expected[0]);
    }
    // Different lengths in one batch.
    let (one, other) = (generator.open().unwrap(), generator.open().unwrap());
    let found = pass(&mut *generator, &[row(one, &prompt), row(other, &prompt[..3])]);
    assert_close(&found[0], &expected[0]);
    assert!(generator.kv_bytes() > 0 && generator.bytes(one) == generator.bytes(other));
}

#[test]
fn a_cancelled_load_ends_promptly() {
    let (file, gguf) = llama(true).write();
    let cancel = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (builder, mut stream) =
        load(&gguf, &ModelFile::settings(700), std::sync::Arc::clone(&cancel)).unwrap();
    let mut last = None;
    while let Some(item) = stream.next_within(Duration::from_secs(60)) {
        last = Some(item);
    }
    assert!(matches!(last, Some(LoadItem::Failed(EngineError::Cancelled))), "{last:?}");
    assert!(builder.finish().is_err());
    drop(file);
}

#[test]
fn numbers_that_are_none_are_refused_with_the_load() {
    let mut tensors = tensors_of(true);
    tensors[3].1[7] = f32::NAN;
    let message = ModelFile::llama_of(&tensors).problem();
    assert!(message.contains("is NaN or infinite"), "{message}");
}
