//! Rotary position embedding (Su et al. 2021) over a whole ragged batch at once.
//!
//! Owns the angles and their scaling for long contexts. Heads hold their rotated pairs side by
//! side, `(x0, x1), (x2, x3), ...`, as GGUF files of the llama family store them; a pair is then
//! one complex number, and the rotation of every head of every token one complex product. Models
//! whose files keep the two halves of a head apart are rearranged when they are loaded: queries and
//! keys in the same way, which leaves their products as they were.

use mlx_rs::{Array, Dtype};

use crate::device::dim;
use crate::error::MlxError;

/// Where a file keeps the two numbers of a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pairs {
    /// Next to each other.
    SideBySide,
    /// Half of the rotated elements apart, as in GPT-NeoX.
    Halves,
}

/// The scaling of Llama 3.1 and later: long wavelengths are stretched, short ones are kept, and
/// those between are blended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Llama3Scaling {
    /// How much longer long wavelengths become.
    pub(super) factor: f64,
    /// The original context over the shortest wavelength that is stretched in full.
    pub(super) low_freq_factor: f64,
    /// The original context over the longest wavelength that is kept.
    pub(super) high_freq_factor: f64,
    /// Tokens the model was first made for.
    pub(super) original_context: f64,
}

/// The rotation of one architecture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rope {
    /// Elements of a head.
    pub(super) head_dim: usize,
    /// Leading elements of a head that are rotated; the rest stay.
    rotated: usize,
    /// Where the file keeps the pairs.
    pairs: Pairs,
    /// Radians a position for each pair.
    frequencies: Vec<f64>,
}

/// How many heads of each kind one token has, in the order they lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    /// Query heads.
    pub(super) query: usize,
    /// Key heads, and as many value heads after them.
    pub(super) key_value: usize,
}

impl Heads {
    /// Query, key and value heads together.
    pub(super) fn total(self) -> usize {
        self.query + 2 * self.key_value
    }
}

impl Rope {
    /// The rotation by the geometric series of `base`, unscaled.
    pub(super) fn new(head_dim: usize, rotated: usize, base: f64, pairs: Pairs) -> Self {
        let frequencies =
            (0..rotated / 2).map(|pair| base.powf(-2.0 * pair as f64 / rotated as f64)).collect();
        Self { head_dim, rotated, pairs, frequencies }
    }

    /// Elements of a head that are rotated.
    pub(super) fn rotated(&self) -> usize {
        self.rotated
    }

    /// Stretches every wavelength by the same factor (Chen et al. 2023), or each by its own.
    pub(super) fn stretch(&mut self, factors: impl IntoIterator<Item = f64>) {
        for (frequency, factor) in self.frequencies.iter_mut().zip(factors) {
            *frequency /= factor;
        }
    }

    /// Stretches wavelengths as Llama 3.1 does. Source: mlx-lm's `Llama3RoPE`.
    pub(super) fn stretch_as_llama3(&mut self, scaling: Llama3Scaling) {
        let Llama3Scaling { factor, low_freq_factor, high_freq_factor, original_context } = scaling;
        for frequency in &mut self.frequencies {
            let wavelengths = original_context * *frequency / std::f64::consts::TAU;
            if wavelengths < low_freq_factor {
                *frequency /= factor;
            } else if wavelengths < high_freq_factor {
                let kept = (wavelengths - low_freq_factor) / (high_freq_factor - low_freq_factor);
                *frequency *= (1.0 - kept) / factor + kept;
            }
        }
    }

    /// The order in which the rows of a query or key projection with that many heads put pairs side
    /// by side; `None` if they are.
    ///
    /// # Errors
    /// [`EngineError::Native`] when a size is too large for MLX.
    pub(super) fn row_order(&self, heads: usize) -> Result<Option<Array>, MlxError> {
        if self.pairs == Pairs::SideBySide {
            return Ok(None);
        }
        let half = self.rotated / 2;
        let mut order = Vec::with_capacity(heads * self.head_dim);
        for head in 0..heads {
            let start = dim(head * self.head_dim)?;
            for pair in 0..half {
                order.extend([start + dim(pair)?, start + dim(half + pair)?]);
            }
            for rest in self.rotated..self.head_dim {
                order.push(start + dim(rest)?);
            }
        }
        let len = dim(order.len())?;
        Ok(Some(Array::from_slice(&order, &[len])))
    }

    /// The factors for tokens at `positions`: `[tokens, heads, head_dim / 2]` of `complex64`.
    ///
    /// Queries are rotated and scaled by `1 / sqrt(head_dim)`, which attention wants anyway; keys
    /// are rotated; values are multiplied by one. So the joint product of all three needs no
    /// splitting before the rotation, and attention no scaling after it.
    ///
    /// # Errors
    /// [`EngineError::Native`] when MLX refuses.
    pub(super) fn factors(&self, positions: &[usize], heads: Heads) -> Result<Array, MlxError> {
        let pairs = self.head_dim / 2;
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let mut factors = Vec::with_capacity(positions.len() * heads.total() * pairs * 2);
        let mut key = vec![0.0_f32; 2 * pairs];
        let mut query = vec![0.0_f32; 2 * pairs];
        for &position in positions {
            for pair in 0..pairs {
                let angle = self.frequencies.get(pair).map_or(0.0, |f| position as f64 * f);
                let (sin, cos) = angle.sin_cos();
                key[2 * pair] = cos as f32;
                key[2 * pair + 1] = sin as f32;
                query[2 * pair] = (cos * scale) as f32;
                query[2 * pair + 1] = (sin * scale) as f32;
            }
            for _ in 0..heads.query {
                factors.extend_from_slice(&query);
            }
            for _ in 0..heads.key_value {
                factors.extend_from_slice(&key);
            }
            for _ in 0..heads.key_value * pairs {
                factors.extend_from_slice(&[1.0, 0.0]);
            }
        }
        let shape = [dim(positions.len())?, dim(heads.total())?, dim(2 * pairs)?];
        Ok(Array::from_slice(&factors, &shape).view_dtype(Dtype::Complex64)?)
    }
}

/// Applies [`Rope::factors`] to `[tokens, heads, head_dim]`.
///
/// The product is computed in 32 bits whatever the type of `x`, which it returns to.
pub(super) fn rotate(x: &Array, factors: &Array) -> Result<Array, MlxError> {
    let dtype = x.dtype();
    let turned = x.as_dtype(Dtype::Float32)?.view_dtype(Dtype::Complex64)?.multiply(factors)?;
    Ok(turned.view_dtype(Dtype::Float32)?.as_dtype(dtype)?)
}
