//! Host tensors: tensors in plain memory, passed from the loader thread to the engine thread.
//!
//! Owns the representation only. Does not know engines or file formats.

/// One weight tensor in row-major order, outermost dimension first.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// The name in its file, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Dimensions, outermost first: a linear layer is `[out_features, in_features]`.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: HostData,
}

/// The elements of a [`HostTensor`].
#[derive(Debug, Clone, PartialEq)]
pub enum HostData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// IEEE half-precision bit patterns.
    F16(Vec<u16>),
    /// bfloat16 bit patterns.
    Bf16(Vec<u16>),
    /// Group-wise affine quantization in MLX's layout (`w = scale * q + bias`).
    ///
    /// Each row of `in_features` values is packed little-end first, `32 / bits` values to a word.
    Quantized {
        /// Bits a value: 4 or 8.
        bits: u8,
        /// Values that share one scale and bias.
        group_size: usize,
        /// `out * in * bits / 32` words.
        packed: Vec<u32>,
        /// `out * in / group_size` scales.
        scales: Floats,
        /// As many biases as scales, of the same type.
        biases: Floats,
    },
}

/// Floating-point numbers in the type they are stored in.
#[derive(Debug, Clone, PartialEq)]
pub enum Floats {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// IEEE half-precision bit patterns.
    F16(Vec<u16>),
    /// bfloat16 bit patterns.
    Bf16(Vec<u16>),
}

impl Floats {
    /// Bytes of memory of the numbers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => values.len() * 4,
            Self::F16(values) | Self::Bf16(values) => values.len() * 2,
        }
    }
}

/// The floating-point type that the loader converts weights to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightPrecision {
    /// Everything becomes `F32`: the CPU has no fast kernels for anything else.
    Float32,
    /// Types and quantization stay as in the file.
    AsStored,
}

impl HostTensor {
    /// Number of elements: the product of the dimensions.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of memory of the data.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.data {
            HostData::F32(values) => values.len() * 4,
            HostData::F16(values) | HostData::Bf16(values) => values.len() * 2,
            HostData::Quantized { packed, scales, biases, .. } => {
                packed.len() * 4 + scales.bytes() + biases.bytes()
            }
        }
    }
}
