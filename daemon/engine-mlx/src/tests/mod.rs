//! Tests of the MLX engine on tiny models with seeded weights: nothing is downloaded.

mod encoders;
mod folders;
mod ggufs;
mod goldens;

use std::sync::Arc;

use half::f16;

use super::*;
use ingle_engine::backend::Generator;
use ingle_engine::conformance::{self, Subject, conforms, pass, row, tokens};
use ingle_engine::plain;
use ingle_engine::sampling::SampleSpec;
use ingle_engine::tensor::{Floats, HostData, HostTensor, WeightPrecision};
use ingle_formats::gguf::testing::GgufWriter;

/// MLX in 32 bits against 64-bit loops.
const TOLERANCE: f64 = 2e-4;

fn header() -> GgufWriter {
    GgufWriter::new()
        .string("general.architecture", "llama")
        .u32("llama.block_count", plain::LAYERS as u32)
        .u32("llama.embedding_length", plain::HIDDEN as u32)
        .u32("llama.feed_forward_length", plain::INTERMEDIATE as u32)
        .u32("llama.attention.head_count", plain::HEADS as u32)
        .u32("llama.attention.head_count_kv", plain::KV_HEADS as u32)
        .u32("llama.attention.key_length", plain::HEAD_DIM as u32)
        .u32("llama.vocab_size", plain::VOCAB as u32)
        .u32("llama.context_length", plain::CONTEXT as u32)
        .f32("llama.attention.layer_norm_rms_epsilon", plain::EPS)
        .f32("llama.rope.freq_base", plain::ROPE_BASE)
}

fn build(tensors: Vec<HostTensor>) -> Result<Box<dyn Generator>, EngineError> {
    let mut builder = builder(&header().open().unwrap())?;
    for tensor in tensors {
        builder.adopt(tensor)?;
    }
    builder.finish()
}

fn model() -> Box<dyn Generator> {
    build(plain::weights(true)).unwrap()
}

fn assert_close(found: &[f64], expected: &[f64]) {
    conformance::assert_close(TOLERANCE, found, expected);
}

#[test]
fn it_does_what_every_engine_does() {
    conforms(&Subject {
        generator: &|tied| build(plain::weights(tied)).unwrap(),
        tolerance: TOLERANCE,
    });
}

#[test]
fn a_model_is_assembled_in_pieces() {
    let weights = plain::weights(true);
    let mut builder = builder(&header().open().unwrap()).unwrap();
    for tensor in weights.clone() {
        builder.adopt(tensor).unwrap();
        while !builder.advance(false).unwrap() {}
    }
    let mut pieces = 1;
    while !builder.advance(true).unwrap() {
        pieces += 1;
    }
    assert!(pieces >= plain::LAYERS, "{pieces}");
    let mut generator = builder.finish().unwrap();
    let seq = generator.open().unwrap();
    let found = pass(&mut *generator, &[row(seq, &tokens(9))]);
    assert_close(&found[0], &plain::logprobs(&weights, &tokens(9)));
}

#[test]
fn rope_scaling_means_what_llama_cpp_takes_it_for() {
    let (kind, factor, old) =
        ("llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.scale_linear");
    let logprobs = |writer: GgufWriter| {
        let mut builder = builder(&writer.open().unwrap()).unwrap();
        plain::weights(true).into_iter().for_each(|tensor| builder.adopt(tensor).unwrap());
        let mut generator = builder.finish().unwrap();
        let seq = generator.open().unwrap();
        pass(&mut *generator, &[row(seq, &tokens(9))]).remove(0)
    };
    let unscaled = logprobs(header());
    let scaled = logprobs(header().string(kind, "linear").f32(factor, 4.0));
    let gap = unscaled.iter().zip(&scaled).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(gap > 10.0 * TOLERANCE, "the factor changes nothing");
    for (writer, expected) in [
        (header().f32(factor, 4.0), &scaled),
        (header().f32(old, 4.0), &scaled),
        (header().f32(factor, 4.0).f32(old, 2.0), &scaled),
        (header().f32(factor, 0.0).f32(old, 2.0), &unscaled),
        (header().string(kind, "linear"), &unscaled),
        (header().string(kind, "none").f32(factor, 4.0), &unscaled),
    ] {
        assert_close(&logprobs(writer), expected);
    }
}

