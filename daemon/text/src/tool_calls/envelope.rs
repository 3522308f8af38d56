//! The JSON object of one call, read character by character.
//!
//! Owns finding name and arguments in it. Arguments are passed on as they come and as they are: a
//! model may write them badly, and then they are still its caller's to see.

use crate::limits;

/// Brackets of arguments inside each other.
const MAX_NESTING: usize = 128;

/// Bytes of a member's name, or of a tool's name as written.
const MAX_KEY_BYTES: usize = 512;

/// What a character of a call has made certain.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EnvelopePart {
    /// Which tool is called; arguments follow.
    Name(String),
    /// More of the arguments.
    Arguments(String),
    /// The call is whole.
    End,
}

/// It is no call. `took`: whether the character that showed it belongs to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoCall;

/// One call under way.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    at: At,
    /// The tool's name, until it has been said.
    name: Option<String>,
    /// Arguments that came before the name, whole.
    early: Option<String>,
    has_said_name: bool,
    has_arguments: bool,
    /// Whether nothing but the arguments is written: the name stood elsewhere.
    is_arguments_only: bool,
    /// Whether there was nothing to tell the object from any other: only members of a call may be
    /// in it.
    is_bare: bool,
}

#[derive(Debug, Clone)]
enum At {
    /// Before the first member's name, or behind a comma.
    Key,
    InKey(Value),
    Colon(Member),
    Value(Member),
    In(Member, Value),
    /// Behind a value.
    Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Name,
    Arguments,
    Other,
}

impl Envelope {
    /// Behind the brace that opens a call.
    pub(super) fn new(is_bare: bool) -> Self {
        Self {
            at: At::Key,
            name: None,
            early: None,
            has_said_name: false,
            has_arguments: false,
            is_arguments_only: false,
            is_bare,
        }
    }

    /// Before the arguments of a tool that has been named.
    pub(super) fn arguments_of(name: String) -> Self {
        Self {
            at: At::Value(Member::Arguments),
            name: Some(name),
            is_arguments_only: true,
            ..Self::new(false)
        }
    }

    /// Takes the next character.
    pub(super) fn step(
        &mut self,
        c: char,
        said: &mut impl FnMut(EnvelopePart),
    ) -> Result<(), NoCall> {
        match &mut self.at {
            At::Key | At::Colon(_) | At::Value(_) | At::Next if c.is_ascii_whitespace() => {}
            At::Key => match c {
                '"' => self.at = At::InKey(Value::begin(c)?),
                '}' => return self.close(said),
                _ => return Err(NoCall),
            },
            At::InKey(value) => {
                if value.step(c)? == Step::Last {
                    let key = value.string().ok_or(NoCall)?;
                    self.at = At::Colon(self.member(&key)?);
                }
            }
            At::Colon(member) if c == ':' => self.at = At::Value(*member),
            At::Colon(_) => return Err(NoCall),
            At::Value(member) => {
                let member = *member;
                let value = Value::begin(c)?;
                if member == Member::Arguments {
                    self.has_arguments = true;
                    if value.is_container() && self.say_name(said) {
                        said(EnvelopePart::Arguments(c.to_string()));
                    }
                }
                self.at = At::In(member, value);
            }
            At::In(member, value) => {
                let member = *member;
                let step = value.step(c)?;
                let streams =
                    member == Member::Arguments && value.is_container() && self.has_said_name;
                if streams && step != Step::Before {
                    said(EnvelopePart::Arguments(c.to_string()));
                    value.forget();
                }
                if step != Step::More {
                    let At::In(_, value) = std::mem::replace(&mut self.at, At::Next) else {
                        return Err(NoCall);
                    };
                    self.end_value(member, value, streams, said)?;
                    if self.is_arguments_only {
                        return self.close(said);
                    }
                    if step == Step::Before {
                        return self.step(c, said);
                    }
                }
            }
            At::Next => match c {
                ',' => self.at = At::Key,
                '}' => return self.close(said),
                _ => return Err(NoCall),
            },
        }
        Ok(())
    }

    /// Whether its name has been said, so that it can no longer be taken for text.
    pub(super) fn has_begun(&self) -> bool {
        self.has_said_name
    }

    fn member(&self, key: &str) -> Result<Member, NoCall> {
        Ok(match key {
            "name" if self.name.is_none() && !self.has_said_name => Member::Name,
            "arguments" | "parameters" if !self.has_arguments => Member::Arguments,
            "name" | "arguments" | "parameters" | "id" | "type" => Member::Other,
            _ if self.is_bare => return Err(NoCall),
            _ => Member::Other,
        })
    }

    /// Says the name, if it is known. Whether arguments can follow.
    fn say_name(&mut self, said: &mut impl FnMut(EnvelopePart)) -> bool {
        if let Some(name) = self.name.take() {
            self.has_said_name = true;
            said(EnvelopePart::Name(name));
        }
        self.has_said_name
    }

    fn end_value(
        &mut self,
        member: Member,
        value: Value,
        was_streamed: bool,
        said: &mut impl FnMut(EnvelopePart),
    ) -> Result<(), NoCall> {
        match member {
            Member::Name => {
                let name = value.string().filter(|name| super::is_tool_name(name));
                self.name = Some(name.ok_or(NoCall)?);
            }
            Member::Arguments if !was_streamed => {
                self.early = Some(value.arguments());
            }
            Member::Arguments | Member::Other => {}
        }
        if self.early.is_some() && self.say_name(said) {
            said(EnvelopePart::Arguments(self.early.take().unwrap_or_default()));
        }
        Ok(())
    }

    fn close(&mut self, said: &mut impl FnMut(EnvelopePart)) -> Result<(), NoCall> {
        if !self.say_name(said) {
            return Err(NoCall);
        }
        if !self.has_arguments {
            said(EnvelopePart::Arguments("{}".to_owned()));
        }
        said(EnvelopePart::End);
        Ok(())
    }
}

/// What a character is to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Its last one comes later.
    More,
    /// Its last.
    Last,
    /// It was whole before.
    Before,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Container,
    String,
    /// A number, `true`, `false` or `null`.
    Word,
}

/// A value under way, with its text.
#[derive(Debug, Clone)]
struct Value {
    kind: Kind,
    text: String,
    /// Brackets that are open.
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

    /// Its text so far is known elsewhere.
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

    /// What a string says.
    fn string(&self) -> Option<String> {
        if self.kind != Kind::String || self.text.len() > MAX_KEY_BYTES {
            return None;
        }
        serde_json::from_str(&self.text).ok()
    }

    /// As arguments: some models write the object into a string, and `null` for none.
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
