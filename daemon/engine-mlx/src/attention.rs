//! Scaled dot-product attention, causal for one sequence and bidirectional for whole texts.
//!
//! Owns the choice of kernel for each device. Queries arrive already scaled (see `rope`).

use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::{Array, ops};

use super::cpu;
use crate::device::{Device, dim};
use crate::error::MlxError;

/// Attention for `new` tokens that end a sequence.
pub(super) struct Attention {
    new: i32,
    device: Device,
}

impl Attention {
    /// Prepares what all layers share.
    ///
    /// # Errors
    /// [`EngineError::Native`] when a size is too large for MLX.
    pub(super) fn new(new: usize, device: Device) -> Result<Self, MlxError> {
        Ok(Self { new: dim(new)?, device })
    }

    /// Queries `[query heads, new, head_dim]` over keys and values `[kv heads, len, head_dim]`;
    /// returns `[new, query heads * head_dim]`.
    pub(super) fn attend(
        &self,
        queries: &Array,
        keys: &Array,
        values: &Array,
    ) -> Result<Array, MlxError> {
        let (query_heads, head_dim) = (queries.dim(0), queries.dim(2));
        let output = if !cpu::serves(self.device, queries.dtype()) {
            fused(queries, keys, values, self.new > 1)?
        } else if self.new == 1 {
            cpu::attend_one(&queries.reshape(&[query_heads, head_dim])?, keys, values)?
        } else {
            stacked(queries, keys, values, self.new)?
        };
        if self.new == 1 {
            // One token: the heads already lie one after the other.
            return Ok(output.reshape(&[1, query_heads * head_dim])?);
        }
        let by_token = output.reshape(&[query_heads, self.new, head_dim])?.swap_axes(0, 1)?;
        Ok(by_token.reshape(&[self.new, query_heads * head_dim])?)
    }
}

/// MLX's own attention: a single kernel on the GPU.
fn fused(queries: &Array, keys: &Array, values: &Array, causal: bool) -> Result<Array, MlxError> {
    Ok(scaled_dot_product_attention(
        queries.expand_dims(0)?,
        keys.expand_dims(0)?,
        values.expand_dims(0)?,
        1.0,
        causal.then_some(ScaledDotProductAttentionMask::Causal),
        None,
    )?)
}

/// Matrix products for several tokens. The query heads that share a key head are stacked, so that
/// each key head takes part in one product instead of one for each of its queries.
fn stacked(queries: &Array, keys: &Array, values: &Array, new: i32) -> Result<Array, MlxError> {
    let (kv_heads, per_kv) = (keys.dim(0), queries.dim(0) / keys.dim(0));
    let queries = queries.reshape(&[kv_heads, per_kv * new, queries.dim(2)])?;
    let scores = ops::matmul(queries, keys.swap_axes(1, 2)?)?;
    Ok(ops::matmul(cpu::causal_softmax(&scores, new)?, values)?)
}

/// Attention in both directions within each of several texts: all arguments are
/// `[texts, heads, len, head_dim]`, and so is the result. `mask` is as in
/// [`TextBatch`](super::models::TextBatch).
pub(super) fn attend_within(
    queries: &Array,
    keys: &Array,
    values: &Array,
    mask: Option<&Array>,
    device: Device,
) -> Result<Array, MlxError> {
    if !cpu::serves(device, queries.dtype()) {
        let mask = mask.map(ScaledDotProductAttentionMask::Array);
        return Ok(scaled_dot_product_attention(queries, keys, values, 1.0, mask, None)?);
    }
    let mut scores = ops::matmul(queries, keys.swap_axes(2, 3)?)?;
    if let Some(mask) = mask {
        scores = scores.add(mask)?;
    }
    let shape = scores.shape().to_vec();
    let rows = scores.reshape(&[shape[0] * shape[1], shape[2], shape[3]])?;
    // Each row as the last token of a sequence of its own: it sees all others.
    let weights = cpu::causal_softmax(&rows, 1)?.reshape(&shape)?;
    Ok(ops::matmul(weights, values)?)
}
