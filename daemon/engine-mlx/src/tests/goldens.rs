//! Every architecture and variant read from a folder, against what mlx-lm computes.
//!
//! The folders and numbers come from `tests/goldens/make_mlx_lm.py`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Deserialize;

use super::*;
use ingle_engine::loader::{self, LoadItem};
use ingle_formats::hf::ModelFolder;

/// Rows of every golden model's output head.
const VOCAB: usize = 96;

/// Largest difference allowed where both sides compute in 32 bits.
pub(super) const TOLERANCE: f64 = 1e-3;

/// Where weights keep their type, rounding is as large as mlx-lm's own in these types, or a few
/// times that: it is a matter of chance at this size.
const TIMES_MLX_LM_GAP: f64 = 4.0;

/// One case's `golden.json`; logits are rows of [`VOCAB`].
#[derive(Deserialize)]
pub(super) struct Golden {
    weights_of: Option<String>,
    prompt: Vec<u32>,
    one_pass: Vec<f64>,
    chunks: Vec<usize>,
    chunked: Vec<Vec<f64>>,
    pair: [Vec<u32>; 2],
    pair_logits: Vec<Vec<f64>>,
    greedy: Vec<u32>,
    greedy_logits: Vec<Vec<f64>>,
    /// How far mlx-lm is from these logits when it computes in the types that are stored.
    mlx_lm_gap: f64,
}

pub(super) fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens")
}

/// Opens a case, with the weights of another where it has none of its own.
pub(super) fn open(case: &str) -> (Golden, Arc<ModelFolder>) {
    let path = goldens().join(case);
    let golden = fs::read_to_string(path.join("golden.json")).unwrap();
    let golden: Golden = serde_json::from_str(&golden).unwrap();
    let folder = match &golden.weights_of {
        None => ModelFolder::open(&path).unwrap(),
        Some(other) => {
            let config = fs::read(path.join("config.json")).unwrap();
            let weights = fs::read(goldens().join(other).join("model.safetensors")).unwrap();
            ModelFolder::from_bytes(&path, &config, weights).unwrap()
        }
    };
    (golden, Arc::new(folder))
}

/// All tensors of a source, from the loader's thread.
pub(super) fn load_all(
    source: &Arc<impl loader::Source>,
    precision: WeightPrecision,
) -> Result<Vec<HostTensor>, EngineError> {
    let cancel = Arc::new(AtomicBool::new(false));
    let mut stream = loader::spawn(Arc::clone(source), precision, cancel)?;
    let mut tensors = Vec::new();
    loop {
        match stream.next_within(Duration::from_secs(30)).expect("the loader keeps going") {
            LoadItem::Tensor { tensor, .. } => tensors.push(tensor),
            LoadItem::Progress { .. } => {}
            LoadItem::Done => return Ok(tensors),
            LoadItem::Failed(error) => return Err(error),
        }
    }
}

/// Loads a folder as the worker does.
fn load(folder: &Arc<ModelFolder>, precision: WeightPrecision) -> Box<dyn Generator> {
    let mut builder = folder_builder(folder).unwrap();
    for tensor in load_all(folder, precision).unwrap() {
        builder.adopt(tensor).unwrap();
    }
    builder.finish().unwrap()
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
    logits.iter().map(|logit| logit - max - total.ln()).collect()
}

/// The largest difference between log-probabilities found and logits expected.
fn gap(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!((found.len(), expected.len()), (VOCAB, VOCAB));
    let gaps = found.iter().zip(log_softmax(expected)).map(|(f, e)| (f - e).abs());
    // Not `f64::max`, which would drop a NaN.
    gaps.fold(0.0, |largest, gap| if gap <= largest { largest } else { gap })
}

/// The largest difference over everything the case has.
pub(super) fn largest_gap(golden: &Golden, generator: &mut dyn Generator, must_agree: bool) -> f64 {
    let mut gaps = Vec::new();
    let whole = generator.open().unwrap();
    gaps.push(gap(&pass(generator, &[row(whole, &golden.prompt)])[0], &golden.one_pass));

    let seq = generator.open().unwrap();
    let mut rest = golden.prompt.as_slice();
    let mut last = Vec::new();
    for (&chunk, expected) in golden.chunks.iter().zip(&golden.chunked) {
        let (now, later) = rest.split_at(chunk);
        rest = later;
        last = pass(generator, &[row(seq, now)]).remove(0);
        gaps.push(gap(&last, expected));
    }
    for (&token, expected) in golden.greedy.iter().zip(&golden.greedy_logits) {
        let best = last.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!(!must_agree || last[token as usize] == best, "the greedy token is another");
        last = pass(generator, &[row(seq, &[token])]).remove(0);
        gaps.push(gap(&last, expected));
    }

    let pair = [generator.open().unwrap(), generator.open().unwrap()];
    let rows = [row(pair[0], &golden.pair[0]), row(pair[1], &golden.pair[1])];
    let together = pass(generator, &rows);
    for (found, expected) in together.iter().zip(&golden.pair_logits) {
        gaps.push(gap(found, expected));
    }
    gaps.into_iter().fold(0.0, |largest, gap| if gap <= largest { largest } else { gap })
}

fn check(case: &str) {
    let (golden, folder) = open(case);
    for (precision, tolerance) in [
        (WeightPrecision::Float32, TOLERANCE),
        (WeightPrecision::AsStored, TOLERANCE + TIMES_MLX_LM_GAP * golden.mlx_lm_gap),
    ] {
        let mut generator = load(&folder, precision);
        let weight_bytes = generator.info().weight_bytes;
        assert_eq!(weight_bytes, loader::folder_loaded_bytes(&folder, precision), "{case}");
        let gap = largest_gap(&golden, &mut *generator, tolerance == TOLERANCE);
        println!("{case} {precision:?}: largest difference {gap:.1e}");
        assert!(gap < tolerance, "{case} {precision:?}: off by {gap}, allowed {tolerance}");
    }
}

macro_rules! cases {
    ($($test:ident: $($case:literal),*;)*) => {
        $(
            #[test]
            fn $test() {
                for case in [$($case),*] {
                    check(case);
                }
            }
        )*

        #[test]
        fn every_golden_has_a_test() {
            let tested = [$($($case),*),*];
            for entry in fs::read_dir(goldens()).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name();
                let is_decoder = entry.path().join("config.json").exists()
                    // Encoders have tests of their own.
                    && !entry.path().join("modules.json").exists();
                let is_tested = tested.iter().any(|case| name == *case);
                assert!(is_tested || !is_decoder, "{name:?} has no test");
            }
        }
    };
}

cases! {
    llama_agrees_with_mlx_lm: "llama", "llama-bias";
    scaled_rotations_agree_with_mlx_lm: "llama-linear", "llama-llama3";
    mistral_agrees_with_mlx_lm: "mistral", "mistral-q4";
    qwen2_agrees_with_mlx_lm: "qwen2", "qwen2-q4";
    qwen3_agrees_with_mlx_lm: "qwen3", "qwen3-q8";
    quantised_llama_agrees_with_mlx_lm: "llama-q4", "llama-mixed";
}
