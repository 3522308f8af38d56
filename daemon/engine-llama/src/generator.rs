//! The llama.cpp generator: sequences, ragged batches and passes in flight.
//!
//! Owns the sequences of one llama.cpp context, which share its KV cache as one pool, and the
//! places of unread logits. Does not know architectures or requests.

use std::collections::BTreeMap;

use llama_guard::{Context, ErrorKind, Pass, Stop};

use crate::error::native;
use ingle_engine::backend::{
    Capacity, Generator, IsWanted, ModelInfo, Row, SeqId, Ticket, TrimOutcome, check_len,
    check_rows, not_open,
};
use ingle_engine::error::EngineError;
use ingle_engine::passes::Passes;
use ingle_engine::sampling::{SampleSpec, SampledToken};

/// The capacity and abilities of a context.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Maximum tokens of one sequence.
    pub(super) context_tokens: usize,
    /// Maximum number of sequences.
    pub(super) sequences: usize,
    /// Maximum tokens of one call of llama.cpp.
    pub(super) batch_tokens: usize,
    /// Whether a sequence can be trimmed. Recurrent states cannot go back.
    pub(super) cuts: bool,
    /// Whether the model has a state of fixed size instead of a KV cache.
    pub(super) has_state_only: bool,
}

/// A model, its context and its sequences.
pub(super) struct LlamaGenerator {
    context: Context,
    info: ModelInfo,
    shape: Shape,
    sequences: BTreeMap<SeqId, Sequence>,
    /// llama.cpp's numbers of unused sequences.
    free: Vec<i32>,
    /// Passes in flight, with the logits of the rows that want them, in row order.
    passes: Passes<Vec<Logits>>,
    next_id: u64,
    batch: Batch,
}

#[derive(Debug, Clone, Copy)]
struct Sequence {
    /// llama.cpp's number.
    slot: i32,
    /// Its tokens in the KV cache.
    len: usize,
    /// Whether its content is unknown after a pass failed half way: it can only be closed.
    is_lost: bool,
}

/// The place of a row's logits.
enum Logits {
    /// In llama.cpp's buffers, for that token of its last batch.
    At(usize),
    /// Copied, because another batch followed.
    Copied(Vec<f32>),
}

/// The arrays of one batch, kept for the next.
#[derive(Default)]
struct Batch {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    slots: Vec<i32>,
    wanted: Vec<i8>,
}

impl LlamaGenerator {
    /// A generator without sequences.
    pub(super) fn new(context: Context, info: ModelInfo, shape: Shape) -> Self {
        let slots = i32::try_from(shape.sequences).unwrap_or(i32::MAX);
        Self {
            context,
            info,
            shape,
            sequences: BTreeMap::new(),
            free: (0..slots).rev().collect(),
            passes: Passes::new(),
            next_id: 0,
            batch: Batch::default(),
        }
    }

    fn sequence(&self, seq: SeqId) -> Result<Sequence, EngineError> {
        let sequence = self.sequences.get(&seq).copied();
        let sequence = sequence.ok_or_else(|| not_open(seq))?;
        if sequence.is_lost {
            return Err(problem(format!("sequence {} was lost with a failed pass", seq.0)));
        }
        Ok(sequence)
    }

    fn sequence_with(&self, seq: SeqId, len: usize) -> Result<Sequence, EngineError> {
        let sequence = self.sequence(seq)?;
        check_len(seq, sequence.len, len)?;
        Ok(sequence)
    }

    fn insert(&mut self, len: usize, slot: i32) -> SeqId {
        self.next_id += 1;
        let seq = SeqId(self.next_id);
        self.sequences.insert(seq, Sequence { slot, len, is_lost: false });
        seq
    }

    fn take_slot(&mut self) -> Result<i32, EngineError> {
        let full = EngineError::NoCapacity { sequences: self.shape.sequences };
        self.free.pop().ok_or(full)
    }

