//! A context: the KV cache, sequences and compute threads of a model.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::{Error, MAX_SEQUENCES, Model, check, sys};

/// The size of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextOptions {
    /// Tokens of the KV cache that all sequences share.
    pub context_tokens: u32,
    /// Tokens of one batch at most.
    pub batch_tokens: u32,
    /// Tokens that are computed together.
    pub micro_batch_tokens: u32,
    /// Sequences, at most [`MAX_SEQUENCES`]: their ids run from 0.
    pub sequences: u32,
    /// Threads to compute on.
    pub threads: u32,
    /// Whether it gives embeddings instead of logits.
    pub embeddings: bool,
}

/// What a batch is run through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// A model with a KV cache, which takes the batch up.
    Decode,
    /// No pooling in the model; it embeds whole texts.
    Encode,
}

/// How the embeddings of a text's tokens become the text's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// They do not.
    None,
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
    /// They become a score.
    Rank,
}

/// Whether a run is not wanted any more. Asked between the operations of its graph, thousands of
/// times a second.
pub type Stop<'a> = &'a (dyn Fn() -> bool + Sync);

extern "C" fn on_stop(user: *mut c_void) -> bool {
    // SAFETY: `Context::run` passes a pointer to its argument, which outlives the call.
    let stop = unsafe { *user.cast::<Stop<'_>>() };
    stop()
}

/// A context. It keeps its model alive.
///
/// Every token given to it must be in the model's vocabulary, and every sequence below
/// [`ContextOptions::sequences`]; both are checked.
#[derive(Debug)]
pub struct Context {
    raw: NonNull<sys::GuardContext>,
    model: Arc<Model>,
    options: ContextOptions,
    vocab_size: usize,
    embedding_size: usize,
    kv_bytes: u64,
    compute_bytes: u64,
    context_tokens: usize,
    pooling: Pooling,
    shares_cores: bool,
}

// SAFETY: a context belongs to no thread; it may be used by one at a time, which `&mut` ensures.
unsafe impl Send for Context {}

impl Context {
    /// Makes a context of that size and starts its threads.
    ///
    /// # Errors
    /// With llama.cpp's reason, nearly always that there is not enough memory.
    pub fn new(model: Arc<Model>, options: ContextOptions) -> Result<Self, Error> {
        if options.sequences == 0 || options.sequences as usize > MAX_SEQUENCES {
            let problem = format!("{} sequences, expected 1 to {MAX_SEQUENCES}", options.sequences);
            return Err(Error::failed(problem));
        }
        let facts = model.facts()?;
        let wanted = sys::GuardContextOptions {
            context_tokens: options.context_tokens,
            batch_tokens: options.batch_tokens,
            micro_batch_tokens: options.micro_batch_tokens,
            sequences: options.sequences,
            // Every sequence may want logits in every batch, and room for more is memory lost;
            // embeddings need every token's output.
            outputs: if options.embeddings { options.batch_tokens } else { options.sequences },
            threads: options.threads.try_into().unwrap_or(1),
            embeddings: options.embeddings,
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: the model is alive, and the options outlive the call.
        check(|message, len| unsafe {
            sys::guard_context_new(model.raw(), &raw const wanted, &raw mut raw, message, len)
        })?;
        let raw = NonNull::new(raw).ok_or_else(|| Error::failed("llama.cpp gave no context"))?;
        let mut context = Self {
            raw,
            model,
            options,
            vocab_size: facts.vocab_size,
            embedding_size: facts.embedding_size,
            kv_bytes: 0,
            compute_bytes: 0,
            context_tokens: 0,
            pooling: Pooling::None,
            shares_cores: false,
        };
        context.read_facts()?;
        Ok(context)
    }

    fn read_facts(&mut self) -> Result<(), Error> {
        let mut facts = sys::GuardContextFacts::default();
        // SAFETY: the context is alive, and the structure is written before it is read.
        check(|message, len| unsafe {
            sys::guard_context_facts_of(self.raw.as_ptr(), &raw mut facts, message, len)
        })?;
        self.kv_bytes = facts.kv_bytes;
        self.compute_bytes = facts.compute_bytes;
        self.context_tokens = facts.context_tokens as usize;
        self.pooling = match facts.pooling {
            1 => Pooling::Mean,
            2 => Pooling::First,
            3 => Pooling::Last,
            4 => Pooling::Rank,
            _ => Pooling::None,
        };
        Ok(())
    }

    /// Computes on one thread less while other work needs a core, but always on at least one.
    pub fn share_cores(&mut self, shares: bool) {
        if shares != self.shares_cores {
            self.shares_cores = shares;
            let threads = self.options.threads.saturating_sub(u32::from(shares)).max(1);
            let threads = threads.try_into().unwrap_or(1);
            // SAFETY: the context is alive, and `&mut` says that nothing computes.
            unsafe { sys::guard_context_set_threads(self.raw.as_ptr(), threads) };
        }
    }

    /// The model it belongs to.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Bytes of its KV cache, used or not.
    #[must_use]
    pub fn kv_bytes(&self) -> u64 {
        self.kv_bytes
    }

    /// Bytes of its buffers for intermediate results.
    #[must_use]
    pub fn compute_bytes(&self) -> u64 {
        self.compute_bytes
    }

    /// Tokens of its KV cache: at least the requested number.
    #[must_use]
    pub fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    /// How it pools embeddings.
    #[must_use]
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Runs a batch. The slices are equally long: token, position, sequence, and 1 where the
    /// token's logits are wanted. `stop` may end it half way.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Full`] when the KV cache has no room, and then nothing has changed;
    /// [`crate::ErrorKind::Cancelled`] when `stop` said so. With any error but the first part of
    /// the batch may be in the KV cache.
    pub fn run(
        &mut self,
        pass: Pass,
        tokens: &[i32],
        positions: &[i32],
        sequences: &[i32],
        wanted: &[i8],
        mut stop: Option<Stop<'_>>,
    ) -> Result<(), Error> {
        let count = self.check_batch(tokens, positions, sequences, wanted)?;
        let hook: Option<sys::StopHook> = stop.as_ref().map(|_| on_stop as sys::StopHook);
        let user =
            stop.as_mut().map_or(std::ptr::null_mut(), |stop| std::ptr::from_mut(stop).cast());
        // SAFETY: the slices have `count` entries, of tokens and sequences that exist, and `stop`
        // outlives the call.
        check(|message, len| unsafe {
            sys::guard_run(
                self.raw.as_ptr(),
                pass == Pass::Encode,
                count,
                tokens.as_ptr(),
                positions.as_ptr(),
                sequences.as_ptr(),
                wanted.as_ptr(),
                hook,
                user,
                message,
                len,
            )
        })
    }

    /// llama.cpp asserts some of this and reads past its arrays for the rest.
    fn check_batch(
        &self,
        tokens: &[i32],
        positions: &[i32],
        sequences: &[i32],
        wanted: &[i8],
    ) -> Result<i32, Error> {
        let count = tokens.len();
        if count == 0 || count > self.options.batch_tokens as usize {
            let most = self.options.batch_tokens;
            return Err(Error::failed(format!("a batch of {count} tokens, expected 1 to {most}")));
        }
        if [positions.len(), sequences.len(), wanted.len()] != [count; 3] {
            return Err(Error::failed("the arrays of a batch differ in length"));
        }
        let is_known = |&token: &i32| usize::try_from(token).is_ok_and(|id| id < self.vocab_size);
        if let Some(token) = tokens.iter().find(|token| !is_known(token)) {
            return Err(Error::failed(format!("there is no token {token}")));
        }
        for &sequence in sequences {
            self.check_sequence(sequence)?;
        }
        if positions.iter().any(|&position| position < 0) {
            return Err(Error::failed("a position below 0"));
        }
        i32::try_from(count).map_err(|_| Error::failed("a batch of over 2^31 tokens"))
    }

    fn check_sequence(&self, sequence: i32) -> Result<(), Error> {
        if u32::try_from(sequence).is_ok_and(|sequence| sequence < self.options.sequences) {
            Ok(())
        } else {
            Err(Error::failed(format!("there is no sequence {sequence}")))
        }
    }

    /// Waits until the last batch has been computed.
    ///
    /// # Errors
    /// When llama.cpp throws.
    pub fn synchronize(&mut self) -> Result<(), Error> {
        // SAFETY: the context is alive.
        check(|message, len| unsafe { sys::guard_synchronize(self.raw.as_ptr(), message, len) })
    }

    /// The logits behind token `index` of the last batch, one for each token of the vocabulary.
    ///
    /// # Errors
    /// When they were not wanted.
    pub fn logits(&mut self, index: usize) -> Result<&[f32], Error> {
        let index = i32::try_from(index).map_err(|_| Error::failed("an index over 2^31"))?;
        let mut out = std::ptr::null();
        // SAFETY: the context is alive, and `out` is written on success.
        check(|message, len| unsafe {
            sys::guard_logits(self.raw.as_ptr(), index, &raw mut out, message, len)
        })?;
        // SAFETY: llama.cpp's rows of logits have a number for each token, and they stay until the
        // next batch, which needs `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(out, self.vocab_size) })
    }

    /// The pooled embedding of a sequence of the last batch.
    ///
    /// # Errors
    /// When there is none: the context does not pool, or the sequence took no part.
    pub fn embedding(&mut self, sequence: i32) -> Result<&[f32], Error> {
        self.check_sequence(sequence)?;
        if matches!(self.pooling, Pooling::None | Pooling::Rank) {
            return Err(Error::failed("the model does not pool its embeddings"));
        }
        let mut out = std::ptr::null();
        // SAFETY: the context is alive, and `out` is written on success.
        check(|message, len| unsafe {
            sys::guard_embedding(self.raw.as_ptr(), sequence, &raw mut out, message, len)
        })?;
        // SAFETY: a pooled embedding has as many numbers as the model says, and it stays until the
        // next batch, which needs `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(out, self.embedding_size) })
    }

    /// Removes the positions from `from` on. False when this model's memory cannot remove a part.
    ///
    /// # Errors
    /// When llama.cpp throws.
    pub fn remove_from(&mut self, sequence: i32, from: usize) -> Result<bool, Error> {
        self.check_sequence(sequence)?;
        let from = i32::try_from(from).map_err(|_| Error::failed("a position over 2^31"))?;
        let mut removed = false;
        // SAFETY: the context is alive and has the sequence.
        check(|message, len| unsafe {
            let context = self.raw.as_ptr();
            sys::guard_sequence_remove(context, sequence, from, -1, &raw mut removed, message, len)
        })?;
        Ok(removed)
    }

    /// Makes `target`, which must be empty, share the first `len` positions of `source`, or all of
    /// them. Recurrent states are shared whole, whatever `len` says, and some models assert that
    /// there is none.
    ///
    /// # Errors
    /// When llama.cpp throws.
    pub fn share(&mut self, source: i32, target: i32, len: Option<usize>) -> Result<(), Error> {
        self.check_sequence(source)?;
        self.check_sequence(target)?;
        let to = len.map_or(Ok(-1), i32::try_from);
        let to = to.map_err(|_| Error::failed("a position over 2^31"))?;
        // SAFETY: the context is alive and has both sequences.
        check(|message, len| unsafe {
            sys::guard_sequence_copy(self.raw.as_ptr(), source, target, 0, to, message, len)
        })
    }

    /// The first and the last position that the sequence's memory holds; `None` when it is empty.
    ///
    /// # Errors
    /// When llama.cpp throws.
    pub fn range(&mut self, sequence: i32) -> Result<Option<(usize, usize)>, Error> {
        self.check_sequence(sequence)?;
        let (mut first, mut last) = (-1, -1);
        // SAFETY: the context is alive and has the sequence; both results are written.
        check(|message, len| unsafe {
            let context = self.raw.as_ptr();
            sys::guard_sequence_range(
                context,
                sequence,
                &raw mut first,
                &raw mut last,
                message,
                len,
            )
        })?;
        Ok(usize::try_from(first).ok().zip(usize::try_from(last).ok()))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it is freed once, before its model, which `self.model` keeps alive until after.
        unsafe { sys::guard_context_free(self.raw.as_ptr()) };
    }
}
