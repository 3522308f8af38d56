//! The MLX embedder: texts in padded batches, and the pooling of their token vectors.
//!
//! Owns the batching and the pooling. Does not know architectures or requests.

use std::ops::Range;

use crate::limits;
use mlx_rs::{Array, Dtype, ops};

use super::cpu;
use super::models::{Encoder, TextBatch};
use crate::device::{Device, dim};
use crate::error::MlxError;
use ingle_engine::backend::{Embedder, ModelInfo, check_text, normalized};
use ingle_engine::error::EngineError;
use ingle_formats::hf::{ModelFolder, Pooling};

/// What is added to the scores of padding: little enough that its weight is nothing next to any
/// other's, and a number in every type that models compute in.
const MASKED: f32 = -30_000.0;

/// A model that embeds.
pub(super) struct MlxEmbedder {
    encoder: Box<dyn Encoder>,
    info: ModelInfo,
    pooling: Pooling,
    context_tokens: usize,
    pass_bytes: u64,
    device: Device,
}

/// Bytes of what a pass over a folder's model computes on the way, at most: what a layer has at one
/// time, and the attention scores twice. A config that does not say costs the number only.
#[must_use]
pub(super) fn pass_bytes(folder: &ModelFolder) -> u64 {
    let size = |key: &str| folder.config().size_opt(key).ok().flatten().unwrap_or(0) as u64;
    let context = folder.context_tokens().unwrap_or(0) as u64;
    // A single text is never split.
    let tokens = (limits::EMBED_PASS_TOKENS as u64).max(context);
    let layer = (8 * size("hidden_size")).saturating_add(3 * size("intermediate_size"));
    let scores = size("num_attention_heads").saturating_mul(context).saturating_mul(2);
    tokens.saturating_mul(layer.saturating_add(scores)).saturating_mul(4)
}

impl MlxEmbedder {
    /// An embedder of texts of `context_tokens` tokens at most, which takes `pass_bytes` bytes
    /// besides its weights.
    pub(super) fn new(
        encoder: Box<dyn Encoder>,
        info: ModelInfo,
        pooling: Pooling,
        (context_tokens, pass_bytes): (usize, u64),
        device: Device,
    ) -> Self {
        Self { encoder, info, pooling, context_tokens, pass_bytes, device }
    }

    /// The vectors of texts that share a pass, before they are brought to length 1.
    fn pass(&self, texts: &[&[u32]]) -> Result<Vec<f32>, MlxError> {
        let len = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut tokens = vec![0_u32; texts.len() * len];
        for (row, text) in tokens.chunks_exact_mut(len.max(1)).zip(texts) {
            row[..text.len()].copy_from_slice(text);
        }
        let (count, padded) = (dim(texts.len())?, dim(len)?);
        let is_padded = texts.iter().any(|text| text.len() < len);
        let per_token = |value: &dyn Fn(&[u32], usize) -> f32| {
            let values = texts.iter().flat_map(|text| (0..len).map(|at| value(text, at)));
            values.collect::<Vec<f32>>()
        };
        let padding = |text: &[u32], at: usize| if at < text.len() { 0.0 } else { MASKED };
        let mask =
            is_padded.then(|| Array::from_slice(&per_token(&padding), &[count, 1, 1, padded]));
        let mut batch = TextBatch {
            texts: count,
            len: padded,
            tokens: Array::from_slice(&tokens, &[dim(tokens.len())?]),
            mask: None,
        };
        if let Some(mask) = &mask {
            batch.mask = Some(mask.as_dtype(self.encoder.dtype())?);
        }
        let vectors = self.encoder.forward(&batch)?.as_dtype(Dtype::Float32)?;
        let pooled = match self.pooling {
            Pooling::Mean => {
                #[expect(clippy::cast_precision_loss, reason = "some hundreds of tokens")]
                let share = |text: &[u32], at: usize| {
                    if at < text.len() { 1.0 / text.len() as f32 } else { 0.0 }
                };
                let shares = Array::from_slice(&per_token(&share), &[count, 1, padded]);
                ops::matmul(shares, vectors)?
            }
            Pooling::Cls => vectors.take_axis(Array::from_int(0), 1)?,
            Pooling::Max => match mask {
                Some(mask) => {
                    let mask = mask.reshape(&[count, padded, 1])?;
                    vectors.add(mask)?.max_axis(1, None)?
                }
                None => vectors.max_axis(1, None)?,
            },
        };
        let pooled = pooled.contiguous()?;
        pooled.eval()?;
        match pooled.try_as_slice::<f32>() {
            Ok(values) => Ok(values.to_vec()),
            Err(error) => {
                Err(EngineError::Native(format!("cannot read the vectors: {error}")).into())
            }
        }
    }
}

