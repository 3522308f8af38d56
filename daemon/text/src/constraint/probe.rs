//! What a constraint lets through, for tests: texts whose tokens are their bytes.

use super::Constraint;
use crate::tokenizer::ByteTokenizer;

/// Whether a token may come next.
pub(crate) fn allows(constraint: &mut Constraint, token: u32) -> bool {
    let words = constraint.allowed().expect("a constraint that goes on");
    words[token as usize / 32] >> (token % 32) & 1 == 1
}

/// What becomes of a text: how many of its bytes are let through, and whether it may end there.
pub(crate) fn follow(constraint: &mut Constraint, text: &str) -> (usize, bool) {
    for (index, byte) in text.bytes().enumerate() {
        if !allows(constraint, byte.into()) {
            return (index, allows(constraint, ByteTokenizer::EOS));
        }
        constraint.accept(byte.into()).expect("an allowed token");
    }
    (text.len(), allows(constraint, ByteTokenizer::EOS))
}
