//! Call envelope: the JSON object of one tool call, parsed character by character.
//!
//! Owns finding the name and the arguments in it. Arguments are passed on unchanged and at once: even
//! invalid arguments reach the client, which can then see the model's mistake.

use crate::limits;

/// Maximum nesting of brackets in arguments.
const MAX_NESTING: usize = 128;

/// Maximum size of a field's name, or of a tool's name in its JSON spelling, in bytes.
const MAX_KEY_BYTES: usize = 512;

/// A part of a call that has become certain.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EnvelopePart {
    /// The tool's name; arguments follow.
    Name(String),
    /// The next piece of the arguments.
    Arguments(String),
    /// The call is complete.
    End,
}

/// The object is not a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoCall;

/// One call during its parsing.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    at: Position,
    /// The tool's name, until it has been given out.
    name: Option<String>,
    /// Complete arguments that came before the name.
    early: Option<String>,
    is_name_out: bool,
    has_arguments: bool,
    /// Whether the object is only the arguments, because the name came before it.
    is_arguments_only: bool,
    /// Whether no tag came before the object. Then only the fields of a call may be in it.
    is_bare: bool,
}

#[derive(Debug, Clone)]
enum Position {
    /// Before a field's name.
    Key,
    /// In a field's name.
    InKey(Value),
    /// Before the colon of a field.
    Colon(Field),
    /// Before the value of a field.
    Value(Field),
    /// In the value of a field.
    InValue(Field, Value),
    /// After a value.
    Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    Other,
}

impl Envelope {
    /// Starts after the opening brace of a call.
    pub(super) fn new(is_bare: bool) -> Self {
        Self {
            at: Position::Key,
            name: None,
            early: None,
            is_name_out: false,
            has_arguments: false,
            is_arguments_only: false,
            is_bare,
        }
    }

    /// Starts before the arguments of a tool whose name is known.
    pub(super) fn arguments_of(name: String) -> Self {
        Self {
            at: Position::Value(Field::Arguments),
            name: Some(name),
            is_arguments_only: true,
            ..Self::new(false)
        }
    }

    /// Parses the next character.
    pub(super) fn step(
        &mut self,
        c: char,
        out: &mut impl FnMut(EnvelopePart),
    ) -> Result<(), NoCall> {
        match &mut self.at {
            Position::Key | Position::Colon(_) | Position::Value(_) | Position::Next
                if c.is_ascii_whitespace() => {}
            Position::Key => match c {
                '"' => self.at = Position::InKey(Value::begin(c)?),
                '}' => return self.close(out),
                _ => return Err(NoCall),
            },
            Position::InKey(value) => {
                if value.step(c)? == Step::Last {
                    let key = value.string().ok_or(NoCall)?;
                    self.at = Position::Colon(self.field(&key)?);
                }
            }
            Position::Colon(field) if c == ':' => self.at = Position::Value(*field),
            Position::Colon(_) => return Err(NoCall),
            Position::Value(field) => {
                let field = *field;
                let value = Value::begin(c)?;
                if field == Field::Arguments {
                    self.has_arguments = true;
                    if value.is_container() && self.emit_name(out) {
                        out(EnvelopePart::Arguments(c.to_string()));
                    }
                }
                self.at = Position::InValue(field, value);
            }
            Position::InValue(field, value) => {
                let field = *field;
                let step = value.step(c)?;
                let streams = field == Field::Arguments && value.is_container() && self.is_name_out;
                if streams && step != Step::Before {
                    out(EnvelopePart::Arguments(c.to_string()));
                    value.forget();
                }
                if step != Step::More {
                    let Position::InValue(_, value) =
                        std::mem::replace(&mut self.at, Position::Next)
                    else {
                        return Err(NoCall);
                    };
                    self.end_value(field, value, streams, out)?;
                    if self.is_arguments_only {
                        return self.close(out);
                    }
                    if step == Step::Before {
                        return self.step(c, out);
                    }
                }
            }
            Position::Next => match c {
                ',' => self.at = Position::Key,
                '}' => return self.close(out),
                _ => return Err(NoCall),
            },
        }
        Ok(())
    }

    /// Whether the name has been given out, so that the object is certainly a call.
    pub(super) fn has_begun(&self) -> bool {
        self.is_name_out
    }

    fn field(&self, key: &str) -> Result<Field, NoCall> {
        Ok(match key {
            "name" if self.name.is_none() && !self.is_name_out => Field::Name,
            "arguments" | "parameters" if !self.has_arguments => Field::Arguments,
            "name" | "arguments" | "parameters" | "id" | "type" => Field::Other,
            _ if self.is_bare => return Err(NoCall),
            _ => Field::Other,
        })
    }