/// Rounds a matrix to 4 bits in groups of 32: the tensor, and the numbers it stands for.
fn quantized(tensor: &HostTensor) -> (HostTensor, HostTensor) {
    let HostData::F32(values) = &tensor.data else { panic!("32-bit floats") };
    let (mut packed, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
    let mut rounded = Vec::new();
    for group in values.chunks_exact(32) {
        let low = group.iter().copied().fold(f32::INFINITY, f32::min);
        let high = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (scale, bias) = (f16::from_f32((high - low) / 15.0), f16::from_f32(low));
        let quants: Vec<u32> = group
            .iter()
            .map(|value| ((value - bias.to_f32()) / scale.to_f32()).round().clamp(0.0, 15.0) as u32)
            .collect();
        rounded.extend(quants.iter().map(|&q| q as f32 * scale.to_f32() + bias.to_f32()));
        packed.extend(quants.chunks_exact(8).map(|word| {
            word.iter().enumerate().fold(0, |word, (index, quant)| word | quant << (4 * index))
        }));
        scales.push(scale.to_bits());
        biases.push(bias.to_bits());
    }
    let (scales, biases) = (Floats::F16(scales), Floats::F16(biases));
    let data = HostData::Quantized { bits: 4, group_size: 32, packed, scales, biases };
    (
        HostTensor { data, ..tensor.clone() },
        HostTensor { data: HostData::F32(rounded), ..tensor.clone() },
    )
}

#[test]
fn stored_types_and_quantisation_are_kept() {
    // As on a GPU: 4-bit matrices where rows hold whole groups, half precision elsewhere, and a
    // value projection that is stored unlike the query and key it is fused with.
    let (mut stored, mut plain) = (Vec::new(), Vec::new());
    for tensor in plain::weights(true) {
        let HostData::F32(values) = &tensor.data else { panic!("32-bit floats") };
        let is_matrix = tensor.shape.len() == 2;
        if is_matrix && tensor.shape[1] == plain::HIDDEN && !tensor.name.contains("attn_v") {
            let (quantized, rounded) = quantized(&tensor);
            stored.push(quantized);
            plain.push(rounded);
        } else if is_matrix {
            let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
            let rounded = halves.iter().map(|half| half.to_f32()).collect();
            let bits = halves.iter().map(|half| half.to_bits()).collect();
            stored.push(HostTensor { data: HostData::F16(bits), ..tensor.clone() });
            plain.push(HostTensor { data: HostData::F32(rounded), ..tensor });
        } else {
            stored.push(tensor.clone());
            plain.push(tensor);
        }
    }
    let mut generator = build(stored).unwrap();
    let prompt = tokens(20);
    let seq = generator.open().unwrap();
    pass(&mut *generator, &[row(seq, &prompt[..18])]);
    pass(&mut *generator, &[row(seq, &prompt[18..19])]);
    let found = pass(&mut *generator, &[row(seq, &prompt[19..])]);
    for (found, expected) in found[0].iter().zip(plain::logprobs(&plain, &prompt)) {
        assert!((found - expected).abs() < 0.1, "{found}, expected {expected}");
    }
    let token_bytes = plain::LAYERS * 2 * plain::KV_HEADS * plain::HEAD_DIM * 2;
    assert_eq!(generator.bytes(seq), (256 * token_bytes) as u64, "keys and values are halves too");
}

#[test]
fn caches_grow_past_their_first_buffers() {
    let mut generator = model();
    let prompt = tokens(530);
    let (whole, parts) = (generator.open().unwrap(), generator.open().unwrap());
    let expected = pass(&mut *generator, &[row(whole, &prompt)]);
    let mut found = Vec::new();
    for chunk in prompt.chunks(100) {
        found = pass(&mut *generator, &[row(parts, chunk)]);
    }
    assert_close(&found[0], &expected[0]);
    assert_eq!(generator.bytes(whole), generator.bytes(parts));
    let token_bytes = plain::LAYERS * 2 * plain::KV_HEADS * plain::HEAD_DIM * 4;
    assert_eq!(generator.bytes(whole), (768 * token_bytes) as u64);
    assert_eq!(generator.kv_bytes(), 2 * generator.bytes(whole));
    generator.close(whole);
    generator.close(whole);
    assert_eq!(generator.bytes(whole), 0);
    assert_eq!(generator.kv_bytes(), generator.bytes(parts));
}

#[test]
fn one_row_without_numbers_leaves_the_others_whole() {
    let mut weights = plain::weights(false);
    let embedding = weights.iter_mut().find(|tensor| tensor.name == "token_embd.weight").unwrap();
    let HostData::F32(values) = &mut embedding.data else { panic!("32-bit floats") };
    values[7 * plain::HIDDEN] = f32::NAN;
    let mut generator = build(weights).unwrap();
    let (good, bad) = (generator.open().unwrap(), generator.open().unwrap());
    let ticket = generator.forward(&[row(bad, &[1, 7]), row(good, &[1, 2])]).unwrap();
    generator.sample(&ticket, &[SampleSpec::GREEDY, SampleSpec::GREEDY]).unwrap();
    let outcomes = generator.collect(ticket).unwrap();
    assert_eq!(outcomes[0], Err(EngineError::NotFinite { what: "NaN", position: 1 }));
    assert!(outcomes[1].is_ok());
}

fn problem(result: Result<Box<dyn Generator>, EngineError>) -> String {
    match result {
        Ok(_) => panic!("the model was accepted"),
        Err(error @ (EngineError::InvalidModel { .. } | EngineError::Unsupported { .. })) => {
            error.to_string()
        }
        Err(other) => panic!("another kind of error: {other}"),
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let change = |change: &dyn Fn(&mut Vec<HostTensor>)| {
        let mut tensors = plain::weights(true);
        change(&mut tensors);
        problem(build(tensors))
    };
    let index = |tensors: &[HostTensor]| {
        tensors.iter().position(|tensor| tensor.name == "blk.1.attn_k.weight").unwrap()
    };
    let message = change(&|tensors| drop(tensors.remove(index(tensors))));
    assert!(
        message.contains("`blk.1.attn_k.weight` is missing, expected with shape [20, 64]"),
        "{message}"
    );
    let message = change(&|tensors| {
        let at = index(tensors);
        tensors[at].shape = vec![64, 20];
    });
    assert!(message.contains("has shape [64, 20], expected [20, 64]"), "{message}");
    let message = change(&|tensors| {
        let at = index(tensors);
        tensors[at].data = HostData::F32(vec![0.0; 1279]);
    });
    assert!(message.contains("has 1279 values, but shape [20, 64] needs 1280"), "{message}");
    let message = change(&|tensors| tensors.push(tensors[0].clone()));
    assert!(message.contains("`token_embd.weight` occurs twice"), "{message}");
    let message = change(&|tensors| tensors[0].name = "blk.0.attn_q.bias".to_owned());
    assert!(message.contains("`blk.0.attn_q.bias` is not part"), "{message}");
}

#[test]
fn variants_that_compute_something_else_are_refused() {
    let refused = |writer: GgufWriter| {
        problem(
            builder(&writer.open().unwrap())
                .map_err(EngineError::from)
                .and_then(|builder| builder.finish()),
        )
    };
    let message = refused(header().u32("llama.expert_count", 8));
    assert!(message.contains("mixture of 8 experts"), "{message}");
    let message = refused(header().u32("split.count", 3));
    assert!(message.contains("split over 3 files"), "{message}");
    let message = refused(header().f32("llama.rope.scale_linear", -1.0));
    assert!(message.contains("`llama.rope.scale_linear` is -1"), "{message}");
    let message = refused(header().string("llama.rope.scaling.type", "yarn"));
    assert!(message.contains("rope scaling"), "{message}");
    let message = refused(GgufWriter::new().string("general.architecture", "mamba"));
    assert!(message.contains("`general.architecture` is `mamba`"), "{message}");
    let message = refused(GgufWriter::new().string("general.architecture", "llama"));
    assert!(message.contains("`llama.embedding_length` is missing"), "{message}");
}
