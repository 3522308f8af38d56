//! Weights inside MLX: plain memory turned into arrays, and the shapes they must have.
//!
//! Owns the table of a model's expected tensors while it is being built. Knows no architecture:
//! names and shapes come from `models`.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr::NonNull;

use mlx_rs::ops::indexing::take_axis;
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use crate::device::{Device, dim};
use crate::error::MlxError;
use ingle_engine::error::EngineError;
use ingle_engine::tensor::{Floats, HostData, HostTensor};

/// Elements copied at once: a millisecond or two.
const PIECE_ELEMENTS: usize = 1 << 20;

/// A tensor that an architecture has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    /// Name in the file.
    pub(super) name: String,
    /// Dimensions, outermost first.
    pub(super) shape: Vec<usize>,
    /// Whether a model without it is whole.
    pub(super) optional: bool,
}

impl Expected {
    /// A tensor that must be there.
    pub(super) fn required(name: impl Into<String>, shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), optional: false }
    }

    /// A tensor that may be absent.
    pub(super) fn optional(name: impl Into<String>, shape: &[usize]) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), optional: true }
    }
}

/// One weight, in the engine's memory.
#[derive(Debug, Clone)]
pub(super) enum Weight {
    /// Plain numbers, `[out, in]` for a matrix.
    Dense(Array),
    /// Group-wise quantised matrix: see [`HostData::Quantized`].
    Quantized {
        /// Packed values, `[out, in * bits / 32]`, `uint32`.
        packed: Array,
        /// Scales, `[out, in / group_size]`, a floating-point type.
        scales: Array,
        /// Biases, shaped and typed like the scales.
        biases: Array,
        /// Values that share one scale.
        group_size: i32,
        /// Bits a value.
        bits: i32,
    },
}

impl Weight {
    /// The same weight with its rows (its outputs) in another order.
    ///
    /// # Errors
    /// [`EngineError::Native`] when MLX refuses.
    pub(super) fn with_rows(&self, order: &Array) -> Result<Self, MlxError> {
        Ok(match self {
            Self::Dense(array) => Self::Dense(take_axis(array, order, 0)?),
            Self::Quantized { packed, scales, biases, group_size, bits } => Self::Quantized {
                packed: take_axis(packed, order, 0)?,
                scales: take_axis(scales, order, 0)?,
                biases: take_axis(biases, order, 0)?,
                group_size: *group_size,
                bits: *bits,
            },
        })
    }

    /// Computes what has been queued for the weight, so that what it was made from can go.
    ///
    /// # Errors
    /// [`EngineError::Native`] when MLX refuses.
    pub(super) fn eval(&self) -> Result<(), MlxError> {
        match self {
            Self::Dense(array) => array.eval()?,
            Self::Quantized { packed, scales, biases, .. } => eval([packed, scales, biases])?,
        }
        Ok(())
    }

    /// The same weight with its floating-point numbers in another type.
    ///
    /// # Errors
    /// [`EngineError::Native`] when MLX refuses.
    pub(super) fn as_dtype(&self, dtype: Dtype) -> Result<Self, MlxError> {
        Ok(match self {
            Self::Dense(array) => Self::Dense(array.as_dtype(dtype)?),
            Self::Quantized { packed, scales, biases, group_size, bits } => Self::Quantized {
                packed: packed.clone(),
                scales: scales.as_dtype(dtype)?,
                biases: biases.as_dtype(dtype)?,
                group_size: *group_size,
                bits: *bits,
            },
        })
    }
}

/// The tensors of a model while it is being built.
#[derive(Debug)]
pub(super) struct Weights {
    file: PathBuf,
    expected: BTreeMap<String, Expected>,
    adopted: BTreeMap<String, Weight>,
    copying: Option<Copying>,
    bytes: u64,
    device: Device,
}

/// A tensor on its way into MLX's memory.
///
/// MLX's CPU allocator takes no memory that is not its own, and would copy an embedding of 100 MB
/// in one go, with a page fault every 4 KiB: 40 ms in which no stream goes on.
#[derive(Debug)]
struct Copying {
    name: String,
    array: Array,
    /// Where the array's elements lie, as many as `from` has.
    to: NonNull<f32>,
    from: Vec<f32>,
    copied: usize,
}

impl Copying {
    /// Copies another piece; true when it was the last.
    fn step(&mut self) -> bool {
        let len = PIECE_ELEMENTS.min(self.from.len() - self.copied);
        let piece = &self.from[self.copied..self.copied + len];
        // SAFETY: the array has memory for as many elements as `from`, no other code has the array
        // yet, and what is copied lies within both.
        #[allow(unsafe_code)]
        unsafe {
            let to = self.to.as_ptr().add(self.copied);
            std::ptr::copy_nonoverlapping(piece.as_ptr(), to, len);
        }
        self.copied += len;
        self.copied == self.from.len()
    }
}

