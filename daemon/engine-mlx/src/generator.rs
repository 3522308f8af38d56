//! The MLX generator: sequences, ragged batches and passes in flight.
//!
//! Owns the sequences and the queued passes. Does not know architectures or requests.

use std::collections::BTreeMap;

use mlx_rs::transforms::{async_eval, eval};
use mlx_rs::{Array, Dtype};

use super::attention::Attention;
use super::cpu;
use super::kv_cache::{KvCache, Staged};
use super::layers::padded_rows;
use super::models::{Batch, BatchRow, IsWanted, Model};
use crate::device::{Device, dim};
use crate::error::MlxError;
use ingle_engine::backend::{
    Capacity, Generator, ModelInfo, Row, SeqId, Ticket, TrimOutcome, check_len, check_rows,
    not_open,
};
use ingle_engine::error::EngineError;
use ingle_engine::passes::{Pass, Passes};
use ingle_engine::sampling::{SampleSpec, SampledToken};

/// Open sequences of one model at most. Each has arrays of its own, so this is a bound on
/// bookkeeping; their memory is bounded elsewhere.
const MAX_SEQUENCES: usize = 256;

/// A model and its sequences.
pub(super) struct MlxGenerator {
    // Dropped in this order: arrays in flight, then caches, then weights.
    passes: Passes<Queued>,
    sequences: BTreeMap<SeqId, KvCache>,
    model: Box<dyn Model>,
    info: ModelInfo,
    context_tokens: usize,
    device: Device,
    next_id: u64,
}

/// A queued forward pass.
struct Queued {
    /// `[wanted, vocabulary]` and perhaps padding rows, or none when no row wanted logits.
    logits: Option<Array>,
    /// The sequences that took part.
    sequences: Vec<SeqId>,
}

/// A pass that has been described to MLX and not begun.
struct Graph {
    /// As [`Queued::logits`].
    logits: Option<Array>,
    /// Position of the last token of each row that wants logits.
    positions: Vec<usize>,
    /// What each row's cache becomes.
    staged: Vec<Staged>,
}

impl MlxGenerator {
    /// A generator without sequences.
    pub(super) fn new(
        model: Box<dyn Model>,
        info: ModelInfo,
        context_tokens: usize,
        device: Device,
    ) -> Self {
        Self {
            passes: Passes::new(),
            sequences: BTreeMap::new(),
            model,
            info,
            context_tokens,
            device,
            next_id: 0,
        }
    }

    fn sequence(&self, seq: SeqId) -> Result<&KvCache, MlxError> {
        self.sequences.get(&seq).ok_or_else(|| not_open(seq).into())
    }

    fn sequence_with(&self, seq: SeqId, len: usize) -> Result<&KvCache, MlxError> {
        let cache = self.sequence(seq)?;
        check_len(seq, cache.len(), len)?;
        Ok(cache)
    }

    fn insert(&mut self, cache: KvCache) -> Result<SeqId, MlxError> {
        if self.sequences.len() >= MAX_SEQUENCES {
            return Err(EngineError::NoCapacity { sequences: MAX_SEQUENCES }.into());
        }
        self.next_id += 1;
        let seq = SeqId(self.next_id);
        self.sequences.insert(seq, cache);
        Ok(seq)
    }

    /// Queues the pass; the caches are only read, so an error leaves everything as it was.
    fn queue(&self, rows: &[Row<'_>]) -> Result<Graph, MlxError> {
        let mut tokens: Vec<u32> = Vec::new();
        let mut batch_rows = Vec::with_capacity(rows.len());
        let mut positions = Vec::new();
        let mut wanted = Vec::new();
        let mut wanted_positions = Vec::new();
        for row in rows {
            let cache = self.sequence(row.seq)?;
            let start = tokens.len();
            tokens.extend_from_slice(row.tokens);
            let new = row.tokens.len();
            let len = cache.len() + new;
            positions.extend(cache.len()..len);
            if row.wants_logits {
                wanted.push(u32::try_from(tokens.len() - 1).unwrap_or(u32::MAX));
                wanted_positions.push(len - 1);
            }
            batch_rows.push(BatchRow {
                start: dim(start)?,
                end: dim(tokens.len())?,
                cache: cache.append(new),
                attention: Attention::new(new, self.device)?,
            });
        }
        let wanted = match wanted.len() {
            0 => IsWanted::Nothing,
            len if len == tokens.len() => IsWanted::All,
            len => {
                wanted.resize(padded_rows(len, self.device), 0);
                IsWanted::Some(wanted)
            }
        };
        let padded = padded_rows(tokens.len(), self.device);
        tokens.resize(padded, 0);
        positions.resize(padded, 0);
        let tokens = Array::from_slice(&tokens, &[dim(padded)?]);
        let mut batch = Batch { tokens, positions, rows: batch_rows, wanted };
        let logits = self.model.forward(&mut batch)?;
        let staged = batch.rows.into_iter().map(|row| row.cache.finish()).collect();
        Ok(Graph { logits, positions: wanted_positions, staged })
    }
}

impl Generator for MlxGenerator {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capacity(&self) -> Capacity {
        Capacity { sequences: MAX_SEQUENCES, context_tokens: self.context_tokens }
    }

