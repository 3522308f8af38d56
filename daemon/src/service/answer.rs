//! A model's text as the answer it is: thoughts, text and tool calls.
//!
//! Owns one text of a request from the engine's deltas to events and result, so that a stream and a
//! whole answer cannot differ: what the result has is what was pushed as events. Knows nothing of how
//! thoughts and calls are written; `text` does.

use std::collections::VecDeque;

use ingle_protocol::wire::chat::ToolCall;
use ingle_protocol::wire::generate::{FinishReason, GenerateEvent, TokenLogprob};

use crate::text::reasoning::{Part, Splitter};
use crate::text::tool_calls::{Piece, ToolFormat, ToolParser};

/// How a text is to be read.
#[derive(Debug, Clone, Default)]
pub(super) struct Reading {
    /// Whether the model may think first, as in conversations.
    pub(super) may_think: bool,
    /// What ends the thought that the prompt ends inside of, if it does.
    pub(super) thought: Option<&'static str>,
    /// How it calls tools, and the tools there are.
    pub(super) tools: Option<(ToolFormat, Vec<String>)>,
    /// Whether it may make several calls.
    pub(super) is_parallel: bool,
}

/// One text under way.
#[derive(Debug)]
pub(super) struct Answer {
    choice: usize,
    splitter: Option<Splitter>,
    parser: Option<ToolParser>,
    is_parallel: bool,
    said: Said,
    /// Probabilities that wait for text to go with.
    logprobs: Vec<TokenLogprob>,
}

/// What a text has said so far.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Its text, without thoughts and calls.
    pub(super) text: String,
    /// Its thoughts.
    pub(super) reasoning: Option<String>,
    /// Its calls.
    pub(super) tool_calls: Vec<ToolCall>,
}

impl Said {
    /// Why the text ended, if the engine gives `reason`: whoever stops behind calls waits for what
    /// they give.
    pub(super) fn finish_reason(&self, reason: FinishReason) -> FinishReason {
        match reason {
            FinishReason::Stop if !self.tool_calls.is_empty() => FinishReason::ToolCalls,
            reason => reason,
        }
    }
}

impl Answer {
    /// The text of this number, before its first token.
    pub(super) fn new(choice: usize, reading: &Reading) -> Self {
        let parser =
            |(format, names): &(ToolFormat, Vec<String>)| ToolParser::new(*format, names.clone());
        Self {
            choice,
            splitter: reading.may_think.then(|| Splitter::new(reading.thought)),
            parser: reading.tools.as_ref().map(parser),
            is_parallel: reading.is_parallel,
            said: Said::default(),
            logprobs: Vec::new(),
        }
    }

    /// Takes more of the engine's text, and puts what it says into `events`.
    pub(super) fn push(
        &mut self,
        text: &str,
        logprobs: Vec<TokenLogprob>,
        events: &mut VecDeque<GenerateEvent>,
    ) {
        self.logprobs.extend(logprobs);
        let Some(mut splitter) = self.splitter.take() else {
            return self.say(Part::Text, text, events);
        };
        splitter.push(text, &mut |part, text| self.say(part, text, events));
        self.splitter = Some(splitter);
    }

    /// Puts what was held back into `events`, when no text follows.
    pub(super) fn finish(mut self, events: &mut VecDeque<GenerateEvent>) -> Said {
        if let Some(mut splitter) = self.splitter.take() {
            splitter.finish(&mut |part, text| self.say(part, text, events));
        }
        if let Some(mut parser) = self.parser.take() {
            for piece in parser.finish() {
                self.piece(piece, events);
            }
        }
        if !self.logprobs.is_empty() {
            // The last tokens may have no text of their own, and still have probabilities.
            self.delta(String::new(), events);
        }
        self.said
    }

    fn say(&mut self, part: Part, text: &str, events: &mut VecDeque<GenerateEvent>) {
        match (part, &mut self.parser) {
            (Part::Reasoning, _) => {
                self.said.reasoning.get_or_insert_default().push_str(text);
                match events.back_mut() {
                    // Characters come one by one, and are one event.
                    Some(GenerateEvent::Reasoning { choice, text: before })
                        if *choice == self.choice =>
                    {
                        before.push_str(text);
                    }
                    _ => events.push_back(GenerateEvent::Reasoning {
                        choice: self.choice,
                        text: text.to_owned(),
                    }),
                }
            }
            (Part::Text, Some(parser)) => {
                for piece in parser.push(text) {
                    self.piece(piece, events);
                }
            }
            (Part::Text, None) => self.delta(text.to_owned(), events),
        }
    }

    fn piece(&mut self, piece: Piece, events: &mut VecDeque<GenerateEvent>) {
        match piece {
            Piece::Text(text) => self.delta(text, events),
            Piece::Begin { name } => {
                let id = call_id();
                let call =
                    ToolCall { id: id.clone(), name: name.clone(), arguments: String::new() };
                self.said.tool_calls.push(call);
                self.call(Some((id, name)), String::new(), events);
            }
            Piece::Arguments(more) => {
                if let Some(call) = self.said.tool_calls.last_mut() {
                    call.arguments.push_str(&more);
                }
                self.call(None, more, events);
            }
            Piece::End => {
                // Calls that were not wanted are read, so that they are not taken for text, and
                // left out.
                if !self.is_parallel {
                    self.said.tool_calls.truncate(1);
                }
            }
        }
    }

