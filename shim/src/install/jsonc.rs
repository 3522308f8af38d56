//! Parser of JSON with comments and trailing commas, with the position of every token.
//!
//! Owns the syntax. It accepts a little more than any host does, so that it refuses only files that
//! no host can read. Pure: text in, positions out. Does not know the meaning of a text.
//!
//! Why not `jsonc-parser` (0.34, feature `cst`): it refuses half a surrogate pair in a string and a
//! byte order mark, which hosts write and read; it accepts a line break inside a string and Unicode
//! spaces between tokens; and its edits reformat one-line files, so that removing an entry
//! would not restore the file.

use std::ops::Range;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Maximum nesting of objects and lists: settings of hosts are not so deep.
const MAX_DEPTH: usize = 128;

const BAD_STRING: &str = "this string has an escape or a line break that is not JSON";

/// A syntax error and its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// Byte offset.
    pub(crate) at: usize,
    /// The problem.
    pub(crate) problem: &'static str,
}

/// A parsed text.
#[derive(Debug)]
pub(crate) struct Document {
    /// Its value.
    pub(crate) root: Node,
    /// Its comments, in order; those to the end of a line are without the line break.
    pub(crate) comments: Vec<Comment>,
}

/// A comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comment {
    /// Its position.
    pub(crate) span: Range<usize>,
    /// Whether it ends with its line (`//`).
    pub(crate) to_end_of_line: bool,
}

/// A value.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its position.
    pub(crate) span: Range<usize>,
    /// Its kind and content.
    pub(crate) kind: NodeKind,
}

/// The kind and content of a value.
#[derive(Debug)]
pub(crate) enum NodeKind {
    /// An object's fields, in order.
    Object(Vec<Field>),
    /// A list's values.
    List(Vec<Node>),
    /// Any other value.
    Scalar(Value),
    /// A JSON token whose value cannot be represented: a string with half a surrogate pair, a
    /// number out of range. It is kept as it is written.
    Opaque(String),
}

/// A field of an object.
#[derive(Debug)]
pub(crate) struct Field {
    /// Its name, unescaped.
    pub(crate) key: String,
    /// The position of its name, quotes included.
    pub(crate) key_span: Range<usize>,
    /// Its value.
    pub(crate) value: Node,
    /// The position of the comma after it.
    pub(crate) comma: Option<usize>,
}

