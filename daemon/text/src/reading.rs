//! What a conversation's answer says as it comes: thoughts, content and calls, up to a stop string.
//!
//! Owns the order in which a text is read: thoughts are parted from it, then calls, and what is left is
//! the content. Stop strings are looked for there alone: a model's thoughts and the way it writes a call
//! are not the caller's. One text is read twice, and cut differently: on the engine thread, where a stop
//! string ends it before the next step, and by the service, which tells the caller. Both get the same,
//! because it makes no difference where a text is cut. Knows nothing of tokens, requests or events.

use super::TextError;
use super::reasoning::{Part, Splitter};
use super::stop::StopMatcher;
use super::tool_calls::{Piece, ToolFormat, ToolParser};

/// How an answer is to be read.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Whether the model may think first.
    pub may_think: bool,
    /// What ends the thought that the prompt ends inside of, if it does.
    pub thought: Option<&'static str>,
    /// How it calls tools, if there are any.
    pub tools: Option<Calling>,
    /// What ends its content.
    pub stops: Vec<String>,
}

/// How an answer calls tools.
#[derive(Debug, Clone)]
pub struct Calling {
    /// How the model writes calls.
    pub format: ToolFormat,
    /// The tools there are.
    pub names: Vec<String>,
    /// Whether an answer that calls nothing has the caller's own form, so that what does not begin as
    /// a call is content to its end.
    pub is_formed: bool,
}