    /// Runs all rows, in as many batches as they need. The sequences' lengths are left alone.
    fn run(
        &mut self,
        rows: &[Row<'_>],
        stop: Option<Stop<'_>>,
    ) -> Result<(Vec<Logits>, Vec<usize>), EngineError> {
        // The next batch overwrites unread logits, so they are copied first.
        for logits in self.passes.logits_mut() {
            copy_logits(&mut self.context, logits)?;
        }
        let (mut logits, mut positions) = (Vec::new(), Vec::new());
        self.batch.clear();
        for row in rows {
            let sequence = self.sequence(row.seq)?;
            let last = row.tokens.len() - 1;
            for (index, &token) in row.tokens.iter().enumerate() {
                if self.batch.tokens.len() == self.shape.batch_tokens {
                    self.run_batch(stop)?;
                    copy_logits(&mut self.context, &mut logits)?;
                    self.batch.clear();
                }
                let position = sequence.len + index;
                let is_wanted = row.wants_logits && index == last;
                if is_wanted {
                    logits.push(Logits::At(self.batch.tokens.len()));
                    positions.push(position);
                }
                self.batch.push(token, position, sequence.slot, is_wanted)?;
            }
        }
        self.run_batch(stop)?;
        Ok((logits, positions))
    }

    fn run_batch(&mut self, stop: Option<Stop<'_>>) -> Result<(), EngineError> {
        let Batch { tokens, positions, slots, wanted } = &self.batch;
        let ran = self.context.run(Pass::Decode, tokens, positions, slots, wanted, stop);
        ran.map_err(|error| match error.kind {
            ErrorKind::Cancelled => EngineError::Cancelled,
            ErrorKind::Full => EngineError::KvFull { tokens: self.context.context_tokens() },
            _ => native(error),
        })
    }

    /// Runs one forward pass, and abandons it once `stop` says so.
    fn pass(&mut self, rows: &[Row<'_>], stop: Option<Stop<'_>>) -> Result<Ticket, EngineError> {
        let Capacity { context_tokens, .. } = self.capacity();
        let len_of = |seq| Ok(self.sequence(seq)?.len);
        check_rows(rows, self.info.vocab_size, context_tokens, len_of)?;
        let (logits, positions) = match self.run(rows, stop) {
            Ok(ran) => ran,
            Err(error) => {
                self.roll_back(rows);
                return Err(error);
            }
        };
        for row in rows {
            if let Some(sequence) = self.sequences.get_mut(&row.seq) {
                sequence.len += row.tokens.len();
            }
        }
        Ok(self.passes.insert(logits, positions))
    }

    /// Takes the rows' tokens out of the KV cache again after a pass that failed.
    fn roll_back(&mut self, rows: &[Row<'_>]) {
        for row in rows {
            let Some(sequence) = self.sequences.get_mut(&row.seq) else { continue };
            let (slot, len) = (sequence.slot, sequence.len);
            let removed = match self.context.range(slot) {
                Ok(Some((_, last))) if last >= len => {
                    matches!(self.context.remove_from(slot, len), Ok(true))
                }
                // Nothing of this pass is there.
                Ok(held) => held.map_or(0, |(_, last)| last + 1) == len,
                Err(_) => false,
            };
            sequence.is_lost |= !removed;
        }
    }
}

fn copy_logits(context: &mut Context, logits: &mut [Logits]) -> Result<(), EngineError> {
    for logits in logits {
        if let Logits::At(index) = *logits {
            *logits = Logits::Copied(context.logits(index).map_err(native)?.to_vec());
        }
    }
    Ok(())
}

impl Batch {
    fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.slots.clear();
        self.wanted.clear();
    }

    fn push(
        &mut self,
        token: u32,
        position: usize,
        slot: i32,
        is_wanted: bool,
    ) -> Result<(), EngineError> {
        let too_large = |_| problem("a token or position over 2^31".to_owned());
        self.tokens.push(i32::try_from(token).map_err(too_large)?);
        self.positions.push(i32::try_from(position).map_err(too_large)?);
        self.slots.push(slot);
        self.wanted.push(i8::from(is_wanted));
        Ok(())
    }
}

impl Generator for LlamaGenerator {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capacity(&self) -> Capacity {
        Capacity { sequences: self.shape.sequences, context_tokens: self.shape.context_tokens }
    }

    fn open(&mut self) -> Result<SeqId, EngineError> {
        let slot = self.take_slot()?;
        Ok(self.insert(0, slot))
    }

    fn fork(&mut self, seq: SeqId, len: usize) -> Result<SeqId, EngineError> {
        let source = self.sequence_with(seq, len)?;
        if !self.shape.cuts && len != source.len {
            return Err(problem(format!(
                "a recurrent model's state cannot go back from {} tokens to {len}",
                source.len
            )));
        }
        let slot = self.take_slot()?;
        let part = (len < source.len).then_some(len);
        if let Err(error) = self.context.share(source.slot, slot, part) {
            self.free.push(slot);
            return Err(native(error));
        }
        Ok(self.insert(len, slot))
    }

    fn trim(&mut self, seq: SeqId, len: usize) -> Result<TrimOutcome, EngineError> {
        let sequence = self.sequence_with(seq, len)?;
        if sequence.len == len {
            return Ok(TrimOutcome::Done);
        }
        if !self.context.remove_from(sequence.slot, len).map_err(native)? {
            return Ok(TrimOutcome::Unsupported);
        }
        if let Some(sequence) = self.sequences.get_mut(&seq) {
            sequence.len = len;
        }
        Ok(TrimOutcome::Done)
    }

    fn close(&mut self, seq: SeqId) {
        let Some(sequence) = self.sequences.remove(&seq) else { return };
        // Removing a whole sequence never fails.
        if matches!(self.context.remove_from(sequence.slot, 0), Ok(true)) {
            self.free.push(sequence.slot);
        } else {
            tracing::warn!(slot = sequence.slot, "llama.cpp could not remove a sequence");
        }
    }

    fn bytes(&self, seq: SeqId) -> u64 {
        let Some(sequence) = self.sequences.get(&seq) else { return 0 };
        let (part, whole) = if self.shape.has_state_only {
            (1, self.shape.sequences)
        } else {
            (sequence.len, self.context.context_tokens())
        };
        let bytes = u128::from(self.context.kv_bytes()) * part as u128 / whole.max(1) as u128;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    fn overhead_bytes(&self) -> u64 {
        self.context.kv_bytes() + self.context.compute_bytes()
    }

    /// The pool is allocated with the context, whatever is in it.
    fn kv_bytes(&self) -> u64 {
        self.context.kv_bytes()
    }

    fn share_cores(&mut self, shares: bool) {
        self.context.share_cores(shares);
    }

    fn forward(&mut self, rows: &[Row<'_>]) -> Result<Ticket, EngineError> {
        self.pass(rows, None)
    }

    fn can_give_up(&self) -> bool {
        // What a pass has read so far must be taken out again.
        self.shape.cuts
    }

    fn forward_while(
        &mut self,
        rows: &[Row<'_>],
        wanted: IsWanted<'_>,
    ) -> Result<Ticket, EngineError> {
        let stop = || !wanted();
        self.pass(rows, self.shape.cuts.then_some(&stop))
    }

    fn sample(&mut self, ticket: &Ticket, specs: &[SampleSpec]) -> Result<(), EngineError> {
        self.passes.sample(ticket, specs)
    }

    fn collect(
        &mut self,
        ticket: Ticket,
    ) -> Result<Vec<Result<SampledToken, EngineError>>, EngineError> {
        let pass = self.passes.take(ticket)?;
        if pass.logits.is_empty() {
            // Nothing to read, but the work must be done and its errors seen.
            self.context.synchronize().map_err(native)?;
        }
        let mut outcomes = Vec::with_capacity(pass.logits.len());
        for (index, logits) in pass.logits.iter().enumerate() {
            let logits = match logits {
                Logits::At(at) => self.context.logits(*at).map_err(native)?,
                Logits::Copied(logits) => logits,
            };
            outcomes.push(pass.draw(index, logits));
        }
        Ok(outcomes)
    }
}

fn problem(problem: String) -> EngineError {
    EngineError::Native(problem)
}
