//! A loaded model as a [`Generator`]: sequences, ragged batches, and what is in flight.
//!
//! Owns the sequences and the queued passes. Knows no architecture, and nothing of requests.

use std::collections::BTreeMap;

use mlx_rs::transforms::{async_eval, eval};
use mlx_rs::{Array, Dtype};

use super::attention::Attention;
use super::kv_cache::{KvCache, Staged};
use super::layers::padded_rows;
use super::models::{Batch, BatchRow, Model};
use super::{Device, cpu, dim};
use crate::engine::backend::{
    Capacity, EngineError, Generator, ModelInfo, Row, SeqId, Ticket, Trimmed,
};
use crate::engine::sampling::{self, SampleSpec, Sampled};

/// Open sequences of one model at most. Each has arrays of its own, so this is a bound on
/// bookkeeping; their memory is bounded elsewhere.
const MAX_SEQUENCES: usize = 256;

/// A model and its sequences.
pub(super) struct MlxGenerator {
    // Dropped in this order: arrays in flight, then caches, then weights.
    in_flight: BTreeMap<u64, Pass>,
    sequences: BTreeMap<SeqId, KvCache>,
    model: Box<dyn Model>,
    info: ModelInfo,
    context_tokens: usize,
    device: Device,
    next_id: u64,
}

