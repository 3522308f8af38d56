//! Sampling: sampler settings and the host-side reference sampler.
//!
//! Owns the sampling of one token from one row of logits. Reads no clock and keeps no random state:
//! the uniform draw is an argument. An engine that samples on its device must return the same token
//! for the same logits, settings and draw, up to rounding at a boundary; the cumulative probability
//! runs over the kept tokens in the order of their ids.
//!
//! The chain is llama.cpp's default one (`common_params_sampling`): logit bias, penalties, then the
//! token mask of a constraint, top-k, top-p, min-p, temperature. Bias, penalties and mask apply to
//! greedy decoding too. Log-probabilities are those of the model's own distribution, before any of
//! these, as in vLLM (`raw_logprobs`) and llama.cpp's server (`n_probs`): they do not depend on the
//! sampler settings.

mod invalid_setting;
mod mask;
mod penalties;

use std::sync::Arc;

use ingle_protocol::sampling::{MIN_P, TEMPERATURE, TOP_P};

pub use invalid_setting::InvalidSetting;
use invalid_setting::check;
pub use mask::{Mask, MaskSource, TokenSet};
pub use penalties::{DEFAULT_REPETITION_WINDOW, MAX_BIAS, Penalties, PenaltySettings};

/// Maximum number of likeliest tokens that one scan finds with a small sorted list.
const SHORT_LIST: usize = 64;

/// Numbers summed in parallel, so that the compiler can use vector registers.
const LANES: usize = 8;

/// Sampler settings, applied after bias, penalties and mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerSettings {
    /// 0 is greedy; 1 leaves the distribution as it is.
    pub temperature: f32,
    /// Keep the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of likeliest tokens whose probabilities sum to at least this; 1 keeps
    /// all.
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the likeliest; 0 keeps all.
    pub min_p: f32,
}

/// The sampler's input for one row of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleSpec {
    /// Temperature and filters.
    pub settings: SamplerSettings,
    /// A uniform draw in `[0, 1)`; unused when greedy.
    pub uniform: f32,
    /// Logit bias and penalties; `None` where there are none, which is the fast case.
    ///
    /// Shared with the sequence that counts the tokens, so that a step copies nothing.
    pub penalties: Option<Arc<Penalties>>,
    /// The allowed tokens; `None` where all are allowed.
    pub mask: Option<Mask>,
    /// Number of likeliest tokens to report, if log-probabilities are requested.
    pub logprobs: Option<usize>,
}

impl SampleSpec {
    /// The likeliest token and nothing else.
    pub const GREEDY: Self = Self {
        settings: SamplerSettings::GREEDY,
        uniform: 0.0,
        penalties: None,
        mask: None,
        logprobs: None,
    };
}

/// One sampled token.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledToken {
    /// Its id.
    pub token: u32,
    /// Its natural-log probability under the model's own distribution, before bias, penalties and
    /// filters; 0 where [`SampleSpec::logprobs`] is `None`.
    pub logprob: f32,
    /// The likeliest tokens of that distribution with their log-probabilities, likeliest first, as
    /// many as [`SampleSpec::logprobs`] says.
    pub top: Vec<(u32, f32)>,
}

/// Why no token can be sampled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The logits are not numbers, or allow no token.
    #[error("the logits hold {what}")]
    NotFinite {
        /// `NaN`, `infinity` or `no possible token`.
        what: &'static str,
    },
    /// The token mask of the constraint could not be computed.
    #[error("{0}")]
    Mask(String),
}

impl SamplerSettings {
    /// Greedy decoding: always the likeliest token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

    /// Checks every field's range.
    ///
    /// # Errors
    /// [`InvalidSetting`] naming the first invalid field and its valid values.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        check(&TEMPERATURE, self.temperature)?;
        check(&TOP_P, self.top_p)?;
        check(&MIN_P, self.min_p)
    }
}

/// Samples one token from the logits of the whole vocabulary.
///
/// Ties go to the lowest id. A token with a logit of negative infinity is never sampled. The
/// settings must be valid (see [`SamplerSettings::validate`]).
///
/// # Errors
/// [`SampleError::NotFinite`] when a logit is NaN or positive infinity, or when no token is
/// possible; [`SampleError::Mask`] when the mask cannot be computed.
pub fn sample(logits: &[f32], spec: &SampleSpec) -> Result<SampledToken, SampleError> {
    let likeliest_id = argmax(logits)?;
    let mask = spec.mask.as_ref().map(Mask::wait).transpose().map_err(SampleError::Mask)?;
    let token = match (&spec.penalties, mask) {
        (None, None) => choose(logits, likeliest_id, spec),
        (penalties, mask) => {
            let mut logits = logits.to_vec();
            if let Some(penalties) = penalties {
                penalties.apply(&mut logits);
            }
            if let Some(mask) = mask {
                mask.apply(&mut logits);
            }
            choose(&logits, argmax(&logits)?, spec)
        }
    };
    let Some(count) = spec.logprobs else {
        return Ok(SampledToken { token, logprob: 0.0, top: Vec::new() });
    };
    let max = logits[likeliest_id as usize];
    let log_total = sum(&weights(logits, max, 1.0)).ln();
    let logprob = |id: u32| (f64::from(logits[id as usize]) - f64::from(max) - log_total) as f32;
    let top = likeliest(logits, count);
    Ok(SampledToken {
        token,
        logprob: logprob(token),
        top: top.into_iter().map(|id| (id, logprob(id))).collect(),
    })
}