    fn call(
        &mut self,
        begin: Option<(String, String)>,
        arguments: String,
        events: &mut VecDeque<GenerateEvent>,
    ) {
        let index = self.said.tool_calls.len().saturating_sub(1);
        if index > 0 && !self.is_parallel {
            return;
        }
        let (id, name) = begin.unzip();
        let choice = self.choice;
        events.push_back(GenerateEvent::ToolCall { choice, index, id, name, arguments });
    }

    fn delta(&mut self, text: String, events: &mut VecDeque<GenerateEvent>) {
        let logprobs = std::mem::take(&mut self.logprobs);
        self.said.text.push_str(&text);
        match events.back_mut() {
            Some(GenerateEvent::Delta { choice, text: before, logprobs: earlier })
                if *choice == self.choice =>
            {
                before.push_str(&text);
                earlier.extend(logprobs);
            }
            _ => events.push_back(GenerateEvent::Delta { choice: self.choice, text, logprobs }),
        }
    }
}

/// A name for a call that nobody has given one before.
fn call_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    let random = || RandomState::new().hash_one(0);
    format!("call_{:016x}{:08x}", random(), random() >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "<think>\nwhich city?</think>\n\nI look.\n<tool_call>\n{\"name\": \"weather\", \
        \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"time\"}\n\
        </tool_call>";

    fn reading(is_parallel: bool) -> Reading {
        let tools = Some((ToolFormat::Hermes, Vec::new()));
        Reading { may_think: true, thought: None, tools, is_parallel }
    }

    fn logprob(token: u32) -> TokenLogprob {
        TokenLogprob {
            token,
            logprob: -1.0,
            bytes: Vec::new(),
            top: Vec::new(),
            top_bytes: Vec::new(),
        }
    }

    /// What the events say, with the ids of calls left out, and what the result says.
    fn answer(reading: &Reading, pieces: &[&str]) -> (Said, Said, usize) {
        let mut answer = Answer::new(3, reading);
        let mut events = VecDeque::new();
        let (mut heard, mut heard_logprobs) = (Said::default(), 0);
        for (piece, token) in pieces.iter().zip(0..) {
            answer.push(piece, vec![logprob(token)], &mut events);
        }
        let said = answer.finish(&mut events);
        for event in events {
            match event {
                GenerateEvent::Delta { choice: 3, text, logprobs } => {
                    heard.text.push_str(&text);
                    heard_logprobs += logprobs.len();
                }
                GenerateEvent::Reasoning { choice: 3, text } => {
                    heard.reasoning.get_or_insert_default().push_str(&text);
                }
                GenerateEvent::ToolCall { choice: 3, index, id, name, arguments } => {
                    assert_eq!(id.is_some(), index == heard.tool_calls.len());
                    if let (Some(id), Some(name)) = (id, name) {
                        heard.tool_calls.push(ToolCall { id, name, arguments });
                    } else {
                        heard.tool_calls[index].arguments.push_str(&arguments);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        (said, heard, heard_logprobs)
    }

    #[test]
    fn events_and_result_say_the_same_wherever_the_text_is_cut() {
        for size in [1, 7, 1_000] {
            let pieces: Vec<&str> =
                TEXT.as_bytes().chunks(size).map(|c| std::str::from_utf8(c).unwrap()).collect();
            let (said, heard, logprobs) = answer(&reading(true), &pieces);
            assert_eq!(said.text, "I look.");
            assert_eq!(said.reasoning.as_deref(), Some("which city?"));
            let calls = said.tool_calls.iter().map(|call| (&*call.name, &*call.arguments));
            let expected = [("weather", "{\"city\": \"Rome\"}"), ("time", "{}")];
            assert!(calls.eq(expected), "{:?}", said.tool_calls);
            assert_ne!(said.tool_calls[0].id, said.tool_calls[1].id);
            assert_eq!(said.finish_reason(FinishReason::Stop), FinishReason::ToolCalls);
            assert_eq!(said.finish_reason(FinishReason::Length), FinishReason::Length);
            assert_eq!((heard.text, heard.reasoning), (said.text, said.reasoning));
            assert_eq!(heard.tool_calls, said.tool_calls);
            assert_eq!(logprobs, pieces.len());
        }
    }

    #[test]
    fn a_second_call_that_is_not_wanted_is_left_out() {
        let (said, heard, _) = answer(&reading(false), &[TEXT]);
        assert_eq!((said.text.as_str(), said.tool_calls.len()), ("I look.", 1));
        assert_eq!(heard.tool_calls, said.tool_calls);
        assert_eq!(said.tool_calls[0].arguments, "{\"city\": \"Rome\"}");
    }

    #[test]
    fn a_raw_prompts_text_is_left_alone() {
        let (said, heard, _) = answer(&Reading::default(), &[TEXT]);
        assert_eq!((said.text.as_str(), heard.text.as_str()), (TEXT, TEXT));
        assert_eq!(said.finish_reason(FinishReason::Stop), FinishReason::Stop);
    }
}