impl Node {
    /// Its fields, if it is an object.
    pub(crate) fn fields(&self) -> Option<&[Field]> {
        match &self.kind {
            NodeKind::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// The position of the first opaque token in it.
    pub(crate) fn opaque_token_at(&self) -> Option<usize> {
        match &self.kind {
            NodeKind::Object(fields) => {
                fields.iter().find_map(|field| field.value.opaque_token_at())
            }
            NodeKind::List(nodes) => nodes.iter().find_map(Self::opaque_token_at),
            NodeKind::Scalar(_) => None,
            NodeKind::Opaque(_) => Some(self.span.start),
        }
    }

    /// The value without positions. Of several fields of one name the last counts, as for any
    /// reader; an opaque token becomes a string of its text, for comparisons only.
    pub(crate) fn value(&self) -> Value {
        match &self.kind {
            NodeKind::Object(fields) => Value::Object(
                fields
                    .iter()
                    .map(|field| (field.key.clone(), field.value.value()))
                    .collect::<Map<_, _>>(),
            ),
            NodeKind::List(nodes) => nodes.iter().map(Self::value).collect(),
            NodeKind::Scalar(value) => value.clone(),
            NodeKind::Opaque(token) => Value::from(token.as_str()),
        }
    }
}

/// Parses a text of one value. A byte order mark before it is skipped.
///
/// # Errors
/// See [`SyntaxError`].
pub(crate) fn parse(text: &str) -> Result<Document, SyntaxError> {
    let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut parser = Parser { text, at, comments: Vec::new() };
    parser.skip()?;
    let root = parser.value(0)?;
    parser.skip()?;
    if parser.at < text.len() {
        return Err(parser.error("the end of the file was expected"));
    }
    Ok(Document { root, comments: parser.comments })
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    comments: Vec<Comment>,
}

impl Parser<'_> {
    fn error(&self, problem: &'static str) -> SyntaxError {
        SyntaxError { at: self.at, problem }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips white space and comments.
    fn skip(&mut self) -> Result<(), SyntaxError> {
        loop {
            let begin = self.at;
            match self.byte() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(b'/') if self.rest().starts_with("//") => {
                    let rest = self.rest();
                    let length = rest.find('\n').unwrap_or(rest.len());
                    // The line break may have two characters.
                    let length = rest[..length].trim_end_matches('\r').len();
                    self.at += length;
                    self.note(begin, true);
                }
                Some(b'/') if self.rest().starts_with("/*") => {
                    let Some(length) = self.rest().find("*/").filter(|&length| length > 1) else {
                        return Err(self.error("this comment does not end"));
                    };
                    self.at += length + 2;
                    self.note(begin, false);
                }
                _ => return Ok(()),
            }
        }
    }

    fn note(&mut self, begin: usize, to_end_of_line: bool) {
        self.comments.push(Comment { span: begin..self.at, to_end_of_line });
    }

    fn value(&mut self, depth: usize) -> Result<Node, SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(self.error("objects and lists are nested too deep here"));
        }
        let begin = self.at;
        let kind = match self.byte() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => self.text()?,
            _ => self.word()?,
        };
        Ok(Node { span: begin..self.at, kind })
    }

    fn object(&mut self, depth: usize) -> Result<NodeKind, SyntaxError> {
        self.at += 1;
        let mut fields: Vec<Field> = Vec::new();
        loop {
            self.skip()?;
            match self.byte() {
                Some(b'}') => break,
                Some(b'"') if fields.last().is_none_or(|last| last.comma.is_some()) => {}
                Some(b'"') => return Err(self.error("a comma was expected")),
                _ => return Err(self.error("a name in double quotes, or `}`, was expected")),
            }
            let begin = self.at;
            let key = self.key()?;
            let key_span = begin..self.at;
            self.skip()?;
            if self.byte() != Some(b':') {
                return Err(self.error("a colon was expected"));
            }
            self.at += 1;
            self.skip()?;
            let value = self.value(depth + 1)?;
            let comma = self.comma()?;
            fields.push(Field { key, key_span, value, comma });
        }
        self.at += 1;
        Ok(NodeKind::Object(fields))
    }

    fn list(&mut self, depth: usize) -> Result<NodeKind, SyntaxError> {
        self.at += 1;
        let (mut nodes, mut may_go_on) = (Vec::new(), true);
        loop {
            self.skip()?;
            match self.byte() {
                Some(b']') => break,
                _ if may_go_on => {}
                _ => return Err(self.error("a comma, or `]`, was expected")),
            }
            nodes.push(self.value(depth + 1)?);
            may_go_on = self.comma()?.is_some();
        }
        self.at += 1;
        Ok(NodeKind::List(nodes))
    }

    /// The position of a comma after a value, if there is one.
    fn comma(&mut self) -> Result<Option<usize>, SyntaxError> {
        self.skip()?;
        let comma = (self.byte() == Some(b',')).then_some(self.at);
        self.at += usize::from(comma.is_some());
        Ok(comma)
    }

    fn key(&mut self) -> Result<String, SyntaxError> {
        let length = self.string_length()?;
        let key =
            serde_json::from_str(&self.rest()[..length]).map_err(|_| self.error(BAD_STRING))?;
        self.at += length;
        Ok(key)
    }

    fn text(&mut self) -> Result<NodeKind, SyntaxError> {
        let length = self.string_length()?;
        self.token(length, BAD_STRING)
    }

    /// The length in bytes of the string that begins here, both quotes included.
    fn string_length(&self) -> Result<usize, SyntaxError> {
        let mut is_escaped = false;
        let end = self.rest().bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            ends
        });
        let Some(end) = end else { return Err(self.error("this string does not end")) };
        Ok(end + 2)
    }

    fn word(&mut self) -> Result<NodeKind, SyntaxError> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        let rest = self.rest();
        let length = rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len());
        self.token(length, "a value was expected")
    }

    /// Reads a token of this length; `problem` is the error where it is not JSON.
    fn token(&mut self, length: usize, problem: &'static str) -> Result<NodeKind, SyntaxError> {
        let token = &self.rest()[..length];
        let kind = match serde_json::from_str(token) {
            Ok(value) => NodeKind::Scalar(value),
            // This checks the syntax only, and accepts values that cannot be represented.
            Err(_) => match serde_json::from_str::<&RawValue>(token) {
                Ok(raw) => NodeKind::Opaque(raw.get().to_owned()),
                Err(_) => return Err(self.error(problem)),
            },
        };
        self.at += length;
        Ok(kind)
    }
}

