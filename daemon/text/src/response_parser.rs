//! Response parser: splits model output into reasoning, tool calls and content.
//!
//! Owns the order of parsing: reasoning first, then tool calls; the rest is content. Stop strings apply
//! to content only, because the client's stop strings do not concern the model's reasoning or its syntax
//! for tool calls. Each output is parsed twice, in different pieces: on the engine thread, where a stop
//! string ends the sequence before the next step, and in the service, which sends events. Both results
//! are equal, because the result does not depend on where the text is cut. Does not know tokens,
//! requests or events.

use super::TextError;
use super::reasoning::{ReasoningSplitter, Section};
use super::stop::StopMatcher;
use super::tool_calls::{ToolFormat, ToolParser, ToolPart};

/// Syntax of one response.
#[derive(Debug, Clone, Default)]
pub struct ResponseSyntax {
    /// Whether reasoning may come first.
    pub may_reason: bool,
    /// The tag that ends the reasoning, if the prompt has already opened it.
    pub reasoning_end: Option<&'static str>,
    /// How the response calls tools, if the request has any.
    pub tools: Option<ToolSyntax>,
    /// Stop strings of the content.
    pub stops: Vec<String>,
}

/// Syntax of tool calls.
#[derive(Debug, Clone)]
pub struct ToolSyntax {
    /// The model's format of calls.
    pub format: ToolFormat,
    /// Names of the request's tools.
    pub names: Vec<String>,
    /// Whether a response without calls follows the client's response format. Then a response that does
    /// not begin with a call is content to its end.
    pub has_response_format: bool,
}

