//! Engine traits: the narrow interface between scheduling and numerics.
//!
//! Owns the traits that every engine implements, and the plain types that cross them. Does not know
//! requests, text, queues or clocks: a generator sees sequences of token ids and nothing else.
//! Everything here is used on the engine thread only; none of it is required to be `Send`.

use crate::error::EngineError;
use crate::sampling::{SampleSpec, SampledToken};
use crate::tensor::HostTensor;

/// Names one sequence (one conversation's KV cache) inside one [`Generator`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u64);

/// One sequence's share of a forward pass: a prefill chunk or a single decode token.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The sequence the tokens are appended to.
    pub seq: SeqId,
    /// Token ids, at least one; they take the positions after the sequence's present length.
    pub tokens: &'a [u32],
    /// Whether the logits of the last token are wanted. Only such rows can be sampled.
    pub wants_logits: bool,
}

/// A queued forward pass. It is consumed by [`Generator::collect`].
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// The outcome of [`Generator::trim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrimOutcome {
    /// The sequence now has the requested length.
    Done,
    /// This engine or architecture cannot trim; the sequence is unchanged.
    Unsupported,
}

/// The capacity of one generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Maximum number of open sequences.
    pub sequences: usize,
    /// Maximum tokens of one sequence, prompt and output together.
    pub context_tokens: usize,
}

/// Description of a loaded model, for status and for checks before a request is queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Architecture in its format's own name, such as `llama`.
    pub architecture: String,
    /// Rows of the output head.
    pub vocab_size: usize,
    /// Bytes the weights take in the engine.
    pub weight_bytes: u64,
}

/// Tells whether a pass is still wanted; called thousands of times a second during the pass.
pub type IsWanted<'a> = &'a (dyn Fn() -> bool + Sync);

/// A loaded text-generation model: owns sequences and runs forward passes over them.
///
/// One step is `forward` (queue the work), `sample` (may stay on the device) and `collect` (wait).
/// A `forward` without any row that wants logits is collected too, with an empty result, so that
/// its work is finished and its errors are seen.
pub trait Generator {
    /// Description of the model.
    fn info(&self) -> &ModelInfo;

    /// Capacity of the generator.
    fn capacity(&self) -> Capacity;

    /// Opens an empty sequence.
    ///
    /// # Errors
    /// [`EngineError::NoCapacity`] when all sequences are in use.
    fn open(&mut self) -> Result<SeqId, EngineError>;

    /// Opens a sequence that starts as the first `len` tokens of `seq`.
    ///
    /// # Errors
    /// [`EngineError::NoCapacity`] when all sequences are in use; [`EngineError::Native`] when
    /// `seq` is unknown or shorter than `len`.
    fn fork(&mut self, seq: SeqId, len: usize) -> Result<SeqId, EngineError>;

    /// Trims `seq` to its first `len` tokens.
    ///
    /// # Errors
    /// [`EngineError::Native`] when `seq` is unknown or shorter than `len`.
    fn trim(&mut self, seq: SeqId, len: usize) -> Result<TrimOutcome, EngineError>;

    /// Closes a sequence and drops its KV cache.
    ///
    /// Unknown ids are ignored, so that cleanup can be repeated.
    fn close(&mut self, seq: SeqId);

    /// Bytes held by one sequence's KV cache; 0 for an unknown id.
    fn bytes(&self, seq: SeqId) -> u64;

    /// Bytes held for the KV caches of all sequences, unused ones included.
    fn kv_bytes(&self) -> u64;

    /// Bytes by which a sequence grows with each token.
    ///
    /// 0 when the engine allocates the memory of its whole context up front.
    fn kv_bytes_per_token(&self) -> u64 {
        0
    }

    /// Bytes held besides weights and sequences: buffers, a context allocated up front.
    fn overhead_bytes(&self) -> u64 {
        0
    }