    /// Gives out the name, if it is known. Returns whether arguments can follow.
    fn emit_name(&mut self, out: &mut impl FnMut(EnvelopePart)) -> bool {
        if let Some(name) = self.name.take() {
            self.is_name_out = true;
            out(EnvelopePart::Name(name));
        }
        self.is_name_out
    }

    fn end_value(
        &mut self,
        field: Field,
        value: Value,
        was_streamed: bool,
        out: &mut impl FnMut(EnvelopePart),
    ) -> Result<(), NoCall> {
        match field {
            Field::Name => {
                let name = value.string().filter(|name| super::is_tool_name(name));
                self.name = Some(name.ok_or(NoCall)?);
            }
            Field::Arguments if !was_streamed => {
                self.early = Some(value.arguments());
            }
            Field::Arguments | Field::Other => {}
        }
        if self.early.is_some() && self.emit_name(out) {
            out(EnvelopePart::Arguments(self.early.take().unwrap_or_default()));
        }
        Ok(())
    }

    fn close(&mut self, out: &mut impl FnMut(EnvelopePart)) -> Result<(), NoCall> {
        if !self.emit_name(out) {
            return Err(NoCall);
        }
        if !self.has_arguments {
            out(EnvelopePart::Arguments("{}".to_owned()));
        }
        out(EnvelopePart::End);
        Ok(())
    }
}

/// Relation of a character to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The character belongs to the value, which continues.
    More,
    /// The character is the last one of the value.
    Last,
    /// The value was complete before the character.
    Before,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Container,
    String,
    /// A number, `true`, `false` or `null`.
    Word,
}

/// A value during its parsing, with its text.
#[derive(Debug, Clone)]
struct Value {
    kind: Kind,
    text: String,
    /// Number of open brackets.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Value {
    fn begin(c: char) -> Result<Self, NoCall> {
        let kind = match c {
            '{' | '[' => Kind::Container,
            '"' => Kind::String,
            '-' | '0'..='9' | 't' | 'f' | 'n' => Kind::Word,
            _ => return Err(NoCall),
        };
        Ok(Self {
            kind,
            text: c.to_string(),
            depth: usize::from(kind == Kind::Container),
            in_string: kind == Kind::String,
            is_escaped: false,
        })
    }

    fn is_container(&self) -> bool {
        self.kind == Kind::Container
    }

    /// Drops the text so far, which has been given out.
    fn forget(&mut self) {
        self.text.clear();
    }

    fn step(&mut self, c: char) -> Result<Step, NoCall> {
        if self.in_string {
            self.text.push(c);
            match c {
                _ if self.is_escaped => self.is_escaped = false,
                '\\' => self.is_escaped = true,
                '"' => {
                    self.in_string = false;
                    if self.kind == Kind::String {
                        return Ok(Step::Last);
                    }
                }
                _ => {}
            }
            return self.bounded();
        }
        match (self.kind, c) {
            (Kind::Word, ',' | '}' | ']') => return Ok(Step::Before),
            (Kind::Word, c) if c.is_ascii_whitespace() => return Ok(Step::Before),
            (Kind::Container, '"') => self.in_string = true,
            (Kind::Container, '{' | '[') => self.depth += 1,
            (Kind::Container, '}' | ']') => self.depth -= 1,
            (Kind::Container, ',' | ':' | ' ' | '\n' | '\r' | '\t') => {}
            (_, '+' | '-' | '.') => {}
            (_, c) if c.is_ascii_alphanumeric() => {}
            _ => return Err(NoCall),
        }
        if self.depth > MAX_NESTING {
            return Err(NoCall);
        }
        self.text.push(c);
        if self.is_container() && self.depth == 0 { Ok(Step::Last) } else { self.bounded() }
    }

    fn bounded(&self) -> Result<Step, NoCall> {
        let most = limits::TOOL_CALL_HELD_BYTES;
        if self.text.len() > most { Err(NoCall) } else { Ok(Step::More) }
    }

    /// The content of a string.
    fn string(&self) -> Option<String> {
        if self.kind != Kind::String || self.text.len() > MAX_KEY_BYTES {
            return None;
        }
        serde_json::from_str(&self.text).ok()
    }

    /// The value as arguments: some models write the object as a string, or `null` without arguments.
    fn arguments(self) -> String {
        if self.kind == Kind::String
            && let Ok(inner) = serde_json::from_str::<String>(&self.text)
            && serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&inner).is_ok()
        {
            return inner;
        }
        if self.text == "null" { "{}".to_owned() } else { self.text }
    }
}
