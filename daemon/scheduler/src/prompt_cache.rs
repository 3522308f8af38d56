//! Prompt cache: finished sequences that are kept for prompts with the same beginning.
//!
//! Owns the index over kept sequences: their tokens, bytes and order of use. Pure policy: it holds
//! ids, never KV caches, and reads no clock. A turn of a conversation begins with all earlier
//! turns, so the next turn only has to prefill the new tokens.

use ingle_engine::backend::SeqId;

/// Minimum length of a common beginning worth reusing, in tokens.
const MIN_COMMON_TOKENS: usize = 8;

/// A kept sequence and the tokens in its KV cache.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KeptSequence {
    seq: SeqId,
    tokens: Vec<u32>,
    bytes: u64,
}

/// The kept sequence that a new prompt can reuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// The prompt begins with the whole kept sequence, which has left the index: continue it.
    Whole {
        /// The sequence.
        seq: SeqId,
        /// Number of its tokens.
        tokens: usize,
    },
    /// The prompt shares only the first tokens of a kept sequence, which stays: fork it.
    Beginning {
        /// The sequence.
        seq: SeqId,
        /// Number of tokens in common.
        tokens: usize,
    },
}

/// The index of one model, least recently used first.
#[derive(Debug)]
pub struct PromptCache {
    kept: Vec<KeptSequence>,
    max_sequences: usize,
    max_bytes: u64,
}

impl PromptCache {
    /// Creates an empty index with these limits.
    #[must_use]
    pub fn new(max_sequences: usize, max_bytes: u64) -> Self {
        Self { kept: Vec::new(), max_sequences, max_bytes }
    }

    /// Finds the best kept sequence for `prompt`.
    ///
    /// At least the prompt's last token is left to be read, because its logits are needed.
    pub fn find(&mut self, prompt: &[u32]) -> Option<Reuse> {
        let (index, tokens) = self.best(prompt)?;
        let kept = self.kept.remove(index);
        let seq = kept.seq;
        if tokens == kept.tokens.len() {
            return Some(Reuse::Whole { seq, tokens });
        }
        self.kept.push(kept);
        Some(Reuse::Beginning { seq, tokens })
    }

    /// The kept sequence with the longest common beginning, and its number of common tokens.
    fn best(&self, prompt: &[u32]) -> Option<(usize, usize)> {
        let readable = prompt.len().saturating_sub(1);
        let common = |kept: &KeptSequence| {
            kept.tokens.iter().zip(&prompt[..readable]).take_while(|(a, b)| a == b).count()
        };
        self.kept
            .iter()
            .enumerate()
            .map(|(index, kept)| (index, common(kept)))
            .max_by_key(|&(_, tokens)| tokens)
            .filter(|&(_, tokens)| tokens >= MIN_COMMON_TOKENS)
    }

    /// Keeps a sequence whose KV cache holds `tokens`.
    ///
    /// Returns the sequences to close for it, possibly the new one itself.
    pub fn keep(&mut self, seq: SeqId, tokens: Vec<u32>, bytes: u64) -> Vec<SeqId> {
        if tokens.len() < MIN_COMMON_TOKENS || bytes > self.max_bytes || self.max_sequences == 0 {
            return vec![seq];
        }
        let mut closed = Vec::new();
        // A kept sequence that the new one begins with is no longer useful.
        self.kept.retain(|kept| {
            let covered = tokens.starts_with(&kept.tokens);
            if covered {
                closed.push(kept.seq);
            }
            !covered
        });
        self.kept.push(KeptSequence { seq, tokens, bytes });
        while self.kept.len() > self.max_sequences || self.bytes() > self.max_bytes {
            closed.push(self.kept.remove(0).seq);
        }
        closed
    }

    /// Evicts the least recently used sequence.
    pub fn evict(&mut self) -> Option<SeqId> {
        (!self.kept.is_empty()).then(|| self.kept.remove(0).seq)
    }

    /// The kept sequence that `prompt` would reuse, without a change to the index.
    ///
    /// Returns its position, counted from the least recently used one, and whether it would be
    /// reused as a whole.
    #[must_use]
    pub fn peek(&self, prompt: &[u32]) -> Option<(usize, bool)> {
        let (index, tokens) = self.best(prompt)?;
        Some((index, tokens == self.kept[index].tokens.len()))
    }

    /// Makes the kept sequence that `prompt` would reuse the last to be evicted.
    pub fn prefer(&mut self, prompt: &[u32]) {
        if let Some((index, _)) = self.best(prompt) {
            self.kept[index..].rotate_left(1);
        }
    }