/// The lowest id with the largest logit, after checking them all.
fn argmax(logits: &[f32]) -> Result<u32, SampleError> {
    let mut best = [f32::NEG_INFINITY; LANES];
    let mut has_nan = [false; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut look = |lane: usize, logit: f32| {
        best[lane] = if logit > best[lane] { logit } else { best[lane] };
        has_nan[lane] |= logit.is_nan();
    };
    for chunk in chunks {
        for (lane, &logit) in chunk.iter().enumerate() {
            look(lane, logit);
        }
    }
    for &logit in rest {
        look(0, logit);
    }
    if has_nan.contains(&true) {
        return Err(SampleError::NotFinite { what: "NaN" });
    }
    match best.into_iter().fold(f32::NEG_INFINITY, f32::max) {
        f32::INFINITY => Err(SampleError::NotFinite { what: "infinity" }),
        f32::NEG_INFINITY => Err(SampleError::NotFinite { what: "no possible token" }),
        max => Ok(logits.iter().position(|&logit| logit == max).unwrap_or(0) as u32),
    }
}

/// The token that the settings and the uniform number choose.
fn choose(logits: &[f32], likeliest_id: u32, spec: &SampleSpec) -> u32 {
    let (settings, max) = (&spec.settings, logits[likeliest_id as usize]);
    if settings.temperature <= 0.0 || settings.top_k == 1 {
        return likeliest_id;
    }
    let drawn = match kept(logits, max, settings) {
        None => pick(&weights(logits, max, settings.temperature), spec.uniform),
        Some(mut ids) => {
            ids.sort_unstable();
            let logits: Vec<f32> = ids.iter().map(|&id| logits[id as usize]).collect();
            let index = pick(&weights(&logits, max, settings.temperature), spec.uniform);
            index.and_then(|index| ids.get(index as usize).copied())
        }
    };
    drawn.unwrap_or(likeliest_id)
}

/// The first index at which the cumulative weight exceeds `uniform` times the whole.
fn pick(weights: &[f32], uniform: f32) -> Option<u32> {
    /// Weights that are added up before they are looked at one by one.
    const BLOCK: usize = 256;
    let target = f64::from(uniform.clamp(0.0, 1.0)) * sum(weights);
    let (mut cumulative, mut last) = (0.0, None);
    for (number, block) in weights.chunks(BLOCK).enumerate() {
        let after = cumulative + sum(block);
        if after > target || number * BLOCK + block.len() == weights.len() {
            for (index, &weight) in block.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                cumulative += f64::from(weight);
                last = Some((number * BLOCK + index) as u32);
                if cumulative > target {
                    return last;
                }
            }
        } else if let Some(index) = block.iter().rposition(|&weight| weight > 0.0) {
            last = Some((number * BLOCK + index) as u32);
        }
        cumulative = after;
    }
    last
}

/// The tokens that pass top-k, top-p and min-p; `None` when all do. Each filter keeps a head of
/// the list of tokens sorted by likelihood, so together they keep the shortest of the heads.
fn kept(logits: &[f32], max: f32, settings: &SamplerSettings) -> Option<Vec<u32>> {
    let vocab = logits.len();
    let top_k = match settings.top_k as usize {
        0 => vocab,
        k => k.min(vocab),
    };
    let threshold = f64::from(max) + f64::from(settings.min_p).ln();
    let passes_min_p = |&id: &u32| f64::from(logits[id as usize]) >= threshold;
    if top_k == vocab && settings.top_p >= 1.0 {
        return (settings.min_p > 0.0).then(|| (0..vocab as u32).filter(passes_min_p).collect());
    }
    let mut ids = if top_k < vocab {
        let mut ids = likeliest(logits, top_k);
        if settings.top_p < 1.0 {
            // Top-p is a share of what top-k has left.
            let left: Vec<f32> = ids.iter().map(|&id| logits[id as usize]).collect();
            let weights = weights(&left, max, 1.0);
            let wanted = f64::from(settings.top_p) * sum(&weights);
            ids.truncate(head(weights.into_iter(), wanted).unwrap_or(ids.len()));
        }
        ids
    } else {
        nucleus(logits, max, settings.top_p)
    };
    if settings.min_p > 0.0 {
        ids.retain(passes_min_p);
    }
    Some(ids)
}

