//! Limits on what a safetensors file may claim, in one place.

/// Bytes of the JSON header. A tensor takes about 100; the reference reader allows 100 MB.
pub(super) const MAX_HEADER_BYTES: u64 = 32 << 20;

/// Tensors of one file.
pub(super) const MAX_TENSORS: usize = 1 << 18;

/// Bytes of a tensor's name.
pub(super) const MAX_NAME_BYTES: usize = 1_024;

/// Dimensions of a tensor.
pub(super) const MAX_DIMENSIONS: usize = 8;

/// Elements of one tensor. Four bytes for each must fit an address space.
pub(super) const MAX_ELEMENTS: u64 = 1 << 44;
