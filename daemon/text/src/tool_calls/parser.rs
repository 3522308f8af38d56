//! Tool-call parser: finds calls in a model's text while it is generated.
//!
//! Owns the text that is held back because it may become a call. Works character by character, so that
//! the result does not depend on where the text is cut. Held-back text that does not become a call is
//! text. A call is certain once its name has been given out, even if its arguments are invalid.
//!
//! With a response format ([`super::grammar`] with content) a response is calls or content, never both:
//! a response that does not begin with a call is content to its end. Where a call is a bare object, which
//! the content may be too, it is a call only when it is complete, has no other fields than the grammar
//! gives a call, and names a tool of the request.

use crate::limits;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::envelope::{Envelope, EnvelopePart, NoCall};
use super::{ToolFormat, is_name_byte, is_tool_name};

/// A parsed part of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolPart {
    /// Text.
    Text(String),
    /// A call begins.
    Begin {
        /// The tool.
        name: String,
    },
    /// The next piece of the arguments' JSON text, as the model wrote it.
    Arguments(String),
    /// The call has ended, complete or not.
    End,
}

/// Incremental parser of one response.
#[derive(Debug, Clone)]
pub struct ToolParser {
    format: ToolFormat,
    /// Names of the request's tools. A bare call with another name is text.
    names: Vec<String>,
    /// Whether content follows the client's response format.
    has_response_format: bool,
    state: State,
    /// White space that is text only if text follows.
    space: String,
    /// Text that may be the beginning of a tag.
    tag: String,
    /// Text of a possible call, which stays text if it does not become one.
    raw: String,
    /// Number of calls so far.
    calls: usize,
    /// Whether there was no text since the beginning or the last call.
    is_fresh: bool,
    out: Vec<ToolPart>,
}

/// The bare object of a call, without other fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BareCall {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "parameters")]
    _parameters: Map<String, Value>,
}

/// A bare call as far as it has been parsed.
#[derive(Debug, Clone, Default)]
struct PartialCall {
    /// The name; empty until it is known.
    name: String,
    arguments: String,
}

#[derive(Debug, Clone)]
enum State {
    Text,
    /// After the tag that opens calls.
    Opened,
    /// In Mistral's list, before a call.
    Item,
    /// In Mistral's list, after a call.
    AfterItem,
    /// A tool's name outside of JSON.
    Name(String),
    /// After such a name: in the tag before its arguments.
    Tag {
        name: String,
        tag: String,
    },
    /// The call's id in the model's text, which is ignored.
    CallId {
        name: String,
    },
    /// In the object of a call.
    Call {
        envelope: Envelope,
        is_item: bool,
        is_bare: bool,
    },
    /// In an object that is a call or content, which is certain only at its end.
    Either {
        envelope: Envelope,
        call: PartialCall,
    },
}

impl ToolParser {
    /// Creates a parser for a response that may call tools of these names.
    #[must_use]
    pub fn new(format: ToolFormat, names: Vec<String>) -> Self {
        Self {
            format,
            names,
            has_response_format: false,
            state: State::Text,
            space: String::new(),
            tag: String::new(),
            raw: String::new(),
            calls: 0,
            is_fresh: true,
            out: Vec::new(),
        }
    }

    /// Sets that a response without calls follows the client's response format.
    #[must_use]
    pub fn with_response_format(mut self) -> Self {
        self.has_response_format = true;
        self
    }

    /// Parses `text` and returns the parts that are certain.
    pub fn push(&mut self, text: &str) -> Vec<ToolPart> {
        text.chars().for_each(|c| self.step(c));
        std::mem::take(&mut self.out)
    }

    /// Ends the response and returns the held-back parts.
    pub fn finish(&mut self) -> Vec<ToolPart> {
        match std::mem::replace(&mut self.state, State::Text) {
            State::Text => {
                // White space after a call is dropped, and so is the beginning of its closing tag.
                let is_end = self.tag.is_empty()
                    || self.format.closer().is_some_and(|closer| closer.starts_with(&self.tag));
                if !(self.is_fresh && self.calls > 0 && is_end) {
                    self.flush_tag();
                }
            }
            State::Call { envelope, .. } if envelope.has_begun() => self.out.push(ToolPart::End),
            State::AfterItem => {}
            _ => self.give_up(),
        }
        std::mem::take(&mut self.out)
    }

