//! Limits on what a model folder may claim, in one place.

/// Bytes of `config.json`; those in use take a few thousand, with quantisation by layer some
/// hundred thousand.
pub(super) const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Bytes of `model.safetensors.index.json`; a tensor takes about 100.
pub(super) const MAX_INDEX_BYTES: u64 = 32 << 20;

/// Files the weights may be spread over.
pub(super) const MAX_SHARDS: usize = 1_024;

/// Tensors of all shards together.
pub(super) const MAX_TENSORS: usize = 1 << 18;

/// A size in `config.json`, such as a layer's width. It lies far above any real model and keeps
/// products of sizes from overflowing.
pub(super) const MAX_SIZE: u64 = 0xFF_FFFF;
