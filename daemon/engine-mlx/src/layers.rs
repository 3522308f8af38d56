//! Layers that architectures are made of: linear, embedding, norms, activations.
//!
//! Owns how one weight is applied on each device. Knows no architecture and no cache. Activations
//! are `[tokens, features]`: the rows of a ragged batch one after the other.

use mlx_rs::ops::indexing::take_axis;
use mlx_rs::{Array, Dtype, fast, ops};

use super::cpu;
use super::weights::{Weight, Weights};
use crate::device::Device;
use crate::error::MlxError;

/// BLAS on the CPU works in blocks of this many rows, and a rest costs more than a full block: with
/// OpenBLAS on the weights of a 135M model, 12 rows took 52 ms, 16 took 37, 20 took 63, 32 took 52.
const CPU_ROW_BLOCK: usize = 16;

/// How many rows to give the linear layers for `rows` that are wanted; the rest is padding.
pub(super) fn padded_rows(rows: usize, device: Device) -> usize {
    if device == Device::Gpu || rows <= CPU_FEW_ROWS {
        return rows;
    }
    rows.next_multiple_of(CPU_ROW_BLOCK)
}

/// Up to this many rows, a product on the CPU does without BLAS.
const CPU_FEW_ROWS: usize = 8;

/// Makes a model's layers from its weights, by their names.
pub(super) struct LayerBuilder<'a> {
    /// The weights that are left.
    pub(super) weights: &'a mut Weights,
    /// What the layers run on.
    pub(super) device: Device,
    /// The type of the activations. Weights of another floating-point type are converted: files
    /// keep norms in 32 bits whatever the rest, and MLX would widen all that follows.
    pub(super) dtype: Dtype,
}

impl LayerBuilder<'_> {
    /// A linear layer; its bias is the one among the weights, if there is one.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when the weight is missing.
    pub(super) fn linear(&mut self, module: &str) -> Result<Linear, MlxError> {
        let (weight, bias) = self.take(module, None)?;
        Linear::new(weight, bias, self.device)
    }

    /// Several linear layers of the same input as one; of each its outputs may be wanted in
    /// another order than the file has them in.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when a weight is missing.
    pub(super) fn fused_linear(
        &mut self,
        modules: &[(String, Option<&Array>)],
    ) -> Result<FusedLinear, MlxError> {
        let weights = modules
            .iter()
            .map(|(module, order)| self.take(module, *order))
            .collect::<Result<_, _>>()?;
        FusedLinear::new(weights, self.device)
    }

    /// A norm; of its features another order may be wanted.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when the scale is missing or quantised.
    pub(super) fn rms_norm(
        &mut self,
        module: &str,
        order: Option<&Array>,
        eps: f32,
    ) -> Result<RmsNorm, MlxError> {
        let weight = self.take_dense(&format!("{module}.weight"), order)?;
        Ok(RmsNorm { weight, eps, cpu: cpu::serves(self.device, self.dtype) })
    }

    /// A norm with scale and bias.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when one of them is missing or quantised.
    pub(super) fn layer_norm(&mut self, module: &str, eps: f32) -> Result<LayerNorm, MlxError> {
        let weight = self.take_dense(&format!("{module}.weight"), None)?;
        let bias = self.take_dense(&format!("{module}.bias"), None)?;
        Ok(LayerNorm { weight, bias, eps })
    }

    fn take(
        &mut self,
        module: &str,
        order: Option<&Array>,
    ) -> Result<(Weight, Option<Array>), MlxError> {
        let weight = self.weights.take(&format!("{module}.weight"))?.as_dtype(self.dtype)?;
        let weight = order.map_or(Ok(weight.clone()), |order| weight.with_rows(order))?;
        let bias = format!("{module}.bias");
        let bias = self.weights.has(&bias).then(|| self.take_dense(&bias, order)).transpose()?;
        Ok((weight, bias))
    }

    fn take_dense(&mut self, name: &str, order: Option<&Array>) -> Result<Array, MlxError> {
        let array = self.weights.take_dense(name)?.as_dtype(self.dtype)?;
        let Some(order) = order else { return Ok(array) };
        let array = take_axis(array, order, 0)?;
        array.eval()?;
        Ok(array)
    }
}

/// A matrix product with a weight `[out, in]`, and a bias if there is one.
pub(super) struct Linear {
    weight: Weight,
    bias: Option<Array>,
    /// The dense weight seen as `[in, out]`; a view, made once.
    transposed: Option<Array>,
    /// Whether Ingle's own product is used for few rows.
    few_rows: bool,
}

impl Linear {
    fn new(weight: Weight, bias: Option<Array>, device: Device) -> Result<Self, MlxError> {
        let (transposed, few_rows) = match &weight {
            Weight::Dense(weight) => {
                (Some(weight.swap_axes(0, 1)?), cpu::serves(device, weight.dtype()))
            }
            Weight::Quantized { .. } => (None, false),
        };
        Ok(Self { weight, bias, transposed, few_rows })
    }

    /// `[tokens, in]` to `[tokens, out]`.
    pub(super) fn forward(&self, x: &Array) -> Result<Array, MlxError> {
        let product = match (&self.weight, &self.transposed) {
            (Weight::Dense(weight), _)
                if self.few_rows && x.shape()[0] as usize <= CPU_FEW_ROWS =>
            {
                cpu::linear(x, weight)?
            }
            (Weight::Dense(_), Some(transposed)) => ops::matmul(x, transposed)?,
            (Weight::Dense(weight), None) => ops::matmul(x, weight.swap_axes(0, 1)?)?,
            (Weight::Quantized { packed, scales, biases, group_size, bits }, _) => {
                ops::quantized_matmul(x, packed, scales, biases, true, *group_size, *bits)?
            }
        };
        match &self.bias {
            Some(bias) => Ok(product.add(bias)?),
            None => Ok(product),
        }
    }
}

