//! Prompts of a given length with a new beginning each, so that the prompt cache does not help.
//!
//! Owns the words, and cutting them to a number of tokens, which the daemon's tokenizer counts.

use std::hash::{BuildHasher, RandomState};

use ingle_client::client::Client;
use ingle_protocol::wire::models::EngineKind;
use ingle_protocol::wire::tokens::{Detokenize, DetokenizeParams, Tokenize, TokenizeParams};

use crate::output::Failure;

/// Short common words, so that each is about one token in any tokenizer.
const WORDS: [&str; 32] = [
    "the", "house", "river", "green", "walked", "under", "seven", "birds", "small", "over",
    "light", "winter", "people", "wrote", "long", "letter", "about", "stone", "music", "early",
    "never", "table", "carry", "field", "north", "paper", "quiet", "summer", "window", "voice",
    "after", "road",
];

/// A generator of prompts for one model.
pub(super) struct Prompts {
    client: Client,
    model: String,
    engine: Option<EngineKind>,
    /// Different in every process.
    random: RandomState,
    made: u64,
}

impl Prompts {
    pub(super) fn new(client: Client, model: String, engine: Option<EngineKind>) -> Self {
        Self { client, model, engine, random: RandomState::new(), made: 0 }
    }

    /// A new prompt of this number of tokens, or as near as the tokenizer allows.
    pub(super) async fn next(&mut self, tokens: usize) -> Result<String, Failure> {
        self.made += 1;
        let text = words(self.random.hash_one(self.made), tokens);
        let params = TokenizeParams {
            model: Some(self.model.clone()),
            engine: self.engine,
            text: Some(text.clone()),
            ..TokenizeParams::default()
        };
        // A word is at least one token, so the prompt is at most too long.
        let mut ids = self.client.call::<Tokenize>(&params).await?.tokens;
        if ids.len() <= tokens {
            return Ok(text);
        }
        ids.truncate(tokens);
        let params =
            DetokenizeParams { model: Some(self.model.clone()), engine: self.engine, tokens: ids };
        Ok(self.client.call::<Detokenize>(&params).await?.text)
    }
}

/// Words selected by the bits of a number: SplitMix64, five bits per word.
fn words(seed: u64, count: usize) -> String {
    let mut state = seed;
    let mut text = String::with_capacity(count * 6);
    for number in 0..count {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        if number > 0 {
            text.push(' ');
        }
        text.push_str(WORDS[usize::try_from(bits >> 59).unwrap_or(0)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_from_the_first_words() {
        let texts: Vec<String> = (0..200).map(|seed| words(seed, 300)).collect();
        for text in &texts {
            assert_eq!(text.split(' ').count(), 300);
        }
        let beginnings: std::collections::BTreeSet<Vec<&str>> =
            texts.iter().map(|text| text.split(' ').take(6).collect()).collect();
        assert_eq!(beginnings.len(), 200);
    }
}
