//! JSON with comments and trailing commas, read with the place of everything in it.
//!
//! Owns the syntax. What it accepts is a little more than any host does, so that a file is refused
//! only where nobody could read it. Pure: text in, places out. Must not know what a text means.

use std::ops::Range;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Objects and lists inside each other, at most: no host nests its settings so deep.
const MAX_DEPTH: usize = 128;

const NO_STRING: &str = "this text holds an escape or a line break that is not JSON";

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// Byte offset.
    pub(crate) at: usize,
    /// What was expected.
    pub(crate) problem: &'static str,
}

/// A text that has been read.
#[derive(Debug)]
pub(crate) struct Document {
    /// Its one value.
    pub(crate) root: Node,
    /// Where comments stand, in order; those to the end of a line are without its break.
    pub(crate) comments: Vec<Comment>,
}

/// A comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comment {
    /// Its place.
    pub(crate) span: Range<usize>,
    /// Whether it goes to the end of its line (`//`).
    pub(crate) to_end_of_line: bool,
}

/// A value.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its place.
    pub(crate) span: Range<usize>,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What a value is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// An object's members, in order.
    Object(Vec<Member>),
    /// A list's values.
    List(Vec<Node>),
    /// Anything else.
    Scalar(Value),
    /// A token that is JSON and still no value that could be held: a text with half a surrogate
    /// pair, a number out of range. It is kept as it is written.
    Opaque(String),
}

/// A member of an object.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its name, read.
    pub(crate) key: String,
    /// The place of its name, quotes included.
    pub(crate) key_span: Range<usize>,
    /// Its value.
    pub(crate) value: Node,
    /// The place of the comma behind it.
    pub(crate) comma: Option<usize>,
}

impl Node {
    /// Its members, if it is an object.
    pub(crate) fn members(&self) -> Option<&[Member]> {
        match &self.kind {
            Kind::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The place of the first token in it that is no value.
    pub(crate) fn opaque_at(&self) -> Option<usize> {
        match &self.kind {
            Kind::Object(members) => members.iter().find_map(|member| member.value.opaque_at()),
            Kind::List(nodes) => nodes.iter().find_map(Self::opaque_at),
            Kind::Scalar(_) => None,
            Kind::Opaque(_) => Some(self.span.start),
        }
    }

    /// The value itself, without places. Of members of one name the last counts, as for any reader;
    /// an opaque token stands as a text of itself, to be compared only.
    pub(crate) fn value(&self) -> Value {
        match &self.kind {
            Kind::Object(members) => Value::Object(
                members
                    .iter()
                    .map(|member| (member.key.clone(), member.value.value()))
                    .collect::<Map<_, _>>(),
            ),
            Kind::List(nodes) => nodes.iter().map(Self::value).collect(),
            Kind::Scalar(value) => value.clone(),
            Kind::Opaque(token) => Value::from(token.as_str()),
        }
    }
}

/// Reads a text that holds one value. A byte order mark before it is passed over.
///
/// # Errors
/// See [`SyntaxError`].
pub(crate) fn parse(text: &str) -> Result<Document, SyntaxError> {
    let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut reader = Reader { text, at, comments: Vec::new() };
    reader.skip()?;
    let root = reader.value(0)?;
    reader.skip()?;
    if reader.at < text.len() {
        return Err(reader.error("the end of the file was expected"));
    }
    Ok(Document { root, comments: reader.comments })
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    comments: Vec<Comment>,
}

impl Reader<'_> {
    fn error(&self, problem: &'static str) -> SyntaxError {
        SyntaxError { at: self.at, problem }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes over white space and comments.
    fn skip(&mut self) -> Result<(), SyntaxError> {
        loop {
            let begin = self.at;
            match self.byte() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(b'/') if self.rest().starts_with("//") => {
                    let rest = self.rest();
                    let length = rest.find('\n').unwrap_or(rest.len());
                    // The break may have two characters.
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

    fn object(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
        self.at += 1;
        let mut members: Vec<Member> = Vec::new();
        loop {
            self.skip()?;
            match self.byte() {
                Some(b'}') => break,
                Some(b'"') if members.last().is_none_or(|last| last.comma.is_some()) => {}
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
            members.push(Member { key, key_span, value, comma });
        }
        self.at += 1;
        Ok(Kind::Object(members))
    }

    fn list(&mut self, depth: usize) -> Result<Kind, SyntaxError> {
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
        Ok(Kind::List(nodes))
    }

    /// The place of a comma behind a value, if there is one.
    fn comma(&mut self) -> Result<Option<usize>, SyntaxError> {
        self.skip()?;
        let comma = (self.byte() == Some(b',')).then_some(self.at);
        self.at += usize::from(comma.is_some());
        Ok(comma)
    }

    fn key(&mut self) -> Result<String, SyntaxError> {
        let length = self.string_length()?;
        let key =
            serde_json::from_str(&self.rest()[..length]).map_err(|_| self.error(NO_STRING))?;
        self.at += length;
        Ok(key)
    }

    fn text(&mut self) -> Result<Kind, SyntaxError> {
        let length = self.string_length()?;
        self.token(length, NO_STRING)
    }

    /// The bytes of the string that begins here, both quotes included.
    fn string_length(&self) -> Result<usize, SyntaxError> {
        let mut is_escaped = false;
        let end = self.rest().bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            ends
        });
        let Some(end) = end else { return Err(self.error("this text does not end")) };
        Ok(end + 2)
    }

    fn word(&mut self) -> Result<Kind, SyntaxError> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        let rest = self.rest();
        let length = rest.bytes().position(|byte| !is_word(byte)).unwrap_or(rest.len());
        self.token(length, "a value was expected")
    }

    /// A token of that many bytes; `problem` is what to say where it is not JSON.
    fn token(&mut self, length: usize, problem: &'static str) -> Result<Kind, SyntaxError> {
        let token = &self.rest()[..length];
        let kind = match serde_json::from_str(token) {
            Ok(value) => Kind::Scalar(value),
            // This reads the syntax only, and takes what no value can hold.
            Err(_) => match serde_json::from_str::<&RawValue>(token) {
                Ok(raw) => Kind::Opaque(raw.get().to_owned()),
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
    fn comments_and_trailing_commas_are_read_over() {
        let text = "\u{feff}// head\r\n{ /* a */ \"a\" : [1, 2.5e3, /* */ ], // b\n\"\\u0062\": {\"c\": null,},\n} // end";
        let document = parse(text).unwrap();
        assert_eq!(document.root.value(), json!({ "a": [1, 2500.0], "b": { "c": null } }));
        let comments = document.comments.iter().map(|comment| &text[comment.span.clone()]);
        let expected = ["// head", "/* a */", "/* */", "// b", "// end"];
        assert_eq!(comments.collect::<Vec<_>>(), expected);
        assert_eq!(parse("{\"a\": \"// no /* comment\"}").unwrap().comments, []);
    }

    #[test]
    fn what_is_json_and_no_value_is_kept_as_it_is_written() {
        for token in [r#""\ud83d""#, r#""a\udc00 b""#, "1e999", "-1E+400"] {
            let text = format!("{{\"a\": [1, {token}]}}");
            let document = parse(&text).unwrap();
            assert_eq!(document.root.value(), json!({ "a": [1, token] }), "{text}");
            assert_eq!(document.root.opaque_at(), Some(10), "{text}");
        }
        assert_eq!(parse("{\"a\": [1, \"\\ud83d\\ude00\"]}").unwrap().root.opaque_at(), None);
    }

    #[test]
    fn what_nobody_could_read_is_refused_where_it_stands() {
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