    /// Bytes of each kept sequence, least recently used first.
    #[must_use]
    pub fn kept_bytes(&self) -> Vec<u64> {
        self.kept.iter().map(|kept| kept.bytes).collect()
    }

    /// Bytes of all kept sequences.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.kept.iter().map(|kept| kept.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(range: std::ops::Range<u32>) -> Vec<u32> {
        range.collect()
    }

    #[test]
    fn next_turn_continues_the_last_one() {
        let mut cache = PromptCache::new(4, 1_000);
        assert!(cache.keep(SeqId(1), tokens(0..20), 100).is_empty());
        assert_eq!(cache.peek(&tokens(0..30)), Some((0, true)));
        assert_eq!(cache.peek(&tokens(0..15)), Some((0, false)));
        assert_eq!(cache.peek(&tokens(5..30)), None);
        assert_eq!(cache.find(&tokens(0..30)), Some(Reuse::Whole { seq: SeqId(1), tokens: 20 }));
        assert_eq!(cache.find(&tokens(0..30)), None, "it has left the index");
    }

    #[test]
    fn shared_beginning_is_forked_and_kept() {
        let mut cache = PromptCache::new(4, 1_000);
        cache.keep(SeqId(1), tokens(0..20), 100);
        let other: Vec<u32> = (0..10).chain(500..510).collect();
        let reuse = Some(Reuse::Beginning { seq: SeqId(1), tokens: 10 });
        assert_eq!(cache.find(&other), reuse);
        assert_eq!(cache.find(&other), reuse);
    }

    #[test]
    fn last_prompt_token_is_always_left_to_read() {
        let mut cache = PromptCache::new(4, 1_000);
        cache.keep(SeqId(1), tokens(0..20), 100);
        let reuse = Some(Reuse::Beginning { seq: SeqId(1), tokens: 19 });
        assert_eq!(cache.find(&tokens(0..20)), reuse);
        assert_eq!(cache.find(&[]), None);
    }

    #[test]
    fn least_recently_used_is_evicted_first() {
        let mut cache = PromptCache::new(2, 1_000);
        cache.keep(SeqId(1), tokens(0..20), 1);
        cache.keep(SeqId(2), tokens(100..120), 1);
        cache.find(&tokens(0..15));
        assert_eq!(cache.keep(SeqId(3), tokens(200..220), 1), [SeqId(2)]);
        assert_eq!(cache.evict(), Some(SeqId(1)));
    }

    #[test]
    fn preferred_sequence_is_evicted_last() {
        let mut cache = PromptCache::new(4, 1_000);
        for (seq, first) in [(1, 0), (2, 100), (3, 200)] {
            cache.keep(SeqId(seq), tokens(first..first + 20), 1);
        }
        cache.prefer(&tokens(0..30));
        let evicted: Vec<_> = std::iter::from_fn(|| cache.evict()).collect();
        assert_eq!(evicted, [SeqId(2), SeqId(3), SeqId(1)]);
    }

    proptest! {
        #[test]
        fn every_sequence_is_kept_or_closed_once(
            steps in prop::collection::vec((0_u32..4, 1_usize..40, 1_u64..400), 0..60),
        ) {
            let mut cache = PromptCache::new(3, 600);
            let mut open = std::collections::BTreeSet::new();
            for (number, (first, length, bytes)) in steps.into_iter().enumerate() {
                let prompt = vec![first; length];
                let seq = match cache.find(&prompt) {
                    Some(Reuse::Whole { seq, tokens }) => {
                        prop_assert!(tokens < prompt.len());
                        prop_assert!(open.contains(&seq));
                        seq
                    }
                    Some(Reuse::Beginning { seq, tokens }) => {
                        prop_assert!(tokens < prompt.len() && open.contains(&seq));
                        SeqId(number as u64)
                    }
                    None => SeqId(number as u64),
                };
                open.insert(seq);
                prop_assert_eq!(cache.kept_bytes().iter().sum::<u64>(), cache.bytes());
                for closed in cache.keep(seq, prompt, bytes) {
                    prop_assert!(open.remove(&closed));
                }
                prop_assert!(open.len() <= 3 && cache.bytes() <= 600);
            }
            while let Some(seq) = cache.evict() {
                prop_assert!(open.remove(&seq));
            }
            prop_assert!(open.is_empty());
        }
    }
}