impl Embedder for MlxEmbedder {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    fn dimensions(&self) -> usize {
        self.encoder.dimensions()
    }

    fn overhead_bytes(&self) -> u64 {
        self.pass_bytes
    }

    fn share_cores(&mut self, shares: bool) {
        if self.device == Device::Cpu {
            cpu::share_cores(shares);
        }
    }

    fn embed(&mut self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, EngineError> {
        for text in texts {
            check_text(text, self.info.vocab_size, self.context_tokens)?;
        }
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&index| texts[index].len());
        let lengths: Vec<usize> = order.iter().map(|&index| texts[index].len()).collect();
        let mut vectors = vec![Vec::new(); texts.len()];
        for range in batches(&lengths) {
            let members = &order[range];
            let batch: Vec<&[u32]> = members.iter().map(|&index| texts[index]).collect();
            let values = self.pass(&batch)?;
            for (&index, vector) in members.iter().zip(values.chunks_exact(self.dimensions())) {
                vectors[index] = normalized(vector)?;
            }
        }
        Ok(vectors)
    }
}

/// Which texts of ascending `lengths` share a pass: [`limits::EMBED_PASS_TOKENS`] tokens at most,
/// padding included, unless one text alone has more; and of them a share of
/// [`limits::EMBED_PADDING_PERCENT`] at most is padding.
fn batches(lengths: &[usize]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (end, &len) in lengths.iter().enumerate() {
        let padded = (end - start + 1) * len;
        let padding = padded - (tokens + len);
        let fits = padded <= limits::EMBED_PASS_TOKENS
            && padding * 100 <= padded * limits::EMBED_PADDING_PERCENT;
        if end > start && !fits {
            batches.push(start..end);
            (start, tokens) = (end, 0);
        }
        tokens += len;
    }
    if start < lengths.len() {
        batches.push(start..lengths.len());
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_bounded_and_every_text_is_in_one_batch() {
        let mixed: Vec<usize> = (0..200).map(|index| 1 + index * index / 100).collect();
        for (lengths, count) in [
            (vec![], Some(0)),
            (vec![700], Some(1)),
            (vec![4; 128], Some(1)),
            (vec![4; 129], Some(2)),
            (vec![3, 3, 300], Some(2)),
            (vec![9, 10, 11], Some(1)),
            (mixed, None),
        ] {
            let batches = batches(&lengths);
            assert!(count.is_none_or(|count| count == batches.len()), "{lengths:?}: {batches:?}");
            let members: Vec<usize> = batches.iter().cloned().flatten().collect();
            assert_eq!(members, (0..lengths.len()).collect::<Vec<_>>());
            for batch in batches {
                let (count, longest) = (batch.len(), lengths[batch.end - 1]);
                let tokens: usize = lengths[batch].iter().sum();
                let padding = count * longest - tokens;
                assert!(count == 1 || count * longest <= limits::EMBED_PASS_TOKENS);
                assert!(padding * 100 <= count * longest * limits::EMBED_PADDING_PERCENT);
            }
        }
    }
}
