//! Sampler settings and the host-side reference sampler.
//!
//! Owns how one token is drawn from one row of logits. Reads no clock and keeps no random state:
//! the uniform draw is an argument, so an engine that samples on its device must give the same
//! token for the same logits, settings and draw (up to rounding at a boundary): cumulative
//! probability runs over the kept tokens in the order of their ids.

use std::cmp::Ordering;

/// Largest temperature accepted; beyond it every distribution is flat.
pub const MAX_TEMPERATURE: f32 = 100.0;

/// Up to this many of the likeliest tokens are found in one pass with a small sorted list.
const SHORT_LIST: usize = 64;

/// How tokens are drawn. The order of the filters is llama.cpp's: top-k, top-p, min-p, temperature.
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

/// What one row of one step asks of the sampler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleSpec {
    /// How to draw.
    pub settings: SamplerSettings,
    /// A uniform draw in `[0, 1)`; unused when greedy.
    pub uniform: f32,
    /// How many of the likeliest tokens to report with their log-probabilities.
    pub top_logprobs: usize,
}

/// One drawn token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Its natural-log probability under the model's own distribution (before any filter).
    pub logprob: f32,
    /// The likeliest tokens with their log-probabilities, likeliest first, at most
    /// [`SampleSpec::top_logprobs`].
    pub top: Vec<(u32, f32)>,
}

/// A sampler setting out of its range.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`{field}` must be {expected}, not {found}")]
pub struct InvalidSetting {
    /// The field of [`SamplerSettings`].
    pub field: &'static str,
    /// The values it takes.
    pub expected: &'static str,
    /// The value it has.
    pub found: f32,
}

/// Logits from which no token can be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the logits hold {what}")]
pub struct NotFinite {
    /// `NaN`, `infinity` or `no possible token`.
    pub what: &'static str,
}

impl SamplerSettings {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

    /// Checks every field's range.
    ///
    /// # Errors
    /// [`InvalidSetting`] naming the first field at fault and the values it takes.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let check = |field, found: f32, max: f32, expected| {
            // NaN is in no range, so it is refused too.
            if (0.0..=max).contains(&found) {
                Ok(())
            } else {
                Err(InvalidSetting { field, expected, found })
            }
        };
        check("temperature", self.temperature, MAX_TEMPERATURE, "a number from 0 to 100")?;
        check("top_p", self.top_p, 1.0, "a number from 0 to 1")?;
        check("min_p", self.min_p, 1.0, "a number from 0 to 1")
    }
}

/// Draws one token from the logits of the whole vocabulary.
///
/// Ties go to the lowest id. A logit of negative infinity is a token that cannot be drawn. The
/// settings are taken as valid (see [`SamplerSettings::validate`]).
///
/// # Errors
/// [`NotFinite`] when a logit is NaN or positive infinity, or when no token is possible.
pub fn sample(logits: &[f32], spec: &SampleSpec) -> Result<Sampled, NotFinite> {
    let likeliest_id = argmax(logits)?;
    let max = f64::from(logits[likeliest_id as usize]);
    let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    let log_total = total.ln();
    let logprob = |id: u32| (f64::from(logits[id as usize]) - max - log_total) as f32;

    let token = if spec.settings.temperature <= 0.0 {
        likeliest_id
    } else {
        draw(logits, max, total, spec).unwrap_or(likeliest_id)
    };
    let top = likeliest(logits, spec.top_logprobs);
    Ok(Sampled {
        token,
        logprob: logprob(token),
        top: top.into_iter().map(|id| (id, logprob(id))).collect(),
    })
}

/// The lowest id with the largest logit, after checking them all.
fn argmax(logits: &[f32]) -> Result<u32, NotFinite> {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return Err(NotFinite { what: "NaN" });
        }
        if logit > best.1 {
            best = (id, logit);
        }
    }
    match best.1 {
        f32::INFINITY => Err(NotFinite { what: "infinity" }),
        f32::NEG_INFINITY => Err(NotFinite { what: "no possible token" }),
        _ => Ok(best.0 as u32),
    }
}

