//! Limits on what a GGUF file may claim, in one place.

/// Bytes of header, metadata and tensor index together. The largest vocabularies in use take
/// about 20 MB.
pub(super) const MAX_HEADER_BYTES: u64 = 128 << 20;

/// Bytes of a metadata key or tensor name; ggml's own limit for keys.
pub(super) const MAX_NAME_BYTES: u64 = 65_535;

/// Bytes of one metadata string; chat templates are the longest in use, about 20 kB.
pub(super) const MAX_STRING_BYTES: u64 = 16 << 20;

/// Dimensions of a tensor; ggml's `GGML_MAX_DIMS`.
pub(super) const MAX_DIMENSIONS: u32 = 4;

/// Largest value of `general.alignment`.
pub(super) const MAX_ALIGNMENT: u32 = 1 << 20;

/// Elements of one tensor. Four bytes for each must fit an address space.
pub(super) const MAX_ELEMENTS: u64 = 1 << 44;

/// Files of a split model that are measured; the largest models in use have some tens.
pub(super) const MAX_PARTS: u32 = 1_000;
