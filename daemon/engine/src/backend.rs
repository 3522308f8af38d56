//! The narrow edge between scheduling and numerics.
//!
//! Owns the traits every engine implements and the plain types that cross them. Knows nothing of
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

/// Whether a sequence could be cut back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrimOutcome {
    /// The sequence now has the asked-for length.
    Done,
    /// This engine or architecture cannot cut; the sequence is unchanged.
    Unsupported,
}

/// How much one generator can take at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Open sequences at most.
    pub sequences: usize,
    /// Tokens of one sequence at most (prompt and output together).
    pub context_tokens: usize,
}

/// What a loaded model is, for status and for checks before a request is queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Architecture in its format's own name, such as `llama`.
    pub architecture: String,
    /// Rows of the output head.
    pub vocab_size: usize,
    /// Bytes the weights take in the engine.
    pub weight_bytes: u64,
}

/// Whether a pass is still wanted. Asked thousands of times a second while it goes on.
pub type IsWanted<'a> = &'a (dyn Fn() -> bool + Sync);

/// A loaded text-generation model: owns sequences and runs forward passes over them.
///
/// One step is `forward` (queue the work), `sample` (may stay on the device) and `collect` (wait).
/// A `forward` without any row that wants logits is collected too, with an empty result, so that
/// its work is finished and its errors are seen.
pub trait Generator {
    /// What the model is.
    fn info(&self) -> &ModelInfo;

    /// What it can take.
    fn capacity(&self) -> Capacity;

    /// Opens an empty sequence.
    ///
    /// # Errors
    /// [`EngineError::NoCapacity`] when all sequences are taken.
    fn open(&mut self) -> Result<SeqId, EngineError>;

    /// Opens a sequence that starts as the first `len` tokens of `seq`.
    ///
    /// # Errors
    /// [`EngineError::NoCapacity`] when all sequences are taken; [`EngineError::Native`] when
    /// `seq` is unknown or shorter than `len`.
    fn fork(&mut self, seq: SeqId, len: usize) -> Result<SeqId, EngineError>;

    /// Cuts `seq` back to its first `len` tokens.
    ///
    /// # Errors
    /// [`EngineError::Native`] when `seq` is unknown or shorter than `len`.
    fn trim(&mut self, seq: SeqId, len: usize) -> Result<TrimOutcome, EngineError>;

    /// Drops a sequence and its KV cache. Unknown ids are ignored, so that cleanup can be repeated.
    fn close(&mut self, seq: SeqId);

    /// Bytes held by one sequence's KV cache; 0 for an unknown id.
    fn bytes(&self, seq: SeqId) -> u64;

    /// Bytes held for the KV caches of all sequences, used or not.
    fn kv_bytes(&self) -> u64;

    /// Bytes by which a sequence grows with each token. 0 when the engine has taken the memory of
    /// its whole context already.
    fn kv_bytes_per_token(&self) -> u64 {
        0
    }

    /// Bytes held besides the weights, whatever the sequences are: a context allocated up front,
    /// buffers.
    fn overhead_bytes(&self) -> u64 {
        0
    }

    /// Tells whether somebody on this machine needs a core besides, as a loader thread does. An
    /// engine whose threads wait for each other is slowed down most by the one that has to wait.
    fn share_cores(&mut self, _shares: bool) {}

    /// Queues one forward pass over a ragged batch. No sequence may appear twice in `rows`.
    ///
    /// # Errors
    /// [`EngineError::Native`] when the numerics refuse, and [`EngineError::KvFull`] when there is
    /// no room for the tokens; no sequence has advanced then.
    fn forward(&mut self, rows: &[Row<'_>]) -> Result<Ticket, EngineError>;

    /// Whether [`Generator::forward_while`] can end a pass half way.
    fn can_give_up(&self) -> bool {
        false
    }

    /// As [`Generator::forward`], but given up once the pass is not `wanted` any more, if the engine
    /// can.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] when it was given up; no sequence has advanced then either.
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
    /// [`EngineError::Native`] when the numerics refuse or the counts differ.
    fn sample(&mut self, ticket: &Ticket, specs: &[SampleSpec]) -> Result<(), EngineError>;

    /// Waits for the pass and gives one outcome for each row that wanted logits, in row order.
    /// One row's failure (non-finite logits, say) leaves the others whole.
    ///
    /// # Errors
    /// An error for the pass as a whole: every row of it failed.
    fn collect(
        &mut self,
        ticket: Ticket,
    ) -> Result<Vec<Result<SampledToken, EngineError>>, EngineError>;
}

/// Refuses rows that a model with that vocabulary and capacity cannot take; `len_of` gives the length
/// of an open sequence.
///
/// # Errors
/// [`EngineError::Native`] naming the sequence or token, and what `len_of` gives.
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
            return refused(format!("sequence {seq} brings no tokens"));
        }
        if len + new > context_tokens {
            return refused(format!(
                "sequence {seq} has {len} tokens; {new} more pass the limit of {context_tokens}"
            ));
        }
        // Engines do not check indices: a token past the table would read foreign memory.
        if let Some(token) = row.tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return refused(format!("token {token} is outside the vocabulary of {vocab_size}"));
        }
    }
    Ok(())
}