/// Draws by the spec's uniform number. `max` is the largest logit and `total` the sum of
/// `exp(logit - max)`.
fn draw(logits: &[f32], max: f64, total: f64, spec: &SampleSpec) -> Option<u32> {
    let settings = &spec.settings;
    let temperature = f64::from(settings.temperature);
    let weight = |id: u32| ((f64::from(logits[id as usize]) - max) / temperature).exp();
    match kept(logits, max, total, settings) {
        None => pick(0..logits.len() as u32, weight, spec.uniform),
        Some(mut ids) => {
            ids.sort_unstable();
            pick(ids.into_iter(), weight, spec.uniform)
        }
    }
}

/// The first id at which the cumulative weight exceeds `uniform` times the whole.
fn pick(
    ids: impl Iterator<Item = u32> + Clone,
    weight: impl Fn(u32) -> f64,
    uniform: f32,
) -> Option<u32> {
    let whole: f64 = ids.clone().map(&weight).sum();
    let target = f64::from(uniform.clamp(0.0, 1.0)) * whole;
    let mut cumulative = 0.0;
    let mut last = None;
    for id in ids {
        let weight = weight(id);
        if weight > 0.0 {
            cumulative += weight;
            last = Some(id);
            if cumulative > target {
                break;
            }
        }
    }
    last
}

/// The tokens that pass top-k, top-p and min-p; `None` when all do. Each filter keeps a head of
/// the list of tokens sorted by likelihood, so together they keep the shortest of the heads.
fn kept(logits: &[f32], max: f64, total: f64, settings: &SamplerSettings) -> Option<Vec<u32>> {
    let vocab = logits.len();
    let top_k = match settings.top_k as usize {
        0 => vocab,
        k => k.min(vocab),
    };
    let threshold = max + f64::from(settings.min_p).ln();
    if top_k == vocab && settings.top_p >= 1.0 {
        return (settings.min_p > 0.0).then(|| {
            let passes = |&id: &u32| f64::from(logits[id as usize]) >= threshold;
            (0..vocab as u32).filter(passes).collect()
        });
    }

    let mut ids = if settings.top_p >= 1.0 {
        likeliest(logits, top_k)
    } else {
        let weight = |id: &u32| (f64::from(logits[*id as usize]) - max).exp();
        // Top-p is a share of what top-k has left.
        let limited = (top_k < vocab).then(|| likeliest(logits, top_k));
        let mass = limited.as_ref().map_or(total, |ids| ids.iter().map(weight).sum());
        let wanted = f64::from(settings.top_p) * mass;
        let head = |ids: &[u32]| {
            let mut cumulative = 0.0;
            let reached = ids.iter().position(|id| {
                cumulative += weight(id);
                cumulative >= wanted
            });
            reached.map(|last| last + 1)
        };
        match limited {
            Some(mut ids) => {
                ids.truncate(head(&ids).unwrap_or(ids.len()));
                ids
            }
            // Nearly always a short list reaches the share; sorting the vocabulary is the rest.
            None => {
                let mut len = SHORT_LIST;
                loop {
                    let mut ids = likeliest(logits, len);
                    match head(&ids) {
                        Some(last) => {
                            ids.truncate(last);
                            break ids;
                        }
                        None if ids.len() == vocab => break ids,
                        None => len *= 8,
                    }
                }
            }
        }
    };
    if settings.min_p > 0.0 {
        ids.retain(|&id| f64::from(logits[id as usize]) >= threshold);
    }
    Some(ids)
}

/// The `count` likeliest tokens, likeliest first, ties by the lowest id.
fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let by_likelihood = |&a: &u32, &b: &u32| -> Ordering {
        logits[b as usize]
            .partial_cmp(&logits[a as usize])
            .unwrap_or(Ordering::Equal)
            .then(a.cmp(&b))
    };
    if count == 0 {
        return Vec::new();
    }
    if count <= SHORT_LIST {
        let mut best: Vec<u32> = Vec::with_capacity(count + 1);
        let mut bar = f32::NEG_INFINITY;
        for (id, &logit) in logits.iter().enumerate() {
            // A later id loses a tie, so only a larger logit enters a full list.
            if best.len() < count || logit > bar {
                let place = best.partition_point(|&other| logits[other as usize] >= logit);
                best.insert(place, id as u32);
                best.truncate(count);
                bar = best.last().map_or(bar, |&last| logits[last as usize]);
            }
        }
        return best;
    }
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if count < ids.len() {
        ids.select_nth_unstable_by(count, by_likelihood);
        ids.truncate(count);
    }
    ids.sort_unstable_by(by_likelihood);
    ids
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
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u32 << 24) as f32
    }
}

#[cfg(test)]
mod tests;