    fn step(&mut self, c: char) {
        let state = std::mem::replace(&mut self.state, State::Text);
        match state {
            State::Text => self.text(c),
            State::Opened => self.opened(c),
            State::Item => self.item(c),
            State::AfterItem => match c {
                ',' => self.hold(c, State::Item),
                ']' => {}
                c if c.is_ascii_whitespace() => self.state = State::AfterItem,
                _ => self.text(c),
            },
            State::Name(name) => self.name(name, c),
            State::Tag { name, tag } => self.tag_after_name(name, tag, c),
            State::CallId { name } => match c {
                '[' => self.hold(c, State::Tag { name, tag: "[".to_owned() }),
                c if c.is_ascii_alphanumeric() => self.hold(c, State::CallId { name }),
                _ => self.no_call(c),
            },
            State::Call { envelope, is_item, is_bare } => self.call(envelope, is_item, is_bare, c),
            State::Either { envelope, call } => self.call_or_content(envelope, call, c),
        }
    }

    fn text(&mut self, c: char) {
        if !self.tag.is_empty() {
            self.tag.push(c);
            if self.tag == self.format.opener() {
                self.raw = std::mem::take(&mut self.tag);
                self.state = State::Opened;
            } else if self.is_fresh && self.format.closer() == Some(&self.tag) {
                self.tag.clear();
                self.space.clear();
            } else if !self.may_be_tag() {
                self.tag.pop();
                self.flush_tag();
                self.text(c);
            }
            return;
        }
        let is_separator = self.is_fresh && self.calls > 0 && c == ';';
        if c.is_whitespace() || (is_separator && self.format == ToolFormat::Llama3) {
            self.space.push(c);
            return;
        }
        let has_room = self.calls < limits::TOOL_CALLS;
        if c == '{' && self.is_fresh && has_room && self.may_be_bare() {
            let envelope = Envelope::new(true);
            let state = match self.has_response_format {
                true => State::Either { envelope, call: PartialCall::default() },
                false => State::Call { envelope, is_item: false, is_bare: true },
            };
            self.hold(c, state);
            return;
        }
        self.tag.push(c);
        if !self.may_be_tag() {
            self.flush_tag();
        }
    }

    /// Whether an object in the place of a call may be one. A grammar writes no bare calls in a format
    /// with tags.
    fn may_be_bare(&self) -> bool {
        self.format.may_be_bare() && !(self.has_response_format && self.format.closer().is_some())
    }

    /// Whether the held-back text may become a tag.
    fn may_be_tag(&self) -> bool {
        let has_room =
            self.calls < limits::TOOL_CALLS && (self.is_fresh || !self.has_response_format);
        let opens = has_room && self.format.opener().starts_with(&self.tag);
        let closes =
            |closer: &str| self.calls > 0 && self.is_fresh && closer.starts_with(&self.tag);
        opens || self.format.closer().is_some_and(closes)
    }

    fn opened(&mut self, c: char) {
        match (self.format, c) {
            (_, c) if c.is_ascii_whitespace() => self.hold(c, State::Opened),
            (_, '{') => {
                let envelope = Envelope::new(false);
                self.hold(c, State::Call { envelope, is_item: false, is_bare: false });
            }
            (ToolFormat::MistralList | ToolFormat::MistralNamed, '[') => self.hold(c, State::Item),
            (ToolFormat::MistralList | ToolFormat::MistralNamed, c)
                if u8::try_from(c).is_ok_and(is_name_byte) =>
            {
                self.hold(c, State::Name(c.to_string()));
            }
            _ => self.no_call(c),
        }
    }

    fn item(&mut self, c: char) {
        match c {
            '{' if self.calls < limits::TOOL_CALLS => {
                let envelope = Envelope::new(false);
                self.hold(c, State::Call { envelope, is_item: true, is_bare: false });
            }
            c if c.is_ascii_whitespace() => self.hold(c, State::Item),
            _ => self.no_call(c),
        }
    }

    fn name(&mut self, mut name: String, c: char) {
        match c {
            '[' if is_tool_name(&name) => {
                self.hold(c, State::Tag { name, tag: "[".to_owned() });
            }
            '{' if is_tool_name(&name) => self.arguments_of(name, c),
            c if u8::try_from(c).is_ok_and(is_name_byte)
                && name.len() < limits::TOOL_NAME_CHARS =>
            {
                name.push(c);
                self.hold(c, State::Name(name));
            }
            _ => self.no_call(c),
        }
    }

    fn tag_after_name(&mut self, name: String, mut tag: String, c: char) {
        const ARGUMENTS: &str = "[ARGS]";
        const CALL_ID: &str = "[CALL_ID]";
        if tag == ARGUMENTS {
            return match c {
                '{' => self.arguments_of(name, c),
                c if c.is_ascii_whitespace() => self.hold(c, State::Tag { name, tag }),
                _ => self.no_call(c),
            };
        }
        tag.push(c);
        if tag == CALL_ID {
            self.hold(c, State::CallId { name });
        } else if ARGUMENTS.starts_with(&tag) || CALL_ID.starts_with(&tag) {
            self.hold(c, State::Tag { name, tag });
        } else {
            self.no_call(c);
        }
    }