/// Refuses a text that a model with that vocabulary and context cannot embed.
///
/// # Errors
/// [`EngineError::Native`] naming what is wrong.
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

/// A vector at length 1.
///
/// # Errors
/// [`EngineError::Native`] when it has none, or holds something else than numbers.
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

/// The refusal of a sequence that is not open.
#[must_use]
pub fn not_open(seq: SeqId) -> EngineError {
    EngineError::Native(format!("sequence {} is not open", seq.0))
}

/// Refuses to cut or fork a sequence of `len` tokens at `wanted` if it is shorter.
///
/// # Errors
/// [`EngineError::Native`] naming both.
pub fn check_len(seq: SeqId, len: usize, wanted: usize) -> Result<(), EngineError> {
    if len >= wanted {
        return Ok(());
    }
    let seq = seq.0;
    Err(EngineError::Native(format!("sequence {seq} has {len} tokens, {wanted} were asked for")))
}

/// A loaded model that turns texts into vectors. It keeps nothing between two calls.
pub trait Embedder {
    /// What the model is.
    fn info(&self) -> &ModelInfo;

    /// Tokens of one text at most.
    fn context_tokens(&self) -> usize;

    /// Numbers of one vector.
    fn dimensions(&self) -> usize;

    /// Bytes it keeps besides its weights.
    fn overhead_bytes(&self) -> u64;

    /// As [`Generator::share_cores`].
    fn share_cores(&mut self, _shares: bool) {}

    /// The vectors of `texts`, in their order, each of length 1. What a text gets does not depend
    /// on those that are embedded with it.
    ///
    /// # Errors
    /// [`EngineError::Native`] when a text is empty or too long, or the numerics refuse.
    fn embed(&mut self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, EngineError>;
}

/// The engine thread's side of an embedding model's load, as [`Builder`] for a generator's. One that
/// the loader thread loads whole is given no tensors.
pub trait EmbedderBuilder {
    /// As [`Builder::adopt`].
    ///
    /// # Errors
    /// As there.
    fn adopt(&mut self, _tensor: HostTensor) -> Result<(), EngineError> {
        Ok(())
    }

    /// As [`Builder::advance`].
    ///
    /// # Errors
    /// As there.
    fn advance(&mut self, _has_all: bool) -> Result<bool, EngineError> {
        Ok(true)
    }

    /// Gives the model once the load is done.
    ///
    /// # Errors
    /// When there is none, and as [`Builder::finish`].
    fn finish(self: Box<Self>) -> Result<Box<dyn Embedder>, EngineError>;
}

/// The engine thread's side of a load: takes tensors in whatever order the loader reads them.
///
/// The loader thread reads and converts; [`Builder::adopt`] only hands plain memory to the engine,
/// so that the worker can take a few tensors between two decode steps of other models.
pub trait Builder {
    /// Takes one tensor over.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] when its name, shape or type is not what the architecture
    /// expects.
    fn adopt(&mut self, tensor: HostTensor) -> Result<(), EngineError>;

    /// Does a piece, some milliseconds long, of the work that adopting has left: other models'
    /// streams go on in between. `has_all` says that no tensor follows. True when nothing is left
    /// for now.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] naming the first missing tensor.
    fn advance(&mut self, _has_all: bool) -> Result<bool, EngineError> {
        Ok(true)
    }

    /// Checks that nothing is missing, does what is left, and gives the model.
    ///
    /// # Errors
    /// [`EngineError::InvalidModel`] naming the first missing tensor.
    fn finish(self: Box<Self>) -> Result<Box<dyn Generator>, EngineError>;
}