/// A parsed part of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponsePart<'a> {
    /// Reasoning text.
    Reasoning(&'a str),
    /// Content text.
    Content(&'a str),
    /// A call of this tool begins.
    Begin(String),
    /// The next piece of the call's arguments.
    Arguments(String),
    /// The call has ended, complete or not.
    End,
}

/// Incremental parser of one response.
#[derive(Debug, Clone)]
pub struct ResponseParser {
    splitter: Option<ReasoningSplitter>,
    parser: Option<ToolParser>,
    stops: StopMatcher,
    stopped: Option<String>,
}

impl ResponseParser {
    /// Creates a parser for a response of this syntax.
    ///
    /// # Errors
    /// [`TextError::EmptyStop`].
    pub fn new(syntax: ResponseSyntax) -> Result<Self, TextError> {
        let ResponseSyntax { may_reason, reasoning_end, tools, stops } = syntax;
        let parser = tools.map(|ToolSyntax { format, names, has_response_format }| {
            let parser = ToolParser::new(format, names);
            if has_response_format { parser.with_response_format() } else { parser }
        });
        Ok(Self {
            splitter: may_reason.then(|| ReasoningSplitter::new(reasoning_end)),
            parser,
            stops: StopMatcher::new(stops)?,
            stopped: None,
        })
    }

    /// Whether the syntax has stop strings.
    #[must_use]
    pub fn has_stops(&self) -> bool {
        !self.stops.is_empty()
    }

    /// The stop string that ended the content. No part follows it.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Parses `text`, and passes the parts that are certain to `out`.
    pub fn push(&mut self, text: &str, out: &mut impl FnMut(ResponsePart<'_>)) {
        let Some(mut splitter) = self.splitter.take() else { return self.answer(text, out) };
        splitter.push(text, &mut |section, text| self.section(section, text, out));
        self.splitter = Some(splitter);
    }

    /// Ends the response, and passes held-back text to `out`.
    pub fn finish(&mut self, out: &mut impl FnMut(ResponsePart<'_>)) {
        if let Some(mut splitter) = self.splitter.take() {
            splitter.finish(&mut |section, text| self.section(section, text, out));
        }
        if let Some(mut parser) = self.parser.take() {
            parser.finish().into_iter().for_each(|part| self.tool_part(part, out));
        }
        self.release(out);
    }

    fn section(&mut self, section: Section, text: &str, out: &mut impl FnMut(ResponsePart<'_>)) {
        match section {
            Section::Reasoning => out(ResponsePart::Reasoning(text)),
            Section::Text => self.answer(text, out),
        }
    }

    fn answer(&mut self, text: &str, out: &mut impl FnMut(ResponsePart<'_>)) {
        match &mut self.parser {
            Some(parser) => {
                parser.push(text).into_iter().for_each(|part| self.tool_part(part, out))
            }
            None => self.content(text, out),
        }
    }

    fn tool_part(&mut self, part: ToolPart, out: &mut impl FnMut(ResponsePart<'_>)) {
        if self.stopped.is_some() {
            return;
        }
        match part {
            ToolPart::Text(text) => self.content(&text, out),
            ToolPart::Begin { name } => {
                // No stop string reaches across a call.
                self.release(out);
                out(ResponsePart::Begin(name));
            }
            ToolPart::Arguments(more) => out(ResponsePart::Arguments(more)),
            ToolPart::End => out(ResponsePart::End),
        }
    }

    fn content(&mut self, text: &str, out: &mut impl FnMut(ResponsePart<'_>)) {
        let piece = self.stops.push(text);
        if !piece.text.is_empty() {
            out(ResponsePart::Content(&piece.text));
        }
        if piece.stopped.is_some() {
            self.stopped = piece.stopped;
        }
    }

    /// Passes text to `out` that was held back as a possible stop string.
    fn release(&mut self, out: &mut impl FnMut(ResponsePart<'_>)) {
        let held = self.stops.finish();
        if !held.is_empty() {
            out(ResponsePart::Content(&held));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALL: &str = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":\n1}}\n</tool_call>";

    fn syntax(stops: &[&str]) -> ResponseSyntax {
        let names = vec!["f".to_owned()];
        let tools = ToolSyntax { format: ToolFormat::Hermes, names, has_response_format: false };
        let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
        ResponseSyntax { may_reason: true, reasoning_end: None, tools: Some(tools), stops }
    }

    /// The parsed text, with everything but content in brackets, and the stop string that ended it.
    /// Pieces after the one with the stop string are not parsed.
    fn parse(syntax: ResponseSyntax, pieces: &[&str]) -> (String, Option<String>) {
        let (mut parts, mut parser) = (Vec::new(), ResponseParser::new(syntax).unwrap());
        let mut out = |part: ResponsePart<'_>| {
            let (kind, text) = match part {
                ResponsePart::Reasoning(text) => ('t', text.to_owned()),
                ResponsePart::Content(text) => ('c', text.to_owned()),
                ResponsePart::Begin(name) => ('b', name),
                ResponsePart::Arguments(text) => ('a', text),
                ResponsePart::End => ('e', String::new()),
            };
            match parts.last_mut() {
                Some((last, before)) if *last == kind => String::push_str(before, &text),
                _ => parts.push((kind, text)),
            }
        };
        for piece in pieces {
            parser.push(piece, &mut out);
            if parser.stopped().is_some() {
                break;
            }
        }
        parser.finish(&mut out);
        let stopped = parser.stopped().map(str::to_owned);
        let shown = parts.into_iter().map(|(kind, text)| match kind {
            'c' => text,
            't' => format!("[{text}]"),
            'b' => format!("[{text}("),
            'a' => text,
            _ => ")]".to_owned(),
        });
        (shown.collect(), stopped)
    }

    #[test]
    fn stop_strings_apply_to_content_only() {
        let called = "[f({\"a\":\n1})]";
        for (stops, text, parsed, stopped) in [
            (
                &["\n\n"][..],
                "<think>\na\n\nb</think>\n\nHi\n\nyou".to_owned(),
                "[a\n\nb]Hi",
                Some("\n\n"),
            ),
            (&["think"], "<think>think</think>thin".to_owned(), "[think]thin", None),
            (&["\n"], format!("{CALL}\n{CALL}"), &format!("{called}{called}"), None),
            (&["tool"], format!("I look.\n{CALL}"), &format!("I look.{called}"), None),
            (&["\n"], format!("I\nlook.\n{CALL}"), "I", Some("\n")),
            (&[".["], format!("I look.{CALL}"), &format!("I look.{called}"), None),
            (&["so"], format!("{CALL} so it is"), &format!("{called} "), Some("so")),
            // An incomplete tag of a call is content. This is certain only when the text ends.
            (&["<t"], "a <tool_c".to_owned(), "a ", Some("<t")),
            (&["<t"], "a <tool_call> b".to_owned(), "a ", Some("<t")),
            (&["b"], "a".to_owned(), "a", None),
            (&[], "a".to_owned(), "a", None),
        ] {
            let expected = (parsed.to_owned(), stopped.map(str::to_owned));
            assert_eq!(parse(syntax(stops), &[&text]), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn cutting_text_anywhere_gives_equal_parts(
            pieces in proptest::collection::vec(
                "(<think>|</think>|<tool_call>|</tool_call>|\\{\"name\": \"f\", \"arguments\": |\
                  \\{\"a\": 1\\}|\\}|[\"ab<\n ]){0,4}", 0..10),
            stops in proptest::collection::vec("[ab<\n]{1,3}", 0..3),
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            prop_assert_eq!(parse(syntax(&stops), &pieces), parse(syntax(&stops), &[&whole]));
        }
    }
}
