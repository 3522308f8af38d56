//! KV cache: the keys and values of one sequence.
//!
//! Owns growth, trimming and sharing of the buffers. Does not know architectures beyond the sizes
//! in [`Layout`], or other sequences.
//!
//! A buffer grows in steps (as mlx-lm's `KVCache` does), so that most steps write in place: MLX
//! reuses a buffer for an update when nothing else refers to it. Forked sequences share buffers
//! until one of them writes.

use mlx_rs::ops::indexing::{TryIndexOp, TryIndexUpdateOp, UpdateMode};
use mlx_rs::{Array, Dtype, ops};

use crate::device::dim;
use crate::error::MlxError;
use ingle_engine::error::EngineError;

/// Buffers hold a multiple of this many tokens.
const STEP_TOKENS: usize = 256;

/// The sizes of a model's cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Layers.
    pub(super) layers: usize,
    /// Key heads, and as many value heads.
    pub(super) kv_heads: usize,
    /// Elements of a head.
    pub(super) head_dim: usize,
    /// Type of the elements.
    pub(super) dtype: Dtype,
}

impl Layout {
    /// Bytes of the keys and values of one token in all layers.
    pub(super) fn bytes_per_token(&self) -> u64 {
        let elements = self.layers * 2 * self.kv_heads * self.head_dim;
        let element_bytes = if self.dtype == Dtype::Float32 { 4 } else { 2 };
        elements as u64 * element_bytes
    }
}

/// One sequence's keys and values.
pub(super) struct KvCache {
    layout: Layout,
    /// One buffer a layer, `[2 * kv_heads, allocated, head_dim]`: key heads, then value heads.
    /// Empty before the first token.
    buffers: Vec<Array>,
    /// Tokens in it.
    len: usize,
    /// Tokens the buffers have room for.
    allocated: usize,
}

/// New tokens on their way into a cache: layer by layer during a forward pass, and taken over by
/// [`KvCache::commit`] when the whole pass has been queued.
pub(super) struct Append<'a> {
    cache: &'a KvCache,
    new: usize,
    staged: Vec<Array>,
}

/// The buffers of a finished [`Append`].
pub(super) struct Staged {
    buffers: Vec<Array>,
    len: usize,
    allocated: usize,
}

impl KvCache {
    /// An empty cache.
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, buffers: Vec::new(), len: 0, allocated: 0 }
    }

    /// Tokens in the cache.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes the buffers take, counting shared ones in full.
    pub(super) fn bytes(&self) -> u64 {
        self.buffers.iter().map(|buffer| buffer.nbytes() as u64).sum()
    }

    /// A cache that starts as the first `len` tokens of this one, which must have as many.
    pub(super) fn fork(&self, len: usize) -> Self {
        // Without room of its own the first append copies `len` tokens, and not the whole buffer.
        Self { layout: self.layout, buffers: self.buffers.clone(), len, allocated: 0 }
    }

    /// Forgets all but the first `len` tokens; what lies behind them is overwritten later.
    pub(super) fn trim(&mut self, len: usize) {
        self.len = len;
    }

    /// Starts appending `new` tokens.
    pub(super) fn append(&self, new: usize) -> Append<'_> {
        Append { cache: self, new, staged: Vec::with_capacity(self.layout.layers) }
    }

    /// Takes over what an [`Append`] staged.
    ///
    /// The old buffers are dropped here, before the pass is evaluated: only then may MLX write the
    /// new tokens in place.
    pub(super) fn commit(&mut self, staged: Staged) {
        self.buffers = staged.buffers;
        self.len = staged.len;
        self.allocated = staged.allocated;
    }

    /// The last layer's buffer; evaluating it evaluates all that the pass wrote.
    pub(super) fn last_buffer(&self) -> Option<&Array> {
        self.buffers.last()
    }
}

impl Append<'_> {
    /// Writes the next layer's keys and values, `[2 * kv_heads, new, head_dim]`, and returns all of
    /// the layer's keys and values so far, each `[kv_heads, len, head_dim]`.
    ///
    /// # Errors
    /// [`EngineError::Native`] when MLX refuses.
    pub(super) fn update(&mut self, keys_values: &Array) -> Result<(Array, Array), MlxError> {
        let start = dim(self.cache.len)?;
        let end = dim(self.len())?;
        let buffer = match self.cache.buffers.get(self.staged.len()) {
            Some(old) if self.len() <= self.cache.allocated => old
                .try_index_update((.., start..end, ..), keys_values, UpdateMode::Replace)
                .map_err(|error| EngineError::Native(format!("MLX: {error}")))?,
            old => self.grow(old, keys_values)?,
        };
        let heads = dim(self.cache.layout.kv_heads)?;
        let keys = buffer.try_index((..heads, ..end, ..))?;
        let values = buffer.try_index((heads.., ..end, ..))?;
        self.staged.push(buffer);
        Ok((keys, values))
    }

    /// The staged buffers, once every layer has been updated.
    pub(super) fn finish(self) -> Staged {
        Staged { len: self.len(), allocated: self.allocated(), buffers: self.staged }
    }

    /// Tokens after the append.
    pub(super) fn len(&self) -> usize {
        self.cache.len + self.new
    }

    fn allocated(&self) -> usize {
        self.cache.allocated.max(self.len().next_multiple_of(STEP_TOKENS))
    }

    /// A larger buffer: the old tokens, the new ones, and room.
    fn grow(&self, old: Option<&Array>, keys_values: &Array) -> Result<Array, MlxError> {
        let Layout { kv_heads, head_dim, dtype, .. } = self.cache.layout;
        let room = [dim(2 * kv_heads)?, dim(self.allocated() - self.len())?, dim(head_dim)?];
        let room = ops::zeros_dtype(&room, dtype)?;
        Ok(match old {
            Some(old) if self.cache.len > 0 => {
                let kept = old.try_index((.., ..dim(self.cache.len)?, ..))?;
                ops::concatenate(&[&kept, keys_values, &room], 1)?
            }
            _ => ops::concatenate(&[keys_values, &room], 1)?,
        })
    }
}