    /// Sets whether the engine leaves a core free for other work, such as a loader thread.
    ///
    /// In an engine whose threads wait for each other, one delayed thread slows all of them down.
    fn share_cores(&mut self, _shares: bool) {}

    /// Queues one forward pass over a ragged batch. No sequence may appear twice in `rows`.
    ///
    /// # Errors
    /// [`EngineError::Native`] when the numerics fail, and [`EngineError::KvFull`] when the KV
    /// cache cannot hold the tokens; no sequence has advanced then.
    fn forward(&mut self, rows: &[Row<'_>]) -> Result<Ticket, EngineError>;

    /// Whether [`Generator::forward_while`] can abandon a pass half way.
    fn can_give_up(&self) -> bool {
        false
    }

    /// As [`Generator::forward`], but abandons a pass that is no longer `wanted`, if possible.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] when it was abandoned; no sequence has advanced then either.
    fn forward_while(
        &mut self,
        rows: &[Row<'_>],
        _wanted: IsWanted<'_>,
    ) -> Result<Ticket, EngineError> {
        self.forward(rows)
    }

    /// Queues sampling of the ticket's rows that want logits, in row order, one spec each.
    ///
    /// # Errors
    /// [`EngineError::Native`] when the numerics fail or the counts differ.
    fn sample(&mut self, ticket: &Ticket, specs: &[SampleSpec]) -> Result<(), EngineError>;

    /// Waits for the pass, and returns one outcome per row that wanted logits, in row order.
    ///
    /// The failure of one row, such as non-finite logits, does not affect the others.
    ///
    /// # Errors
    /// An error for the pass as a whole: every row of it failed.
    fn collect(
        &mut self,
        ticket: Ticket,
    ) -> Result<Vec<Result<SampledToken, EngineError>>, EngineError>;
}

/// Refuses rows that exceed the vocabulary or the capacity of a model.
///
/// `len_of` returns the length of an open sequence.
///
/// # Errors
/// [`EngineError::Native`] naming the sequence or token, and the errors of `len_of`.
pub fn check_rows(
    rows: &[Row<'_>],
    vocab_size: usize,
    context_tokens: usize,
    len_of: impl Fn(SeqId) -> Result<usize, EngineError>,
) -> Result<(), EngineError> {
    let refused = |problem| Err(EngineError::Native(problem));
    if rows.is_empty() {
        return refused("a forward pass needs at least one row".to_owned());
    }
    for (index, row) in rows.iter().enumerate() {
        let (seq, len, new) = (row.seq.0, len_of(row.seq)?, row.tokens.len());
        if rows[..index].iter().any(|earlier| earlier.seq == row.seq) {
            return refused(format!("sequence {seq} occurs twice in a batch"));
        }
        if row.tokens.is_empty() {
            return refused(format!("sequence {seq} has no new tokens"));
        }
        if len + new > context_tokens {
            return refused(format!(
                "sequence {seq} has {len} tokens; {new} more pass the limit of {context_tokens}"
            ));
        }
        // Engines do not check indices: a token past the table would read out of bounds.
        if let Some(token) = row.tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return refused(format!("token {token} is outside the vocabulary of {vocab_size}"));
        }
    }
    Ok(())
}

/// Refuses a text that exceeds the vocabulary or the context of an embedding model.
///
/// # Errors
/// [`EngineError::Native`] naming the length or the token.
pub fn check_text(
    text: &[u32],
    vocab_size: usize,
    context_tokens: usize,
) -> Result<(), EngineError> {
    let len = text.len();
    if len == 0 || len > context_tokens {
        let problem = format!("a text of {len} tokens, expected 1 to {context_tokens}");
        return Err(EngineError::Native(problem));
    }
    match text.iter().find(|&&token| token as usize >= vocab_size) {
        Some(token) => Err(EngineError::Native(format!(
            "token {token} is outside the vocabulary of {vocab_size}"
        ))),
        None => Ok(()),
    }
}

/// Scales a vector to length 1.
///
/// # Errors
/// [`EngineError::Native`] when its length is 0 or not finite.
#[expect(clippy::cast_possible_truncation, reason = "numbers up to 1")]
pub fn normalized(vector: &[f32]) -> Result<Vec<f32>, EngineError> {
    let squares: f64 = vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    if !squares.is_finite() || squares <= 0.0 {
        let problem = "the model produced a vector without a direction";
        return Err(EngineError::Native(problem.to_owned()));
    }
    let length = squares.sqrt();
    Ok(vector.iter().map(|&value| (f64::from(value) / length) as f32).collect())
}

/// The error for a sequence that is not open.
#[must_use]
pub fn not_open(seq: SeqId) -> EngineError {
    EngineError::Native(format!("sequence {} is not open", seq.0))
}

/// Refuses to trim or fork a sequence of `len` tokens at `wanted` if it is shorter.
///
/// # Errors
/// [`EngineError::Native`] naming both lengths.
pub fn check_len(seq: SeqId, len: usize, wanted: usize) -> Result<(), EngineError> {
    if len >= wanted {
        return Ok(());
    }
    let seq = seq.0;
    Err(EngineError::Native(format!("sequence {seq} has {len} tokens, expected at least {wanted}")))
}

/// A loaded model that turns texts into vectors. It keeps no state between two calls.
pub trait Embedder {
    /// Description of the model.
    fn info(&self) -> &ModelInfo;

    /// Maximum tokens of one text.
    fn context_tokens(&self) -> usize;

    /// Dimensions of a vector.
    fn dimensions(&self) -> usize;

    /// Bytes held besides the weights.
    fn overhead_bytes(&self) -> u64;

    /// As [`Generator::share_cores`].
    fn share_cores(&mut self, _shares: bool) {}

    /// The vectors of `texts`, in their order, each of length 1.
    ///
    /// The vector of a text does not depend on the texts embedded with it.
    ///
    /// # Errors
    /// [`EngineError::Native`] when a text is empty or too long, or the numerics fail.
    fn embed(&mut self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, EngineError>;
}

/// Builds an embedder on the engine thread, as [`Builder`] builds a generator.
///
/// A model that the loader thread builds as a whole gets no tensors.
pub trait EmbedderBuilder {
    /// As [`Builder::adopt`].
    ///
    /// # Errors
    /// The same.
    fn adopt(&mut self, _tensor: HostTensor) -> Result<(), EngineError> {
        Ok(())
    }

    /// As [`Builder::advance`].
    ///
    /// # Errors
    /// The same.
    fn advance(&mut self, _has_all: bool) -> Result<bool, EngineError> {
        Ok(true)
    }

    /// Returns the model at the end of the load.
    ///
    /// # Errors
    /// When there is no model, and as [`Builder::finish`].
    fn finish(self: Box<Self>) -> Result<Box<dyn Embedder>, EngineError>;
}

/// Builds a generator on the engine thread, from tensors in any order.
///
/// The loader thread reads and converts; [`Builder::adopt`] only passes plain memory to the engine,
/// so that the scheduler can adopt a few tensors between two decode steps of other models.
pub trait Builder {
    /// Adopts one tensor.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when its name, shape or type is not what the architecture
    /// expects.
    fn adopt(&mut self, tensor: HostTensor) -> Result<(), EngineError>;

    /// Does some milliseconds of the work that adoption has left.
    ///
    /// Other models' streams go on in between. `has_all` says that no tensor follows. Returns true
    /// when no work is left for now.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] naming the first missing tensor.
    fn advance(&mut self, _has_all: bool) -> Result<bool, EngineError> {
        Ok(true)
    }

    /// Checks that no tensor is missing, does the remaining work, and returns the model.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] naming the first missing tensor.
    fn finish(self: Box<Self>) -> Result<Box<dyn Generator>, EngineError>;
}
