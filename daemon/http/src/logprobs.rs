//! Log-probabilities in OpenAI's two formats.
//!
//! Owns the text, bytes and offset of a token. Pure.

use ingle_protocol::wire::generate::TokenLogprob;

use super::types::chat_response::{ChatLogprob, ChatLogprobs, TokenText};
use super::types::completions::CompletionLogprobs;

/// Stands for negative infinity, which JSON cannot hold.
const IMPOSSIBLE: f32 = -9_999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { IMPOSSIBLE }
}

/// The likeliest tokens at one position: their bytes and log-probabilities.
fn top(token: &TokenLogprob) -> impl Iterator<Item = (&[u8], f32)> {
    let bytes = token.top_bytes.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]));
    bytes.zip(&token.top).map(|(bytes, &(_, logprob))| (bytes, finite(logprob)))
}

/// The format of chat completions.
pub(super) fn chat(tokens: &[TokenLogprob]) -> ChatLogprobs {
    let text = |bytes: &[u8], logprob: f32| TokenText {
        token: String::from_utf8_lossy(bytes).into_owned(),
        logprob,
        bytes: bytes.to_vec(),
    };
    let content = tokens.iter().map(|token| ChatLogprob {
        token: text(&token.bytes, finite(token.logprob)),
        top_logprobs: top(token).map(|(bytes, logprob)| text(bytes, logprob)).collect(),
    });
    ChatLogprobs { content: content.collect(), refusal: None }
}

/// The format of completions. `offset` is where the first token begins in the text, in characters;
/// it moves behind the last.
pub(super) fn completion(tokens: &[TokenLogprob], offset: &mut usize) -> CompletionLogprobs {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut logprobs = CompletionLogprobs::default();
    for token in tokens {
        let spelled = text(&token.bytes);
        logprobs.text_offset.push(*offset);
        // A character that spans several tokens counts once, where it begins.
        *offset += token.bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
        logprobs.tokens.push(spelled);
        logprobs.token_logprobs.push(finite(token.logprob));
        let top = top(token).map(|(bytes, logprob)| (text(bytes), logprob));
        logprobs.top_logprobs.push(top.collect());
    }
    logprobs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_text_bytes_and_offsets() {
        let token = |bytes: &[u8], logprob, top: &[(u32, f32)], top_bytes: &[&[u8]]| TokenLogprob {
            token: 1,
            logprob,
            bytes: bytes.to_vec(),
            top: top.to_vec(),
            top_bytes: top_bytes.iter().map(|bytes| bytes.to_vec()).collect(),
        };
        let tokens = [
            token(
                "ä".as_bytes(),
                -0.5,
                &[(7, -0.5), (8, f32::NEG_INFINITY)],
                &["ä".as_bytes(), b"b"],
            ),
            token(&[0xf0], f32::NEG_INFINITY, &[], &[]),
            token(&[0x9f, 0x98, 0x80], -1.0, &[], &[]),
        ];
        let shown = chat(&tokens);
        assert_eq!(shown.content[0].token.token, "ä");
        assert_eq!(shown.content[0].top_logprobs[1].logprob, IMPOSSIBLE);
        assert_eq!(
            (&*shown.content[1].token.token, &shown.content[1].token.bytes),
            ("\u{fffd}", &vec![0xf0])
        );
        let mut offset = 3;
        let shown = completion(&tokens, &mut offset);
        assert_eq!((shown.text_offset, offset), (vec![3, 4, 5], 5));
        assert_eq!(shown.top_logprobs[0]["ä"], -0.5);
        assert_eq!(shown.token_logprobs[1], IMPOSSIBLE);
    }
}