/// A queued forward pass.
struct Pass {
    /// `[wanted, vocabulary]` and perhaps padding rows, or none when no row wanted logits.
    logits: Option<Array>,
    /// Position of the last token of each row that wants logits.
    positions: Vec<usize>,
    /// What to draw from each of those rows.
    specs: Vec<SampleSpec>,
    /// The sequences that took part.
    sequences: Vec<SeqId>,
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
            in_flight: BTreeMap::new(),
            sequences: BTreeMap::new(),
            model,
            info,
            context_tokens,
            device,
            next_id: 0,
        }
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn sequence(&self, seq: SeqId) -> Result<&KvCache, EngineError> {
        self.sequences.get(&seq).ok_or_else(|| native(format!("sequence {} is not open", seq.0)))
    }

    fn sequence_with(&self, seq: SeqId, len: usize) -> Result<&KvCache, EngineError> {
        let cache = self.sequence(seq)?;
        if cache.len() < len {
            return Err(native(format!(
                "sequence {} has {} tokens, {len} were asked for",
                seq.0,
                cache.len()
            )));
        }
        Ok(cache)
    }

    fn insert(&mut self, cache: KvCache) -> Result<SeqId, EngineError> {
        if self.sequences.len() >= MAX_SEQUENCES {
            return Err(EngineError::NoCapacity { sequences: MAX_SEQUENCES });
        }
        let seq = SeqId(self.next_id());
        self.sequences.insert(seq, cache);
        Ok(seq)
    }

    /// Refuses rows that the model cannot take.
    fn check(&self, rows: &[Row<'_>]) -> Result<(), EngineError> {
        if rows.is_empty() {
            return Err(native("a forward pass needs at least one row".to_owned()));
        }
        for (index, row) in rows.iter().enumerate() {
            let cache = self.sequence(row.seq)?;
            if rows[..index].iter().any(|earlier| earlier.seq == row.seq) {
                return Err(native(format!("sequence {} occurs twice in a batch", row.seq.0)));
            }
            if row.tokens.is_empty() {
                return Err(native(format!("sequence {} brings no tokens", row.seq.0)));
            }
            if cache.len() + row.tokens.len() > self.context_tokens {
                return Err(native(format!(
                    "sequence {} has {} tokens; {} more pass the limit of {}",
                    row.seq.0,
                    cache.len(),
                    row.tokens.len(),
                    self.context_tokens
                )));
            }
            // MLX does not check indices: a token past the table would read foreign memory.
            if let Some(token) = row.tokens.iter().find(|&&t| t as usize >= self.info.vocab_size) {
                return Err(native(format!(
                    "token {token} is outside the vocabulary of {}",
                    self.info.vocab_size
                )));
            }
        }
        Ok(())
    }

    /// Queues the pass; the caches are only read, so an error leaves everything as it was.
    fn queue(&self, rows: &[Row<'_>]) -> Result<(Pass, Vec<Staged>), EngineError> {
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
        let padded = padded_rows(tokens.len(), self.device);
        tokens.resize(padded, 0);
        positions.resize(padded, 0);
        wanted.resize(padded_rows(wanted.len(), self.device), 0);
        let tokens = Array::from_slice(&tokens, &[dim(padded)?]);
        let mut batch = Batch { tokens, positions, rows: batch_rows, wanted };
        let logits = self.model.forward(&mut batch)?;
        let pass = Pass {
            logits,
            positions: wanted_positions,
            specs: Vec::new(),
            sequences: rows.iter().map(|row| row.seq).collect(),
        };
        Ok((pass, batch.rows.into_iter().map(|row| row.cache.finish()).collect()))
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
        self.insert(KvCache::new(self.model.layout()))
    }

    fn fork(&mut self, seq: SeqId, len: usize) -> Result<SeqId, EngineError> {
        let forked = self.sequence_with(seq, len)?.fork(len);
        self.insert(forked)
    }

    fn trim(&mut self, seq: SeqId, len: usize) -> Result<Trimmed, EngineError> {
        self.sequence_with(seq, len)?;
        if let Some(cache) = self.sequences.get_mut(&seq) {
            cache.trim(len);
        }
        Ok(Trimmed::Done)
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
        self.check(rows)?;
        let (pass, staged) = self.queue(rows)?;
        let before = rows
            .iter()
            .map(|row| Ok((row.seq, self.sequence(row.seq)?.len())))
            .collect::<Result<Vec<_>, EngineError>>()?;
        for (seq, staged) in pass.sequences.iter().zip(staged) {
            if let Some(cache) = self.sequences.get_mut(seq) {
                cache.commit(staged);
            }
        }
        let caches = pass
            .sequences
            .iter()
            .filter_map(|seq| self.sequences.get(seq).and_then(KvCache::last_buffer));
        if let Err(error) = async_eval(pass.logits.iter().chain(caches)) {
            for (seq, len) in before {
                if let Some(cache) = self.sequences.get_mut(&seq) {
                    cache.trim(len);
                }
            }
            return Err(error.into());
        }
        let id = self.next_id();
        self.in_flight.insert(id, pass);
        Ok(Ticket(id))
    }

    fn sample(&mut self, ticket: &Ticket, specs: &[SampleSpec]) -> Result<(), EngineError> {
        let pass = self
            .in_flight
            .get_mut(&ticket.0)
            .ok_or_else(|| native(format!("pass {} is not in flight", ticket.0)))?;
        if specs.len() != pass.positions.len() {
            return Err(native(format!(
                "{} rows want logits, {} sampler settings were given",
                pass.positions.len(),
                specs.len()
            )));
        }
        pass.specs = specs.to_vec();
        Ok(())
    }

    fn collect(
        &mut self,
        ticket: Ticket,
    ) -> Result<Vec<Result<Sampled, EngineError>>, EngineError> {
        let pass = self
            .in_flight
            .remove(&ticket.0)
            .ok_or_else(|| native(format!("pass {} is not in flight", ticket.0)))?;
        let Some(logits) = pass.logits else {
            // Nothing to read, but the work must be done and its errors seen.
            let caches = pass.sequences.iter().filter_map(|seq| self.sequences.get(seq));
            eval(caches.filter_map(KvCache::last_buffer))?;
            return Ok(Vec::new());
        };
        if pass.specs.len() != pass.positions.len() {
            return Err(native("the pass has logits, but no sampling was queued".to_owned()));
        }
        let logits = logits.as_dtype(Dtype::Float32)?.contiguous()?;
        logits.eval()?;
        let values = logits
            .try_as_slice::<f32>()
            .map_err(|error| native(format!("cannot read the logits: {error}")))?;
        let rows = values.chunks_exact(self.info.vocab_size);
        let outcomes = rows
            .zip(&pass.specs)
            .zip(&pass.positions)
            .map(|((row, spec), &position)| {
                sampling::sample(row, spec)
                    .map_err(|error| EngineError::NotFinite { what: error.what, position })
            })
            .collect();
        Ok(outcomes)
    }
}

fn native(problem: String) -> EngineError {
    EngineError::Native(problem)
}
