//! Log-probabilities in OpenAI's two forms.
//!
//! Owns the way from token ids to their texts. Pure but for the vocabulary.

use ingle_protocol::wire::generate::TokenLogprob;

use super::types::chat::{ChatLogprob, ChatLogprobs, TokenText};
use super::types::completions::CompletionLogprobs;
use crate::service::vocabulary::Vocabulary;

/// What JSON shows for negative infinity, which it cannot.
const IMPOSSIBLE: f32 = -9_999.0;

fn shown(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { IMPOSSIBLE }
}

/// As chat shows them.
pub(super) fn chat(tokens: &[TokenLogprob], vocabulary: &Vocabulary) -> ChatLogprobs {
    let text = |token: u32, logprob: f32| {
        let bytes = vocabulary.bytes(token);
        let token = String::from_utf8_lossy(&bytes).into_owned();
        TokenText { token, logprob: shown(logprob), bytes }
    };
    let content = tokens.iter().map(|token| ChatLogprob {
        token: text(token.token, token.logprob),
        top_logprobs: token.top.iter().map(|&(id, logprob)| text(id, logprob)).collect(),
    });
    ChatLogprobs { content: content.collect(), refusal: None }
}

/// As completions show them. `offset` is where the first token begins in the text, in characters;
/// it is moved on behind the last.
pub(super) fn completion(
    tokens: &[TokenLogprob],
    vocabulary: &Vocabulary,
    offset: &mut usize,
) -> CompletionLogprobs {
    let text = |token: u32| String::from_utf8_lossy(&vocabulary.bytes(token)).into_owned();
    let mut logprobs = CompletionLogprobs::default();
    for token in tokens {
        let spelled = text(token.token);
        logprobs.text_offset.push(*offset);
        *offset += spelled.chars().count();
        logprobs.tokens.push(spelled);
        logprobs.token_logprobs.push(shown(token.logprob));
        let top = token.top.iter().map(|&(id, logprob)| (text(id), shown(logprob)));
        logprobs.top_logprobs.push(top.collect());
    }
    logprobs
}
