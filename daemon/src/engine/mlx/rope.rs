//! Rotary position embedding (Su et al. 2021) over a whole ragged batch at once.
//!
//! Owns the angles. Heads hold their rotated pairs side by side, `(x0, x1), (x2, x3), ...`, as GGUF
//! files of the llama family store them; a pair is then one complex number, and the rotation of
//! every head of every token one complex product. Models whose files keep the two halves of a head
//! apart are rearranged when they are loaded.

use mlx_rs::{Array, Dtype};

use super::dim;
use crate::engine::backend::EngineError;

/// The rotation of one architecture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rope {
    /// Elements of a head.
    pub(super) head_dim: usize,
    /// Leading elements of a head that are rotated; the rest stay.
    pub(super) rotated: usize,
    /// Base of the angles' geometric series.
    pub(super) base: f32,
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
    /// The factors for tokens at `positions`: `[tokens, heads, head_dim / 2]` of `complex64`.
    ///
    /// Queries are rotated and scaled by `1 / sqrt(head_dim)`, which attention wants anyway; keys
    /// are rotated; values are multiplied by one. So the joint product of all three needs no
    /// splitting before the rotation, and attention no scaling after it.
    ///
    /// # Errors
    /// [`EngineError::Native`] when MLX refuses.
    pub(super) fn factors(&self, positions: &[usize], heads: Heads) -> Result<Array, EngineError> {
        let pairs = self.head_dim / 2;
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let frequencies: Vec<f64> = (0..self.rotated / 2)
            .map(|pair| f64::from(self.base).powf(-2.0 * pair as f64 / self.rotated as f64))
            .collect();
        let mut factors = Vec::with_capacity(positions.len() * heads.total() * pairs * 2);
        let mut key = vec![0.0_f32; 2 * pairs];
        let mut query = vec![0.0_f32; 2 * pairs];
        for &position in positions {
            for pair in 0..pairs {
                let angle = frequencies.get(pair).map_or(0.0, |f| position as f64 * f);
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
pub(super) fn rotate(x: &Array, factors: &Array) -> Result<Array, EngineError> {
    let dtype = x.dtype();
    let turned = x.as_dtype(Dtype::Float32)?.view_dtype(Dtype::Complex64)?.multiply(factors)?;
    Ok(turned.view_dtype(Dtype::Float32)?.as_dtype(dtype)?)
}
