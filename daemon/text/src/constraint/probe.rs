//! Test support: what a constraint allows, for texts whose tokens are bytes.

use super::Constraint;
use crate::tokenizer::ByteTokenizer;

/// Whether the constraint allows the token next.
pub(crate) fn allows(constraint: &mut Constraint, token: u32) -> bool {
    let words = constraint.allowed().expect("a constraint that goes on");
    words[token as usize / 32] >> (token % 32) & 1 == 1
}

/// The number of bytes of a text that the constraint allows, and whether the text may end there.
pub(crate) fn follow(constraint: &mut Constraint, text: &str) -> (usize, bool) {
    for (index, byte) in text.bytes().enumerate() {
        if !allows(constraint, byte.into()) {
            return (index, allows(constraint, ByteTokenizer::EOS));
        }
        constraint.accept(byte.into()).expect("an allowed token");
    }
    (text.len(), allows(constraint, ByteTokenizer::EOS))
}
