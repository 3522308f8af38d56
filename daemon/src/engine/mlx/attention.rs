//! Scaled dot-product attention of one sequence's new tokens over its keys and values.
//!
//! Owns the choice of kernel for each device. Queries arrive already scaled (see `rope`).

use mlx_rs::fast::{ScaledDotProductAttentionMask, scaled_dot_product_attention};
use mlx_rs::{Array, ops};

use super::{Device, dim};
use crate::engine::backend::EngineError;

/// Attention for `new` tokens that end a sequence of `len`.
pub(super) struct Attention {
    new: i32,
    len: i32,
    /// `[new, len]`, zero where a token may look and minus infinity where it may not; only on the
    /// CPU and only for more than one token.
    mask: Option<Array>,
    device: Device,
}

impl Attention {
    /// Prepares what all layers share.
    ///
    /// # Errors
    /// [`EngineError::Native`] when a size is too large for MLX.
    pub(super) fn new(new: usize, len: usize, device: Device) -> Result<Self, EngineError> {
        let (rows, columns) = (dim(new)?, dim(len)?);
        let mask = (new > 1 && device == Device::Cpu).then(|| {
            let before = len - new;
            let mask: Vec<f32> = (0..new)
                .flat_map(|row| (0..len).map(move |column| (row, column)))
                .map(|(row, column)| if column <= before + row { 0.0 } else { f32::NEG_INFINITY })
                .collect();
            Array::from_slice(&mask, &[rows, columns])
        });
        Ok(Self { new: rows, len: columns, mask, device })
    }

    /// Queries `[query heads, new, head_dim]` over keys and values `[kv heads, len, head_dim]`;
    /// returns `[new, query heads * head_dim]`.
    pub(super) fn attend(
        &self,
        queries: &Array,
        keys: &Array,
        values: &Array,
    ) -> Result<Array, EngineError> {
        let (query_heads, kv_heads, head_dim) = (queries.dim(0), keys.dim(0), queries.dim(2));
        let output = if self.device == Device::Gpu {
            let causal = (self.new > 1).then_some(ScaledDotProductAttentionMask::Causal);
            scaled_dot_product_attention(
                queries.expand_dims(0)?,
                keys.expand_dims(0)?,
                values.expand_dims(0)?,
                1.0,
                causal,
                None,
            )?
        } else {
            // The query heads that share a key head are stacked, so that each key head takes part
            // in one product instead of one for each of its queries.
            let per_kv = query_heads / kv_heads;
            let stacked = queries.reshape(&[kv_heads, per_kv * self.new, head_dim])?;
            let mut scores = ops::matmul(stacked, keys.swap_axes(1, 2)?)?;
            if let Some(mask) = &self.mask {
                scores = scores
                    .reshape(&[query_heads, self.new, self.len])?
                    .add(mask)?
                    .reshape(&[kv_heads, per_kv * self.new, self.len])?;
            }
            ops::matmul(ops::softmax_axis(scores, -1, None)?, values)?
        };
        if self.new == 1 {
            // One token: the heads already lie one after the other.
            return Ok(output.reshape(&[1, query_heads * head_dim])?);
        }
        let by_token = output.reshape(&[query_heads, self.new, head_dim])?.swap_axes(0, 1)?;
        Ok(by_token.reshape(&[self.new, query_heads * head_dim])?)
    }
}