    fn open(&mut self) -> Result<SeqId, EngineError> {
        Ok(self.insert(KvCache::new(self.model.layout()))?)
    }

    fn fork(&mut self, seq: SeqId, len: usize) -> Result<SeqId, EngineError> {
        let forked = self.sequence_with(seq, len)?.fork(len);
        Ok(self.insert(forked)?)
    }

    fn trim(&mut self, seq: SeqId, len: usize) -> Result<TrimOutcome, EngineError> {
        self.sequence_with(seq, len)?;
        if let Some(cache) = self.sequences.get_mut(&seq) {
            cache.trim(len);
        }
        Ok(TrimOutcome::Done)
    }

    fn close(&mut self, seq: SeqId) {
        self.sequences.remove(&seq);
    }

    fn bytes(&self, seq: SeqId) -> u64 {
        self.sequences.get(&seq).map_or(0, KvCache::bytes)
    }

    fn kv_bytes(&self) -> u64 {
        self.sequences.values().map(KvCache::bytes).sum()
    }

    fn kv_bytes_per_token(&self) -> u64 {
        self.model.layout().bytes_per_token()
    }

    /// The threads are the process's, so that each model tells them the same.
    fn share_cores(&mut self, shares: bool) {
        if self.device == Device::Cpu {
            cpu::share_cores(shares);
        }
    }

    fn forward(&mut self, rows: &[Row<'_>]) -> Result<Ticket, EngineError> {
        let len_of = |seq| Ok(self.sequence(seq)?.len());
        check_rows(rows, self.info.vocab_size, self.context_tokens, len_of)?;
        let Graph { logits, positions, staged } = self.queue(rows)?;
        let mut written = Vec::with_capacity(rows.len());
        for (row, staged) in rows.iter().zip(staged) {
            if let Some(cache) = self.sequences.get_mut(&row.seq) {
                cache.commit(staged);
                written.extend(cache.last_buffer().cloned());
            }
        }
        if let Err(error) = async_eval(logits.iter().chain(&written)) {
            for row in rows {
                if let Some(cache) = self.sequences.get_mut(&row.seq) {
                    cache.trim(cache.len() - row.tokens.len());
                }
            }
            return Err(MlxError::from(error).into());
        }
        let sequences = rows.iter().map(|row| row.seq).collect();
        Ok(self.passes.insert(Queued { logits, sequences }, positions))
    }

    fn sample(&mut self, ticket: &Ticket, specs: &[SampleSpec]) -> Result<(), EngineError> {
        self.passes.sample(ticket, specs)
    }

    fn collect(
        &mut self,
        ticket: Ticket,
    ) -> Result<Vec<Result<SampledToken, EngineError>>, EngineError> {
        let pass = self.passes.take(ticket)?;
        Ok(self.draw(&pass)?)
    }
}

impl MlxGenerator {
    /// Draws a token for each row of the pass that wants logits.
    fn draw(
        &self,
        pass: &Pass<Queued>,
    ) -> Result<Vec<Result<SampledToken, EngineError>>, MlxError> {
        let Some(logits) = &pass.logits.logits else {
            // Nothing to read, but the work must be done and its errors seen.
            let caches = pass.logits.sequences.iter().filter_map(|seq| self.sequences.get(seq));
            eval(caches.filter_map(KvCache::last_buffer))?;
            return Ok(Vec::new());
        };
        let logits = logits.as_dtype(Dtype::Float32)?.contiguous()?;
        logits.eval()?;
        let values = logits
            .try_as_slice::<f32>()
            .map_err(|error| native(format!("cannot read the logits: {error}")))?;
        let rows = values.chunks_exact(self.info.vocab_size).take(pass.wanted());
        Ok(rows.enumerate().map(|(index, row)| pass.draw(index, row)).collect())
    }
}

fn native(problem: String) -> EngineError {
    EngineError::Native(problem)
}