/// Line and column of a byte offset, counted from 1; a column is a character.
pub(crate) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at)];
    let line_begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before[line_begin..].trim_start_matches('\u{feff}').chars().count() + 1;
    (before.matches('\n').count() + 1, column)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn comments_and_trailing_commas_are_skipped() {
        let text = "\u{feff}// head\r\n{ /* a */ \"a\" : [1, 2.5e3, /* */ ], // b\n\"\\u0062\": {\"c\": null,},\n} // end";
        let document = parse(text).unwrap();
        assert_eq!(document.root.value(), json!({ "a": [1, 2500.0], "b": { "c": null } }));
        let comments = document.comments.iter().map(|comment| &text[comment.span.clone()]);
        let expected = ["// head", "/* a */", "/* */", "// b", "// end"];
        assert_eq!(comments.collect::<Vec<_>>(), expected);
        assert_eq!(parse("{\"a\": \"// no /* comment\"}").unwrap().comments, []);
    }

    #[test]
    fn unrepresentable_tokens_are_kept() {
        for token in [r#""\ud83d""#, r#""a\udc00 b""#, "1e999", "-1E+400"] {
            let text = format!("{{\"a\": [1, {token}]}}");
            let document = parse(&text).unwrap();
            assert_eq!(document.root.value(), json!({ "a": [1, token] }), "{text}");
            assert_eq!(document.root.opaque_token_at(), Some(10), "{text}");
        }
        assert_eq!(parse("{\"a\": [1, \"\\ud83d\\ude00\"]}").unwrap().root.opaque_token_at(), None);
    }

    #[test]
    fn syntax_errors_have_positions() {
        for (text, line, column) in [
            ("", 1, 1),
            ("{", 1, 2),
            ("{\n  \"a\": 1\n  \"b\": 2\n}", 3, 3),
            ("{\"a\": tru}", 1, 7),
            ("{\"a\" 1}", 1, 6),
            ("{a: 1}", 1, 2),
            ("{\"ä\": 'x'}", 1, 7),
            ("{\"a\": \"x\ny\"}", 1, 7),
            ("{\"a\": \"x}", 1, 7),
            ("{\"a\": \"\\ud83\"}", 1, 7),
            ("{\"a\": \"\\x\"}", 1, 7),
            ("{\"a\": 1e}", 1, 7),
            ("{\"a\": 01}", 1, 7),
            ("{} x", 1, 4),
            ("{} /* x", 1, 4),
            ("{} /*/", 1, 4),
            ("[1 2]", 1, 4),
            ("[,]", 1, 2),
            ("{,}", 1, 2),
            ("{\"a\": 1,,}", 1, 9),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(line_and_column(text, error.at), (line, column), "{text:?}: {error:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).unwrap_err().problem.contains("deep"));
    }
}