/// How many of the first weights it takes to reach `wanted`.
fn head(weights: impl Iterator<Item = f32>, wanted: f64) -> Option<usize> {
    let mut cumulative = 0.0;
    let mut weights = weights.map(f64::from);
    let reached = weights.position(|weight| {
        cumulative += weight;
        cumulative >= wanted
    });
    reached.map(|last| last + 1)
}

/// The likeliest tokens that sum to `top_p` of the whole, likeliest first.
fn nucleus(logits: &[f32], max: f32, top_p: f32) -> Vec<u32> {
    let weights = weights(logits, max, 1.0);
    let total = sum(&weights);
    let wanted = f64::from(top_p) * total;
    let weight = |&id: &u32| weights[id as usize];
    // Nearly always a short list reaches the share.
    let mut ids = likeliest(logits, SHORT_LIST);
    if let Some(len) = head(ids.iter().map(weight), wanted) {
        ids.truncate(len);
        return ids;
    }
    // All tokens below this weight together are less than what may be left out.
    let least = ((total - wanted) / logits.len() as f64 * 0.999) as f32;
    let candidates = weights.iter().enumerate().filter(|(_, weight)| **weight >= least);
    let mut ranks: Vec<u64> = candidates.map(|(id, _)| rank(id as u32, logits[id])).collect();
    ranks.sort_unstable();
    let mut ids: Vec<u32> = ranks.into_iter().map(|rank| rank as u32).collect();
    ids.truncate(head(ids.iter().map(weight), wanted).unwrap_or(ids.len()));
    ids
}

/// The `count` likeliest tokens, likeliest first, ties by the lowest id.
fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    if count == 0 {
        return Vec::new();
    }
    if count <= SHORT_LIST {
        let mut best: Vec<u32> = Vec::with_capacity(count + 1);
        let mut bar = f32::NEG_INFINITY;
        for (id, &logit) in logits.iter().enumerate() {
            // A later id loses a tie, so only a larger logit enters a full list.
            if logit > bar || best.len() < count {
                let place = best.partition_point(|&other| logits[other as usize] >= logit);
                best.insert(place, id as u32);
                best.truncate(count);
                if best.len() == count {
                    bar = best.last().map_or(bar, |&last| logits[last as usize]);
                }
            }
        }
        return best;
    }
    let mut ranks: Vec<u64> =
        logits.iter().enumerate().map(|(id, &logit)| rank(id as u32, logit)).collect();
    if count < ranks.len() {
        ranks.select_nth_unstable(count);
        ranks.truncate(count);
    }
    ranks.sort_unstable();
    ranks.into_iter().map(|rank| rank as u32).collect()
}

/// A number that is smaller for likelier tokens, and among equals for lower ids, which are its low
/// half. Sorting these needs no look at the logits.
fn rank(id: u32, logit: f32) -> u64 {
    // Adding 0 makes -0 the same as 0. A float's bits order like an integer's once those of the
    // negative ones are turned over.
    let bits = (logit + 0.0).to_bits();
    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(!rising) << 32 | u64::from(id)
}

/// `exp((logit - max) / temperature)` of every logit.
fn weights(logits: &[f32], max: f32, temperature: f32) -> Vec<f32> {
    logits.iter().map(|&logit| exp((logit - max) / temperature)).collect()
}

/// The natural exponential of a number that is not positive, to within 2 units in the last place;
/// 0 where the result has no normal representation. Cephes' `expf` (Moshier) without branches and
/// calls, so that the compiler makes vector code of it: the library's function took most of the
/// time of a draw from a large vocabulary.
fn exp(x: f32) -> f32 {
    const LEAST: f32 = -87.0;
    /// Adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let bounded = if x > LEAST { x } else { LEAST };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first of which n times is exact.
    let r = bounded - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut series = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        series = series * r + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    let value = (series * r * r + r + 1.0) * power;
    if x > LEAST { value } else { 0.0 }
}

/// The sum in double precision.
fn sum(weights: &[f32]) -> f64 {
    let (chunks, rest) = weights.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, &weight) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(weight);
        }
    }
    lanes.into_iter().chain(rest.iter().copied().map(f64::from)).sum()
}

/// A seeded stream of uniform draws, one per sampled token: SplitMix64 (Steele, Lea and Flood,
/// 2014), whose state is one word, so a request can be repeated exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UniformDraws {
    state: u64,
}

impl UniformDraws {
    /// The stream of `seed`; equal seeds give equal streams.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next draw, in `[0, 1)`, with 24 random bits.
    pub fn draw(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u32 << 24) as f32
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The seed of one of several choices. Choice 0 has the request's own, so that it is the text the
/// request gives alone; asking alone with another choice's seed gives that choice's text.
#[must_use]
pub fn choice_seed(seed: u64, choice: usize) -> u64 {
    if choice == 0 {
        return seed;
    }
    // Not the seed plus a step: streams of such seeds would be each other's continuations. JSON
    // readers keep integers up to 2^53 exactly.
    let of_seed = UniformDraws::new(seed).next();
    UniformDraws::new(of_seed ^ choice as u64).next() >> 11
}

#[cfg(test)]
mod tests;
