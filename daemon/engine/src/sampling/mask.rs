//! The set of tokens that may be drawn.
//!
//! Owns the set itself, and what it does to a row of logits. Knows nothing of grammars: who makes
//! one, and when, is told by [`Mask`] alone.

use std::fmt;
use std::sync::Arc;

/// A set of token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSet {
    /// Bit `id % 32` of word `id / 32`.
    words: Vec<u32>,
    /// Its only member, if it has one only.
    only: Option<u32>,
}

impl TokenSet {
    /// The set whose member `id` is bit `id % 32` of word `id / 32`.
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

    /// Its only member, if it has one only.
    #[must_use]
    pub fn only(&self) -> Option<u32> {
        self.only
    }

    /// Whether `id` is a member.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Makes every logit impossible that belongs to no member.
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

/// Where the set for a step comes from. It may still be in the making when the pass is queued.
pub trait MaskSource: fmt::Debug + Send + Sync {
    /// The set; waits for it, within limits.
    ///
    /// # Errors
    /// Why there is none.
    fn wait(&self) -> Result<Arc<TokenSet>, String>;
}

/// The tokens that a step may draw from.
#[derive(Debug, Clone)]
pub enum Mask {
    /// These.
    Ready(Arc<TokenSet>),
    /// Those that it will give.
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
