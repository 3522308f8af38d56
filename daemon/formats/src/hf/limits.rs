//! Limits of model folders.

/// Maximum size of `config.json`, in bytes.
///
/// Files in use have a few thousand bytes, or some hundred thousand with quantization for each layer.
pub(super) const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Maximum size of `model.safetensors.index.json`, in bytes. A tensor takes about 100.
pub(super) const MAX_INDEX_BYTES: u64 = 32 << 20;

/// Maximum number of files of the weights.
pub(super) const MAX_SHARDS: usize = 1_024;

/// Maximum number of tensors of all shards together.
pub(super) const MAX_TENSORS: usize = 1 << 18;

/// Maximum of a size in `config.json`, such as a layer's width.
///
/// It is far above any real model, and prevents overflow in products of sizes.
pub(super) const MAX_SIZE: u64 = 0xFF_FFFF;
