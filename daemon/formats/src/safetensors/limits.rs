//! Limits of safetensors files.

/// Maximum size of the JSON header, in bytes.
///
/// A tensor takes about 100 bytes; the reference reader allows 100 MB.
pub(super) const MAX_HEADER_BYTES: u64 = 32 << 20;

/// Maximum number of tensors of one file.
pub(super) const MAX_TENSORS: usize = 1 << 18;

/// Maximum size of a tensor's name, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 1_024;

/// Maximum number of dimensions of a tensor.
pub(super) const MAX_DIMENSIONS: usize = 8;

/// Maximum number of elements of one tensor. Four bytes for each must fit an address space.
pub(super) const MAX_ELEMENTS: u64 = 1 << 44;