    fn arguments_of(&mut self, name: String, c: char) {
        let envelope = Envelope::arguments_of(name);
        self.call(envelope, false, false, c);
    }

    fn call(&mut self, mut envelope: Envelope, is_item: bool, is_bare: bool, c: char) {
        let mut said = Vec::new();
        let outcome = envelope.step(c, &mut |piece| said.push(piece));
        let mut has_ended = false;
        for piece in said {
            match piece {
                EnvelopePart::Name(name) => {
                    if is_bare && !self.names.contains(&name) {
                        return self.no_call(c);
                    }
                    self.raw.clear();
                    self.space.clear();
                    self.calls += 1;
                    self.is_fresh = true;
                    self.out.push(ToolPart::Begin { name });
                }
                EnvelopePart::Arguments(text) => match self.out.last_mut() {
                    Some(ToolPart::Arguments(arguments)) => arguments.push_str(&text),
                    _ => self.out.push(ToolPart::Arguments(text)),
                },
                EnvelopePart::End => {
                    self.out.push(ToolPart::End);
                    has_ended = true;
                }
            }
        }
        match outcome {
            Ok(()) if has_ended => {
                self.state = if is_item { State::AfterItem } else { State::Text };
            }
            Ok(()) => {
                self.state = State::Call { envelope, is_item, is_bare };
                if !self.holds_call() {
                    self.raw.push(c);
                    if self.raw.len() > limits::TOOL_CALL_HELD_BYTES {
                        self.state = State::Text;
                        self.give_up();
                    }
                }
            }
            Err(NoCall) if envelope.has_begun() => {
                self.out.push(ToolPart::End);
                self.text(c);
            }
            Err(NoCall) => self.no_call(c),
        }
    }

    /// In an object that may be content as well as a call.
    fn call_or_content(&mut self, mut envelope: Envelope, mut call: PartialCall, c: char) {
        let mut is_whole = false;
        let outcome = envelope.step(c, &mut |piece| match piece {
            EnvelopePart::Name(name) => call.name = name,
            EnvelopePart::Arguments(more) => call.arguments.push_str(&more),
            EnvelopePart::End => is_whole = true,
        });
        let may_be_call = call.name.is_empty() || self.names.contains(&call.name);
        if outcome.is_err() || !may_be_call {
            return self.no_call(c);
        }
        if !is_whole && call.name.is_empty() {
            return self.hold(c, State::Either { envelope, call });
        }
        self.raw.push(c);
        if !is_whole {
            // An object with a tool's name is very probably a call, so it may be as long as one.
            self.state = State::Either { envelope, call };
            return;
        }
        if serde_json::from_str::<BareCall>(&self.raw).is_err() {
            return self.give_up();
        }
        self.raw.clear();
        self.space.clear();
        self.calls += 1;
        let PartialCall { name, arguments } = call;
        self.out.extend([ToolPart::Begin { name }, ToolPart::Arguments(arguments), ToolPart::End]);
    }

    /// Whether the current call is certain.
    fn holds_call(&self) -> bool {
        matches!(&self.state, State::Call { envelope, .. } if envelope.has_begun())
    }

    /// Holds back a character that may belong to a call.
    fn hold(&mut self, c: char, state: State) {
        self.raw.push(c);
        self.state = state;
        if self.raw.len() > limits::TOOL_CALL_HELD_BYTES {
            self.state = State::Text;
            self.give_up();
        }
    }

    /// Gives up a possible call: the held-back text is text, and `c` follows it.
    fn no_call(&mut self, c: char) {
        self.give_up();
        self.text(c);
    }

    fn give_up(&mut self) {
        let raw = std::mem::take(&mut self.raw);
        self.emit(&raw);
    }

    fn flush_tag(&mut self) {
        let tag = std::mem::take(&mut self.tag);
        self.emit(&tag);
    }

    /// Gives out text with the white space before it.
    fn emit(&mut self, text: &str) {
        let mut all = std::mem::take(&mut self.space);
        all.push_str(text);
        if all.is_empty() {
            return;
        }
        self.is_fresh = false;
        match self.out.last_mut() {
            Some(ToolPart::Text(before)) => before.push_str(&all),
            _ => self.out.push(ToolPart::Text(all)),
        }
    }
}