/// What more of an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said<'a> {
    /// Thoughts.
    Reasoning(&'a str),
    /// Content.
    Content(&'a str),
    /// A call of this tool begins.
    Begin(String),
    /// More of its arguments.
    Arguments(String),
    /// It has ended, whole or not.
    End,
}

/// Reads one answer.
#[derive(Debug, Clone)]
pub struct Reader {
    splitter: Option<Splitter>,
    parser: Option<ToolParser>,
    stops: StopMatcher,
    stopped: Option<String>,
}

impl Reader {
    /// Before the first token.
    ///
    /// # Errors
    /// [`TextError::EmptyStop`].
    pub fn new(reading: Reading) -> Result<Self, TextError> {
        let Reading { may_think, thought, tools, stops } = reading;
        let parser = tools.map(|Calling { format, names, is_formed }| {
            let parser = ToolParser::new(format, names);
            if is_formed { parser.beside_a_form() } else { parser }
        });
        Ok(Self {
            splitter: may_think.then(|| Splitter::new(thought)),
            parser,
            stops: StopMatcher::new(stops)?,
            stopped: None,
        })
    }

    /// Whether there is any stop string to be found.
    #[must_use]
    pub fn has_stops(&self) -> bool {
        !self.stops.is_empty()
    }

    /// The stop string that ended the content. Nothing is said behind it.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Gives `out` what is certain after `text`.
    pub fn push(&mut self, text: &str, out: &mut impl FnMut(Said<'_>)) {
        let Some(mut splitter) = self.splitter.take() else { return self.answer(text, out) };
        splitter.push(text, &mut |part, text| self.part(part, text, out));
        self.splitter = Some(splitter);
    }

    /// Gives `out` what was held back, when no text follows.
    pub fn finish(&mut self, out: &mut impl FnMut(Said<'_>)) {
        if let Some(mut splitter) = self.splitter.take() {
            splitter.finish(&mut |part, text| self.part(part, text, out));
        }
        if let Some(mut parser) = self.parser.take() {
            parser.finish().into_iter().for_each(|piece| self.piece(piece, out));
        }
        self.release(out);
    }

    fn part(&mut self, part: Part, text: &str, out: &mut impl FnMut(Said<'_>)) {
        match part {
            Part::Reasoning => out(Said::Reasoning(text)),
            Part::Text => self.answer(text, out),
        }
    }

    fn answer(&mut self, text: &str, out: &mut impl FnMut(Said<'_>)) {
        match &mut self.parser {
            Some(parser) => parser.push(text).into_iter().for_each(|piece| self.piece(piece, out)),
            None => self.content(text, out),
        }
    }

    fn piece(&mut self, piece: Piece, out: &mut impl FnMut(Said<'_>)) {
        if self.stopped.is_some() {
            return;
        }
        match piece {
            Piece::Text(text) => self.content(&text, out),
            Piece::Begin { name } => {
                // No stop string reaches across a call.
                self.release(out);
                out(Said::Begin(name));
            }
            Piece::Arguments(more) => out(Said::Arguments(more)),
            Piece::End => out(Said::End),
        }
    }

    fn content(&mut self, text: &str, out: &mut impl FnMut(Said<'_>)) {
        let piece = self.stops.push(text);
        if !piece.text.is_empty() {
            out(Said::Content(&piece.text));
        }
        if piece.stopped.is_some() {
            self.stopped = piece.stopped;
        }
    }

    /// Gives `out` what might have become a stop string.
    fn release(&mut self, out: &mut impl FnMut(Said<'_>)) {
        let held = self.stops.finish();
        if !held.is_empty() {
            out(Said::Content(&held));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALL: &str = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\":\n1}}\n</tool_call>";

    fn reading(stops: &[&str]) -> Reading {
        let names = vec!["f".to_owned()];
        let tools = Calling { format: ToolFormat::Hermes, names, is_formed: false };
        let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
        Reading { may_think: true, thought: None, tools: Some(tools), stops }
    }

    /// What a text says, in brackets what is no content, and the stop string that ended it. What
    /// follows the piece that it was found in is not read.
    fn read(reading: Reading, pieces: &[&str]) -> (String, Option<String>) {
        let (mut heard, mut reader) = (Vec::new(), Reader::new(reading).unwrap());
        let mut out = |said: Said<'_>| {
            let (kind, text) = match said {
                Said::Reasoning(text) => ('t', text.to_owned()),
                Said::Content(text) => ('c', text.to_owned()),
                Said::Begin(name) => ('b', name),
                Said::Arguments(text) => ('a', text),
                Said::End => ('e', String::new()),
            };
            match heard.last_mut() {
                Some((last, before)) if *last == kind => String::push_str(before, &text),
                _ => heard.push((kind, text)),
            }
        };
        for piece in pieces {
            reader.push(piece, &mut out);
            if reader.stopped().is_some() {
                break;
            }
        }
        reader.finish(&mut out);
        let stopped = reader.stopped().map(str::to_owned);
        let shown = heard.into_iter().map(|(kind, text)| match kind {
            'c' => text,
            't' => format!("[{text}]"),
            'b' => format!("[{text}("),
            'a' => text,
            _ => ")]".to_owned(),
        });
        (shown.collect(), stopped)
    }

    #[test]
    fn stop_strings_are_looked_for_in_the_content_only() {
        let called = "[f({\"a\":\n1})]";
        for (stops, text, said, stopped) in [
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
            // What is no call is content after all, though nobody knew until the text ended.
            (&["<t"], "a <tool_c".to_owned(), "a ", Some("<t")),
            (&["<t"], "a <tool_call> b".to_owned(), "a ", Some("<t")),
            (&["b"], "a".to_owned(), "a", None),
            (&[], "a".to_owned(), "a", None),
        ] {
            let expected = (said.to_owned(), stopped.map(str::to_owned));
            assert_eq!(read(reading(stops), &[&text]), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn where_the_text_is_cut_makes_no_difference(
            pieces in proptest::collection::vec(
                "(<think>|</think>|<tool_call>|</tool_call>|\\{\"name\": \"f\", \"arguments\": |\
                  \\{\"a\": 1\\}|\\}|[\"ab<\n ]){0,4}", 0..10),
            stops in proptest::collection::vec("[ab<\n]{1,3}", 0..3),
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            prop_assert_eq!(read(reading(&stops), &pieces), read(reading(&stops), &[&whole]));
        }
    }
}
