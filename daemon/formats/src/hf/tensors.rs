//! Weights of a folder: one for each quantized matrix, which is three tensors in the files.
//!
//! Owns the joining of packed values, scales and biases, and its checks against the `quantization`
//! entry. Does not know architectures.

use std::collections::BTreeMap;

use super::error::FolderErrorKind;
use super::quantization::{Affine, Quantization};
use crate::safetensors::{Dtype, TensorInfo};

/// One tensor of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Index of its file among the folder's files.
    pub(super) shard: usize,
    /// Name, shape, type and byte range in the file.
    pub info: TensorInfo,
}

/// One weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Dimensions of the unpacked numbers, outermost first.
    pub shape: Vec<usize>,
    /// The stored numbers.
    pub storage: Storage,
}

/// Storage of a [`Tensor`]'s numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// Plain floating-point numbers.
    Plain(Part),
    /// A matrix `[out, in]` in MLX's layout: rows of packed values, lowest bits first.
    Quantized {
        /// Bits and group size.
        affine: Affine,
        /// `[out, in * bits / 32]` of `U32`.
        packed: Part,
        /// `[out, in / group_size]` of a floating-point type.
        scales: Part,
        /// Same shape and type as the scales.
        biases: Part,
    },
}

impl Tensor {
    /// Number of elements: the product of the dimensions.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The part with the tensor's name.
    #[must_use]
    pub fn main_part(&self) -> &Part {
        match &self.storage {
            Storage::Plain(part) | Storage::Quantized { packed: part, .. } => part,
        }
    }

    /// Size in the files, in bytes.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        match &self.storage {
            Storage::Plain(part) => part.info.bytes,
            Storage::Quantized { packed, scales, biases, .. } => {
                packed.info.bytes + scales.info.bytes + biases.info.bytes
            }
        }
    }
}

/// A problem with the index of its file.
pub(super) type JoinError = (usize, FolderErrorKind);

/// Joins the tensors of all files; the result is in the order of the files' bytes.
pub(super) fn join(
    parts: BTreeMap<String, Part>,
    quantization: Option<&Quantization>,
) -> Result<Vec<Tensor>, JoinError> {
    let mut tensors = Vec::with_capacity(parts.len());
    for (name, part) in &parts {
        let (module, kind) = name.rsplit_once('.').unwrap_or(("", name));
        let sibling = |kind: &str| parts.get(&format!("{module}.{kind}"));
        match (kind, sibling("scales")) {
            ("weight", Some(scales)) => {
                let tensor = quantized(module, part, scales, sibling("biases"), quantization);
                tensors.push(tensor.map_err(|kind| (part.shard, kind))?);
            }
            // These belong to their weight.
            ("scales" | "biases", Some(_)) if sibling("weight").is_some() => {}
            _ => tensors.push(plain(module, part).map_err(|kind| (part.shard, kind))?),
        }
    }
    tensors.sort_by_key(|tensor| {
        let part = tensor.main_part();
        (part.shard, part.info.offset)
    });
    Ok(tensors)
}

fn plain(module: &str, part: &Part) -> Result<Tensor, FolderErrorKind> {
    let info = &part.info;
    if !info.dtype.is_float() {
        let reason = if info.dtype == Dtype::U32 {
            format!("; packed values need scales, but `{module}.scales` is missing")
        } else {
            "; this engine reads F32, F16, BF16, and U32 for quantized matrices".to_owned()
        };
        return Err(FolderErrorKind::Unsupported(format!(
            "tensor `{}` is stored as {}{reason}",
            info.name, info.dtype
        )));
    }
    let (name, shape) = (info.name.clone(), info.shape.clone());
    Ok(Tensor { name, shape, storage: Storage::Plain(part.clone()) })
}

fn quantized(
    module: &str,
    packed: &Part,
    scales: &Part,
    biases: Option<&Part>,
    quantization: Option<&Quantization>,
) -> Result<Tensor, FolderErrorKind> {
    let invalid = |problem: String| Err(FolderErrorKind::Invalid(problem));
    let name = &packed.info.name;
    let Some(quantization) = quantization else {
        return invalid(format!(
            "tensor `{}` exists, but config.json has no `quantization`",
            scales.info.name
        ));
    };
    let Some(affine) = quantization.of(module) else {
        return invalid(format!(
            "tensor `{}` exists, but config.json does not quantize `{module}`",
            scales.info.name
        ));
    };
    let Some(biases) = biases else {
        return invalid(format!("tensor `{module}.biases` is missing, expected with `{name}`"));
    };
    if packed.info.dtype != Dtype::U32 || !scales.info.dtype.is_float() {
        return Err(FolderErrorKind::Unsupported(format!(
            "tensor `{name}` is stored as {} with scales as {}; this engine reads U32 with scales \
             as F32, F16, BF16",
            packed.info.dtype, scales.info.dtype
        )));
    }
    if biases.info.dtype != scales.info.dtype || biases.info.shape != scales.info.shape {
        return invalid(format!(
            "tensor `{}` is {} of shape {:?}, expected {} of shape {:?} as the scales are",
            biases.info.name,
            biases.info.dtype,
            biases.info.shape,
            scales.info.dtype,
            scales.info.shape
        ));
    }
    let (&[rows, words], &[scale_rows, groups]) =
        (packed.info.shape.as_slice(), scales.info.shape.as_slice())
    else {
        return invalid(format!(
            "tensor `{name}` is quantized but has shape {:?} with scales of shape {:?}, expected \
             matrices",
            packed.info.shape, scales.info.shape
        ));
    };
    let Affine { bits, group_size } = affine;
    // Neither product overflows: the sizes are those of tensors that lie in a file.
    let columns = words * (32 / usize::from(bits));
    if scale_rows != rows || groups * group_size != columns {
        return invalid(format!(
            "tensor `{name}` has shape {:?} with scales of shape {:?}, which does not fit the \
             {bits} bits in groups of {group_size} that config.json gives `{module}`",
            packed.info.shape, scales.info.shape
        ));
    }
    Ok(Tensor {
        name: name.clone(),
        shape: vec![rows, columns],
        storage: Storage::Quantized {
            affine,
            packed: packed.clone(),
            scales: scales.clone(),
            biases: biases.clone(),
        },
    })
}