impl Weights {
    /// An empty table that accepts `expected`; `file` is named in errors.
    pub(super) fn new(file: PathBuf, expected: Vec<Expected>, device: Device) -> Self {
        let expected = expected.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        Self { file, expected, adopted: BTreeMap::new(), copying: None, bytes: 0, device }
    }

    /// Bytes of all tensors adopted so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes one tensor over. On the CPU it may have to be copied, of which [`Self::copy_piece`]
    /// does the rest.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when the tensor is unknown, comes twice, or has another shape
    /// or size than expected.
    pub(super) fn adopt(&mut self, tensor: HostTensor) -> Result<(), MlxError> {
        self.check(&tensor.name, &tensor.shape)?;
        while !self.copy_piece() {}
        if self.adopted.contains_key(&tensor.name) {
            return Err(self.invalid(format!("tensor `{}` occurs twice", tensor.name)));
        }
        let bytes = tensor.bytes() as u64;
        let HostTensor { name, shape, data } = tensor;
        let invalid = |problem| self.invalid(format!("tensor `{name}`: {problem}"));
        match data {
            HostData::F32(from) if self.device == Device::Cpu => {
                let (array, to) = empty_array(&shape, from.len()).map_err(invalid)?;
                self.copying = Some(Copying { name, array, to, from, copied: 0 });
                self.copy_piece();
            }
            data => {
                let weight = to_weight(&shape, data).map_err(invalid)?;
                self.adopted.insert(name, weight);
            }
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Copies a piece of the tensor adopted last; true when nothing is left to copy.
    pub(super) fn copy_piece(&mut self) -> bool {
        if self.copying.as_mut().is_some_and(|copying| !copying.step()) {
            return false;
        }
        if let Some(Copying { name, array, .. }) = self.copying.take() {
            self.adopted.insert(name, Weight::Dense(array));
        }
        true
    }

    /// Checks a tensor that is still to come.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when it is unknown or has another shape than expected.
    pub(super) fn check(&self, name: &str, shape: &[usize]) -> Result<(), MlxError> {
        let Some(expected) = self.expected.get(name) else {
            return Err(self.invalid(format!(
                "tensor `{name}` is not part of this architecture as Ingle knows it"
            )));
        };
        if shape != expected.shape {
            return Err(self.invalid(format!(
                "tensor `{name}` has shape {shape:?}, expected {:?}",
                expected.shape
            )));
        }
        Ok(())
    }

    /// Checks that every required tensor has been adopted.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] naming the first one missing.
    pub(super) fn check_complete(&mut self) -> Result<(), MlxError> {
        while !self.copy_piece() {}
        self.check_all_in(|name| self.adopted.contains_key(name))
    }

    /// Checks that every required tensor is among those of which `is_there` is true.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] naming the first one missing.
    pub(super) fn check_all_in(&self, is_there: impl Fn(&str) -> bool) -> Result<(), MlxError> {
        let missing = |tensor: &&Expected| !tensor.optional && !is_there(&tensor.name);
        match self.expected.values().find(missing) {
            None => Ok(()),
            Some(tensor) => Err(self.invalid(format!(
                "tensor `{}` is missing, expected with shape {:?}",
                tensor.name, tensor.shape
            ))),
        }
    }

    /// Whether a weight is there to be taken.
    pub(super) fn has(&self, name: &str) -> bool {
        self.adopted.contains_key(name)
    }

    /// Removes and returns a weight.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when it is missing.
    pub(super) fn take(&mut self, name: &str) -> Result<Weight, MlxError> {
        self.adopted.remove(name).ok_or_else(|| self.invalid(format!("tensor `{name}` is missing")))
    }

    /// Removes and returns a weight that must be plain numbers, such as a norm's scale.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when it is missing or quantised.
    pub(super) fn take_dense(&mut self, name: &str) -> Result<Array, MlxError> {
        match self.take(name)? {
            Weight::Dense(array) => Ok(array),
            Weight::Quantized { .. } => {
                Err(self.invalid(format!("tensor `{name}` is quantised, expected plain numbers")))
            }
        }
    }

    /// Removes a weight and returns its numbers, each of them finite.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when it is missing, quantised, or holds something else.
    pub(super) fn take_f32(&mut self, name: &str) -> Result<Vec<f32>, MlxError> {
        let array = self.take_dense(name)?.as_dtype(Dtype::Float32)?;
        array.eval()?;
        match array.try_as_slice::<f32>() {
            Ok(values) if values.iter().all(|value| value.is_finite()) => Ok(values.to_vec()),
            Ok(_) => {
                Err(self.invalid(format!("tensor `{name}` holds something else than numbers")))
            }
            Err(error) => Err(EngineError::Native(format!("MLX: {error}")).into()),
        }
    }

    fn invalid(&self, problem: String) -> MlxError {
        EngineError::InvalidModel { file: self.file.clone(), problem }.into()
    }
}

/// Wraps host memory in MLX arrays; the error says what is wrong with the sizes.
fn to_weight(shape: &[usize], data: HostData) -> Result<Weight, String> {
    Ok(match data {
        HostData::F32(values) => Weight::Dense(to_array(shape, values, Dtype::Float32)?),
        HostData::F16(values) => Weight::Dense(to_array(shape, values, Dtype::Float16)?),
        HostData::Bf16(values) => Weight::Dense(to_array(shape, values, Dtype::Bfloat16)?),
        HostData::Quantized { bits, group_size, packed, scales, biases } => {
            let &[rows, columns] = shape else {
                return Err(format!("is quantised but has shape {shape:?}, expected a matrix"));
            };
            if !matches!(bits, 4 | 8) || group_size == 0 || columns % group_size != 0 {
                return Err(format!(
                    "{bits} bits in groups of {group_size} do not fit rows of {columns}"
                ));
            }
            let groups = [rows, columns / group_size];
            let words = [rows, columns * usize::from(bits) / 32];
            Weight::Quantized {
                packed: to_array(&words, packed, Dtype::Uint32)?,
                scales: floats_to_array(&groups, scales)?,
                biases: floats_to_array(&groups, biases)?,
                group_size: i32::try_from(group_size).map_err(|error| error.to_string())?,
                bits: i32::from(bits),
            }
        }
    })
}

fn floats_to_array(shape: &[usize], values: Floats) -> Result<Array, String> {
    match values {
        Floats::F32(values) => to_array(shape, values, Dtype::Float32),
        Floats::F16(bits) => to_array(shape, bits, Dtype::Float16),
        Floats::Bf16(bits) => to_array(shape, bits, Dtype::Bfloat16),
    }
}

/// A shape as MLX takes it, which has room for `values` values.
fn dims(shape: &[usize], values: usize) -> Result<(Vec<i32>, i32), String> {
    let elements: usize = shape.iter().product();
    if values != elements {
        return Err(format!("has {values} values, but shape {shape:?} needs {elements}"));
    }
    let shape: Vec<i32> = shape
        .iter()
        .map(|&size| dim(size).map_err(|error| error.to_string()))
        .collect::<Result<_, _>>()?;
    let rank = dim(shape.len()).map_err(|error| error.to_string())?;
    Ok((shape, rank))
}

/// An array of `values` floats that have not been written, in MLX's memory, and where they lie.
fn empty_array(shape: &[usize], values: usize) -> Result<(Array, NonNull<f32>), String> {
    let (shape, rank) = dims(shape, values)?;
    let mut data = std::ptr::null_mut();
    // SAFETY: makes an empty handle; it allocates nothing.
    #[allow(unsafe_code)]
    let mut array = unsafe { mlx_sys::mlx_array_new() };
    // SAFETY: `shape` has `rank` entries and is only read during the call; both results may be
    // written. On success the handle owns an array, which is given to `Array` once.
    #[allow(unsafe_code)]
    let array = unsafe {
        if mlx_sys::ingle_cpu_empty(&raw mut array, &raw mut data, shape.as_ptr(), rank) != 0 {
            return Err("there is no memory for it".to_owned());
        }
        Array::from_ptr(array)
    };
    NonNull::new(data).map(|data| (array, data)).ok_or_else(|| "it has no memory".to_owned())
}

/// Moves `values` into an array of the given shape, without a copy where MLX can do without.
fn to_array<T>(shape: &[usize], values: Vec<T>, dtype: Dtype) -> Result<Array, String> {
    let (shape, rank) = dims(shape, values.len())?;
    let owner = Box::new(values);
    let data = owner.as_ptr().cast_mut().cast::<c_void>();
    let owner = Box::into_raw(owner).cast::<c_void>();
    // SAFETY: `data` points to `elements` values of the array's type, which stay where they are
    // until MLX calls `free_vec` with `owner`, once, when it no longer needs them. Nothing else
    // refers to them, so MLX may do with them as it likes. `shape` has `rank` entries and is only
    // read during the call.
    #[allow(unsafe_code)]
    let array = unsafe {
        Array::from_ptr(mlx_sys::mlx_array_new_data_managed_payload(
            data,
            shape.as_ptr(),
            rank,
            dtype.into(),
            owner,
            Some(free_vec::<T>),
        ))
    };
    if array.as_ptr().ctx.is_null() {
        return Err("MLX could not make an array of it".to_owned());
    }
    Ok(array)
}

/// Frees the vector behind an array's data.
///
/// # Safety
/// `owner` must come from `Box::into_raw` of a `Box<Vec<T>>` and be passed only once.
#[allow(unsafe_code)]
unsafe extern "C" fn free_vec<T>(owner: *mut c_void) {
    // SAFETY: the caller vouches for where the pointer comes from.
    drop(unsafe { Box::from_raw(owner.cast::<Vec<T>>()) });
}
