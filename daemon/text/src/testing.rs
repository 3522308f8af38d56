//! Test support: a small vocabulary for tests of tokenizers.

use crate::bpe::{ByteAlphabet, TokenKind};

/// A vocabulary of all bytes, a few merges and three special or user-defined tokens.
#[must_use]
pub fn small_vocab() -> (Vec<String>, Vec<TokenKind>, Vec<String>) {
    let alphabet = ByteAlphabet::new();
    let mut tokens: Vec<String> =
        (0..=u8::MAX).map(|byte| alphabet.character(byte).to_string()).collect();
    let mut kinds = vec![TokenKind::Normal; 256];
    tokens.extend(["he", "ll", "hell", "hello", "Ġw"].map(str::to_owned));
    kinds.extend([TokenKind::Normal; 5]);
    tokens.extend(["<|end|>", "<|end|>x", "<tool>"].map(str::to_owned));
    kinds.extend([TokenKind::Special, TokenKind::Special, TokenKind::UserDefined]);
    let merges = ["h e", "l l", "he ll", "hell o", "Ġ w"].map(str::to_owned).to_vec();
    (tokens, kinds, merges)
}
