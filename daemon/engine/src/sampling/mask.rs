//! Token mask: the set of tokens that a step may sample.
//!
//! Owns the set and its application to a row of logits. Does not know grammars: the set comes ready
//! made, or from a [`MaskSource`].

use std::fmt;
use std::sync::Arc;

/// A set of token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSet {
    /// Bit `id % 32` of word `id / 32`.
    words: Vec<u32>,
    /// The only token, if there is exactly one.
    only: Option<u32>,
}

impl TokenSet {
    /// The set in which token `id` is bit `id % 32` of word `id / 32`.
    #[must_use]
    pub fn new(words: Vec<u32>) -> Self {
        let mut members = words.iter().zip(0_u32..).filter(|(word, _)| **word != 0);
        let only = match (members.next(), members.next()) {
            (Some((word, index)), None) if word.count_ones() == 1 => {
                Some(index * 32 + word.trailing_zeros())
            }
            _ => None,
        };
        Self { words, only }
    }

    /// The only token, if there is exactly one.
    #[must_use]
    pub fn only(&self) -> Option<u32> {
        self.only
    }

    /// Whether the set contains `id`.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Sets the logits of all other tokens to negative infinity.
    pub fn apply(&self, logits: &mut [f32]) {
        let words = self.words.iter().chain(std::iter::repeat(&0));
        for (chunk, &word) in logits.chunks_mut(32).zip(words) {
            match word {
                u32::MAX => {}
                0 => chunk.fill(f32::NEG_INFINITY),
                _ => {
                    for (bit, logit) in chunk.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}

/// A source of the set for a step, which may not be computed yet when the pass is queued.
pub trait MaskSource: fmt::Debug + Send + Sync {
    /// The set; waits for it, within limits.
    ///
    /// # Errors
    /// Why there is none.
    fn wait(&self) -> Result<Arc<TokenSet>, String>;
}

/// The allowed tokens of a step.
#[derive(Debug, Clone)]
pub enum Mask {
    /// A computed set.
    Ready(Arc<TokenSet>),
    /// A set that the source will return.
    Pending(Arc<dyn MaskSource>),
}

impl Mask {
    /// The set; waits for it, within limits.
    ///
    /// # Errors
    /// Why there is none.
    pub fn wait(&self) -> Result<Arc<TokenSet>, String> {
        match self {
            Self::Ready(set) => Ok(Arc::clone(set)),
            Self::Pending(source) => source.wait(),
        }
    }
}

impl PartialEq for Mask {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ready(one), Self::Ready(other)) => one == other,
            (Self::Pending(one), Self::Pending(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}
