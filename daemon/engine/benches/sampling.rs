//! What one draw from a large vocabulary costs on the host: `cargo bench -p ingled --bench
//! sampling`. It measures and asserts nothing.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use ingle_engine::sampling::{
    Penalties, PenaltySettings, SampleSpec, SamplerSettings, UniformDraws, sample,
};

const ROUNDS: usize = 41;
/// Of SmolLM2 and of Qwen 3.
const VOCABULARIES: [u32; 2] = [49_152, 151_936];

/// A bell curve, the likeliest tokens far ahead, as a language model's logits are.
fn logits(vocab: u32) -> Vec<f32> {
    let mut draws = UniformDraws::new(3);
    (0..vocab).map(|_| ((0..4).map(|_| draws.draw()).sum::<f32>() - 2.0) * 9.0).collect()
}

fn penalties(vocab: u32) -> Option<Arc<Penalties>> {
    let settings = PenaltySettings { repetition: 1.1, frequency: 0.5, ..PenaltySettings::NONE };
    let prompt: Vec<u32> = (0..2_000).map(|place| place * 7_919 % vocab).collect();
    Penalties::new(settings, [(5, 1.0)].into(), &prompt).map(Arc::new)
}

/// Median microseconds.
fn time(logits: &[f32], spec: &SampleSpec) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let started_at = Instant::now();
            let _ = black_box(sample(black_box(logits), spec));
            started_at.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn main() {
    let greedy = SamplerSettings::GREEDY;
    let warm = SamplerSettings { temperature: 0.8, ..greedy };
    let cases = [
        ("greedy", greedy, None),
        ("greedy, 5 log-probabilities", greedy, Some(5)),
        ("temperature", warm, None),
        ("top-k 40", SamplerSettings { top_k: 40, ..warm }, None),
        ("top-k 500", SamplerSettings { top_k: 500, ..warm }, None),
        ("top-p 0.95", SamplerSettings { top_p: 0.95, ..warm }, None),
        ("min-p 0.05", SamplerSettings { min_p: 0.05, ..warm }, None),
    ];
    for vocab in VOCABULARIES {
        let logits = logits(vocab);
        for (name, settings, logprobs) in cases {
            let plain =
                SampleSpec { settings, uniform: 0.7, penalties: None, mask: None, logprobs };
            let penalised = SampleSpec { penalties: penalties(vocab), ..plain.clone() };
            let (plain, penalised) = (time(&logits, &plain), time(&logits, &penalised));
            println!("{vocab:>7}  {name:<28} {plain:>6.0} us   with penalties {penalised:>6.0} us");
        }
    }
}
