//! Tests of the llama.cpp engine on tiny models with seeded weights: nothing is downloaded.

mod broken;
mod embed;
mod estimate;
mod models;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use ingle_engine::backend::{SeqId, TrimOutcome};
use ingle_engine::conformance::{self, Subject, conforms, pass, row, tokens};
use ingle_engine::loader::LoadItem;
use ingle_engine::plain;
use ingle_formats::gguf::GgufFile;
use ingle_formats::gguf::testing::GgufWriter;
use models::{ModelFile, llama, mamba, tensors_of};

/// llama.cpp keeps keys and values in half precision; the reference does not.
const TOLERANCE: f64 = 0.05;

fn assert_close(found: &[f64], expected: &[f64]) {
    conformance::assert_close(TOLERANCE, found, expected);
}

#[test]
fn engine_conforms() {
    conforms(&Subject { generator: &|tied| llama(tied).generator(), tolerance: TOLERANCE });
}

#[test]
fn engine_conforms_with_rows_over_batches() {
    conforms(&Subject {
        generator: &|tied| llama(tied).generator_of(plain::CONTEXT, 7),
        tolerance: TOLERANCE,
    });
}

#[test]
fn split_model_with_header_only_part_loads() {
    // As `gguf-split --no-tensor-first-split` writes it.
    let weights = tensors_of(true);
    let folder = tempfile::tempdir().unwrap();
    let part = |file: ModelFile, number: u16| {
        let count = i32::try_from(weights.len()).unwrap().to_le_bytes();
        let writer = file.writer.raw("split.no", 2, &number.to_le_bytes());
        let writer = writer.raw("split.count", 2, &2_u16.to_le_bytes());
        let bytes = writer.raw("split.tensors.count", 5, &count).bytes();
        let path = folder.path().join(format!("tiny-{:05}-of-00002.gguf", number + 1));
        std::fs::write(&path, &bytes).unwrap();
        (path, bytes.len() as u64)
    };
    let (first, _) = part(ModelFile { writer: models::llama_header() }, 0);
    let (_, bytes) = part(ModelFile { writer: GgufWriter::new() }.with(&weights), 1);
    let gguf = Arc::new(GgufFile::open(&first).unwrap());
    assert_eq!((gguf.part_count(), gguf.tensor_bytes(), gguf.model_bytes()), (2, 0, bytes));
    let mut generator = models::load_file(&gguf, plain::CONTEXT).unwrap();
    let seq = generator.open().unwrap();
    let found = pass(&mut *generator, &[row(seq, &tokens(9))]);
    assert_close(&found[0], &plain::logprobs(&plain::weights(true), &tokens(9)));
}

#[test]
fn full_pool_refuses_without_advance() {
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
fn abandoned_pass_changes_nothing() {
    let weights = plain::weights(true);
    // In several batches: some of them have run when it is given up.
    let mut generator = llama(true).generator_of(512, 64);
    let (prompt, seq) = (tokens(300), generator.open().unwrap());
    pass(&mut *generator, &[row(seq, &prompt[..9])]);
    for after in [0, 1, 40, 100] {
        let asked = AtomicUsize::new(0);
        let wanted = || asked.fetch_add(1, Ordering::Relaxed) < after;
        let given_up = generator.forward_while(&[row(seq, &prompt[9..])], &wanted);
        assert_eq!(given_up, Err(EngineError::Cancelled), "after {after} operations");
    }
    let found = pass(&mut *generator, &[row(seq, &prompt[9..])]);
    assert_close(&found[0], &plain::logprobs(&weights, &prompt));
}

#[test]
fn all_sequences_are_usable() {
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
fn pool_has_the_computed_size() {
    let mut generator = llama(true).generator_of(512, 64);
    let token_bytes = (plain::LAYERS * 2 * plain::KV_HEADS * plain::HEAD_DIM * 2) as u64;
    assert_eq!(generator.kv_bytes(), 512 * token_bytes);
    let seq = generator.open().unwrap();
    pass(&mut *generator, &[row(seq, &tokens(100))]);
    assert_eq!(generator.bytes(seq), 100 * token_bytes);
    assert_eq!(generator.bytes(SeqId(999)), 0);
}

#[test]
fn recurrent_state_is_forked_whole() {
    let mut generator = mamba().generator();
    let prompt = tokens(12);
    let (whole, parts) = (generator.open().unwrap(), generator.open().unwrap());
    let expected = pass(&mut *generator, &[row(whole, &prompt)]);
    pass(&mut *generator, &[row(parts, &prompt[..7])]);
    let fork = generator.fork(parts, 7).unwrap();
    assert!(!generator.can_give_up(), "what was read could not be taken out again");
    assert!(generator.fork(parts, 5).is_err(), "it holds seven tokens, not five");
    assert_eq!(generator.trim(parts, 5), Ok(TrimOutcome::Unsupported));
    assert_eq!(generator.trim(parts, 7), Ok(TrimOutcome::Done));
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
fn cancelled_load_ends_promptly() {
    let (file, gguf) = llama(true).write();
    let cancel = Arc::new(AtomicBool::new(true));
    let (builder, mut stream) =
        load::load(&gguf, &ModelFile::settings(700), Arc::clone(&cancel)).unwrap();
    let mut last = None;
    while let Some(item) = stream.next_within(Duration::from_secs(60)) {
        last = Some(item);
    }
    assert!(matches!(last, Some(LoadItem::Failed(EngineError::Cancelled))), "{last:?}");
    assert!(builder.finish().is_err());
    drop(file);
}

#[test]
fn non_finite_weights_fail_the_load() {
    let mut tensors = tensors_of(true);
    tensors[3].1[7] = f32::NAN;
    let message = ModelFile::llama_of(&tensors).problem();
    assert!(message.contains("is NaN or infinite"), "{message}");
}
