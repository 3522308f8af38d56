//! Layers that architectures are made of: linear, embedding, RMS norm, SwiGLU.
//!
//! Owns how one weight is applied on each device. Knows no architecture and no cache. Activations
//! are `[tokens, features]`: the rows of a ragged batch one after the other.

use mlx_rs::ops::indexing::take_axis;
use mlx_rs::{Array, fast, ops};

use super::Device;
use super::weights::Weight;
use crate::engine::backend::EngineError;

/// BLAS on the CPU works in blocks of this many rows, and a rest costs more than a full block: with
/// OpenBLAS on the weights of a 135M model, 16 rows took 37 ms, 12 took 52, 8 took 39 to 45, 4 took
/// 37 to 43, 3 took 32 and 1 took 24.
const CPU_ROW_BLOCK: usize = 16;

/// Up to this many rows are cheaper than a whole block.
const CPU_LOOSE_ROWS: usize = 3;

/// How many rows to give the linear layers for `rows` that are wanted; the rest is padding.
pub(super) fn padded_rows(rows: usize, device: Device) -> usize {
    if device == Device::Gpu || rows <= CPU_LOOSE_ROWS {
        return rows;
    }
    rows.next_multiple_of(CPU_ROW_BLOCK)
}

/// A matrix product with a weight `[out, in]`, without bias.
pub(super) struct Linear {
    weight: Weight,
    /// The dense weight seen as `[in, out]`; a view, made once.
    transposed: Option<Array>,
}

impl Linear {
    /// A layer from one weight.
    ///
    /// # Errors
    /// [`EngineError::Native`] when MLX refuses.
    pub(super) fn new(weight: Weight) -> Result<Self, EngineError> {
        let transposed = match &weight {
            Weight::Dense(weight) => Some(weight.swap_axes(0, 1)?),
            Weight::Quantized { .. } => None,
        };
        Ok(Self { weight, transposed })
    }

    /// `[tokens, in]` to `[tokens, out]`.
    pub(super) fn forward(&self, x: &Array) -> Result<Array, EngineError> {
        Ok(match (&self.weight, &self.transposed) {
            (Weight::Dense(_), Some(transposed)) => ops::matmul(x, transposed)?,
            (Weight::Dense(weight), None) => ops::matmul(x, weight.swap_axes(0, 1)?)?,
            (Weight::Quantized { packed, scales, biases, group_size, bits }, _) => {
                ops::quantized_matmul(x, packed, scales, biases, true, *group_size, *bits)?
            }
        })
    }
}

/// Several linear layers of the same input whose outputs are wanted side by side, as one product
/// where their types allow it.
pub(super) struct FusedLinear {
    parts: Vec<Linear>,
}

impl FusedLinear {
    /// Fuses weights of the same input width; they are evaluated here, so that the unfused copies
    /// can be freed one layer at a time.
    ///
    /// # Errors
    /// [`EngineError::Native`] when MLX refuses.
    pub(super) fn new(weights: Vec<Weight>) -> Result<Self, EngineError> {
        let weights = match fuse(&weights)? {
            Some(fused) => vec![fused],
            None => weights,
        };
        let parts =
            weights.into_iter().map(Linear::new).collect::<Result<_, _>>()?;
        Ok(Self { parts })
    }

    /// `[tokens, in]` to `[tokens, sum of out]`.
    pub(super) fn forward(&self, x: &Array) -> Result<Array, EngineError> {
        match self.parts.as_slice() {
            [single] => single.forward(x),
            parts => {
                let outputs =
                    parts.iter().map(|part| part.forward(x)).collect::<Result<Vec<_>, _>>()?;
                Ok(ops::concatenate(&outputs, 1)?)
            }
        }
    }
}

/// Stacks weights along their output axis; `None` when they are stored differently.
fn fuse(weights: &[Weight]) -> Result<Option<Weight>, EngineError> {
    let mut dense = Vec::new();
    let mut quantized = (Vec::new(), Vec::new(), Vec::new());
    let mut format = None;
    for weight in weights {
        let this = match weight {
            Weight::Dense(array) => {
                dense.push(array);
                (array.dtype(), 0, 0)
            }
            Weight::Quantized { packed, scales, biases, group_size, bits } => {
                quantized.0.push(packed);
                quantized.1.push(scales);
                quantized.2.push(biases);
                (packed.dtype(), *group_size, *bits)
            }
        };
        if *format.get_or_insert(this) != this {
            return Ok(None);
        }
    }
    let Some((_, group_size, bits)) = format else { return Ok(None) };
    let fused = if bits == 0 {
        Weight::Dense(ops::concatenate(&dense, 0)?)
    } else {
        Weight::Quantized {
            packed: ops::concatenate(&quantized.0, 0)?,
            scales: ops::concatenate(&quantized.1, 0)?,
            biases: ops::concatenate(&quantized.2, 0)?,
            group_size,
            bits,
        }
    };
    match &fused {
        Weight::Dense(array) => array.eval()?,
        Weight::Quantized { packed, scales, biases, .. } => {
            mlx_rs::transforms::eval([packed, scales, biases])?;
        }
    }
    Ok(Some(fused))
}

/// A token embedding `[vocabulary, features]`, which may also serve as the output head.
pub(super) struct Embedding {
    weight: Weight,
}

impl Embedding {
    /// An embedding from its weight.
    pub(super) fn new(weight: Weight) -> Self {
        Self { weight }
    }

    /// The rows of `tokens`: `[tokens]` of `uint32` to `[tokens, features]`.
    pub(super) fn forward(&self, tokens: &Array) -> Result<Array, EngineError> {
        Ok(match &self.weight {
            Weight::Dense(weight) => take_axis(weight, tokens, 0)?,
            Weight::Quantized { packed, scales, biases, group_size, bits } => ops::dequantize(
                take_axis(packed, tokens, 0)?,
                take_axis(scales, tokens, 0)?,
                &take_axis(biases, tokens, 0)?,
                *group_size,
                *bits,
            )?,
        })
    }

    /// The same weight as an output head.
    ///
    /// # Errors
    /// [`EngineError::Native`] when MLX refuses.
    pub(super) fn as_linear(&self) -> Result<Linear, EngineError> {
        Linear::new(self.weight.clone())
    }
}

/// Root mean square norm (Zhang and Sennrich 2019).
pub(super) struct RmsNorm {
    weight: Array,
    eps: f32,
}

impl RmsNorm {
    /// A norm from its scale `[features]`.
    pub(super) fn new(weight: Array, eps: f32) -> Self {
        Self { weight, eps }
    }

    /// Normalises the last axis.
    pub(super) fn forward(&self, x: &Array) -> Result<Array, EngineError> {
        Ok(fast::rms_norm(x, Some(&self.weight), self.eps)?)
    }
}

/// `silu(gate) * up` (Shazeer 2020).
pub(super) fn swiglu(gate: &Array, up: &Array) -> Result<Array, EngineError> {
    Ok(gate.multiply(ops::sigmoid(gate)?)?.multiply(up)?)
}
