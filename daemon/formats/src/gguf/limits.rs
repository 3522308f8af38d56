//! Limits of GGUF files.

/// Maximum size of header, metadata and tensor index together, in bytes.
///
/// The largest vocabularies in use take about 20 MB.
pub(super) const MAX_HEADER_BYTES: u64 = 128 << 20;

/// Maximum size of a metadata key or tensor name, in bytes; ggml's own limit for keys.
pub(super) const MAX_NAME_BYTES: u64 = 65_535;

/// Maximum size of one metadata string, in bytes.
///
/// Chat templates are the longest in use, with about 20 kB.
pub(super) const MAX_STRING_BYTES: u64 = 16 << 20;

/// Maximum number of dimensions of a tensor; ggml's `GGML_MAX_DIMS`.
pub(super) const MAX_DIMENSIONS: u32 = 4;

/// Maximum value of `general.alignment`.
pub(super) const MAX_ALIGNMENT: u32 = 1 << 20;

/// Maximum number of elements of one tensor. Four bytes for each must fit an address space.
pub(super) const MAX_ELEMENTS: u64 = 1 << 44;

/// Maximum number of parts of a split model that are measured; the largest in use have some tens.
pub(super) const MAX_PARTS: u32 = 1_000;