/// Several linear layers of the same input whose outputs are wanted side by side, as one product
/// where their types allow it.
pub(super) struct FusedLinear {
    parts: Vec<Linear>,
}

impl FusedLinear {
    /// Fuses layers of the same input width; they are evaluated here, so that what they were made
    /// from can be freed one layer at a time.
    fn new(layers: Vec<(Weight, Option<Array>)>, device: Device) -> Result<Self, MlxError> {
        let layers = match fuse(&layers)? {
            Some(fused) => vec![fused],
            None => layers,
        };
        let parts = layers
            .into_iter()
            .map(|(weight, bias)| {
                weight.eval()?;
                Linear::new(weight, bias, device)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { parts })
    }

    /// `[tokens, in]` to `[tokens, sum of out]`.
    pub(super) fn forward(&self, x: &Array) -> Result<Array, MlxError> {
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

/// Stacks layers along their output axis; `None` when they are stored differently.
fn fuse(layers: &[(Weight, Option<Array>)]) -> Result<Option<(Weight, Option<Array>)>, MlxError> {
    let mut dense = Vec::new();
    let mut quantized = (Vec::new(), Vec::new(), Vec::new());
    let mut format = None;
    for (weight, bias) in layers {
        let this = match weight {
            Weight::Dense(array) => {
                dense.push(array);
                (array.dtype(), 0, 0, bias.is_some())
            }
            Weight::Quantized { packed, scales, biases, group_size, bits } => {
                quantized.0.push(packed);
                quantized.1.push(scales);
                quantized.2.push(biases);
                (packed.dtype(), *group_size, *bits, bias.is_some())
            }
        };
        if *format.get_or_insert(this) != this {
            return Ok(None);
        }
    }
    let Some((_, group_size, bits, has_bias)) = format else { return Ok(None) };
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
    let bias = if has_bias {
        let biases: Vec<&Array> = layers.iter().filter_map(|(_, bias)| bias.as_ref()).collect();
        let bias = ops::concatenate(&biases, 0)?;
        bias.eval()?;
        Some(bias)
    } else {
        None
    };
    Ok(Some((fused, bias)))
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
    pub(super) fn forward(&self, tokens: &Array) -> Result<Array, MlxError> {
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

    /// The type of the embedded vectors, and so of all activations.
    pub(super) fn dtype(&self) -> Dtype {
        match &self.weight {
            Weight::Dense(weight) => weight.dtype(),
            Weight::Quantized { scales, .. } => scales.dtype(),
        }
    }

    /// The same weight as an output head.
    ///
    /// # Errors
    /// [`EngineError::Native`] when MLX refuses.
    pub(super) fn as_linear(&self, device: Device) -> Result<Linear, MlxError> {
        Linear::new(self.weight.clone(), None, device)
    }
}

/// Root mean square norm (Zhang and Sennrich 2019).
pub(super) struct RmsNorm {
    weight: Array,
    eps: f32,
    cpu: bool,
}

impl RmsNorm {
    /// Normalises the last axis.
    pub(super) fn forward(&self, x: &Array) -> Result<Array, MlxError> {
        if self.cpu {
            return cpu::rms_norm(x, &self.weight, self.eps);
        }
        Ok(fast::rms_norm(x, Some(&self.weight), self.eps)?)
    }
}

/// Layer norm (Ba, Kiros and Hinton 2016).
pub(super) struct LayerNorm {
    weight: Array,
    bias: Array,
    eps: f32,
}

impl LayerNorm {
    /// Normalises the last axis.
    pub(super) fn forward(&self, x: &Array) -> Result<Array, MlxError> {
        Ok(fast::layer_norm(x, Some(&self.weight), Some(&self.bias), self.eps)?)
    }
}

/// The activation of an ungated feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    /// Gaussian error linear unit (Hendrycks and Gimpel 2016).
    Gelu,
    /// Its approximation by a hyperbolic tangent, which some models were trained with.
    GeluTanh,
    /// Rectified linear unit.
    Relu,
}

impl Activation {
    /// Element by element.
    pub(super) fn forward(self, x: &Array, device: Device) -> Result<Array, MlxError> {
        let number = |value: f32| Array::from_f32(value).as_dtype(x.dtype());
        Ok(match self {
            Self::Gelu if cpu::serves(device, x.dtype()) => cpu::gelu(x)?,
            Self::Gelu => {
                let erf = ops::erf(x.multiply(number(std::f32::consts::FRAC_1_SQRT_2)?)?)?;
                x.multiply(erf.add(number(1.0)?)?.multiply(number(0.5)?)?)?
            }
            Self::GeluTanh => {
                // 0.5 (1 + tanh(u)) is sigmoid(2 u).
                let cube = x.multiply(x)?.multiply(number(0.044_715)?)?.add(number(1.0)?)?;
                let twice = 2.0 * (2.0 / std::f32::consts::PI).sqrt();
                x.multiply(ops::sigmoid(x.multiply(cube)?.multiply(number(twice)?)?)?)?
            }
            Self::Relu => ops::maximum(x, number(0.0)?)?,
        })
    }
}

/// `silu(gate) * up` (Shazeer 2020).
pub(super) fn swiglu(gate: &Array, up: &Array, device: Device) -> Result<Array, MlxError> {
    if cpu::serves(device, gate.dtype()) {
        return cpu::swiglu(gate, up);
    }
    Ok(gate.multiply(ops::sigmoid(gate)?)?.multiply(up)?)
}
