//! A model's text as the answer it is: thoughts, text and tool calls.
//!
//! Owns one text of a request from the engine's deltas to events and result, so that a stream and a
//! whole answer cannot differ: what the result has is what was pushed as events. Knows nothing of how
//! thoughts and calls are written, nor of stop strings; `text` does.

use std::collections::VecDeque;

use ingle_protocol::wire::chat::ToolCall;
use ingle_protocol::wire::generate::{FinishReason, GenerateEvent, TokenLogprob};

use ingle_text::response_parser::{ResponseParser, ResponsePart};

/// One text under way.
#[derive(Debug)]
pub(super) struct Answer {
    choice: usize,
    /// Absent where the text is passed on as it is.
    reader: Option<ResponseParser>,
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
    /// The stop string that ended it.
    pub(super) stop_string: Option<String>,
}

impl Said {
    /// Why the text ended, if the engine gives `reason`: whoever stops behind calls waits for what
    /// they give. A stop string may come out only where the text has ended for another reason: until
    /// then it was perhaps the beginning of a call.
    pub(super) fn finish_reason(&self, reason: FinishReason) -> FinishReason {
        let is_stopped = self.stop_string.is_some() || reason == FinishReason::Stop;
        match reason {
            _ if is_stopped && !self.tool_calls.is_empty() => FinishReason::ToolCalls,
            _ if is_stopped => FinishReason::Stop,
            reason => reason,
        }
    }
}

impl Answer {
    /// The text of this number, before its first token. `is_parallel`: whether it may make several
    /// calls.
    pub(super) fn new(choice: usize, reader: Option<ResponseParser>, is_parallel: bool) -> Self {
        Self { choice, reader, is_parallel, said: Said::default(), logprobs: Vec::new() }
    }

    /// Takes more of the engine's text, and puts what it says into `events`.
    pub(super) fn push(
        &mut self,
        text: &str,
        logprobs: Vec<TokenLogprob>,
        events: &mut VecDeque<GenerateEvent>,
    ) {
        self.logprobs.extend(logprobs);
        let Some(mut reader) = self.reader.take() else {
            return self.delta(text, events);
        };
        reader.push(text, &mut |said| self.say(said, events));
        self.reader = Some(reader);
    }

    /// Puts what was held back into `events`, when no text follows.
    pub(super) fn finish(mut self, events: &mut VecDeque<GenerateEvent>) -> Said {
        if let Some(mut reader) = self.reader.take() {
            reader.finish(&mut |said| self.say(said, events));
            self.said.stop_string = reader.stopped().map(str::to_owned);
        }
        if !self.logprobs.is_empty() {
            // The last tokens may have no text of their own, and still have probabilities.
            self.delta("", events);
        }
        self.said
    }

    fn say(&mut self, said: ResponsePart<'_>, events: &mut VecDeque<GenerateEvent>) {
        match said {
            ResponsePart::Reasoning(text) => {
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
            ResponsePart::Content(text) => self.delta(text, events),
            ResponsePart::Begin(name) => {
                let id = call_id();
                let call =
                    ToolCall { id: id.clone(), name: name.clone(), arguments: String::new() };
                self.said.tool_calls.push(call);
                self.call(Some((id, name)), String::new(), events);
            }
            ResponsePart::Arguments(more) => {
                if let Some(call) = self.said.tool_calls.last_mut() {
                    call.arguments.push_str(&more);
                }
                self.call(None, more, events);
            }
            ResponsePart::End => {
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

    fn delta(&mut self, text: &str, events: &mut VecDeque<GenerateEvent>) {
        let logprobs = std::mem::take(&mut self.logprobs);
        self.said.text.push_str(text);
        match events.back_mut() {
            Some(GenerateEvent::Delta { choice, text: before, logprobs: earlier })
                if *choice == self.choice =>
            {
                before.push_str(text);
                earlier.extend(logprobs);
            }
            _ => {
                let (choice, text) = (self.choice, text.to_owned());
                events.push_back(GenerateEvent::Delta { choice, text, logprobs });
            }
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
    use ingle_text::response_parser::{ResponseSyntax, ToolSyntax};
    use ingle_text::tool_calls::ToolFormat;

    const TEXT: &str = "<think>\nwhich city?</think>\n\nI look.\n<tool_call>\n{\"name\": \"weather\", \
        \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"time\"}\n\
        </tool_call>";

    fn reader(stops: &[&str]) -> Option<ResponseParser> {
        let names = Vec::new();
        let tools =
            Some(ToolSyntax { format: ToolFormat::Hermes, names, has_response_format: false });
        let stops = stops.iter().map(|&stop| stop.to_owned()).collect();
        Some(
            ResponseParser::new(ResponseSyntax {
                may_reason: true,
                reasoning_end: None,
                tools,
                stops,
            })
            .unwrap(),
        )
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
    fn answer(
        reader: Option<ResponseParser>,
        is_parallel: bool,
        pieces: &[&str],
    ) -> (Said, Said, usize) {
        let mut answer = Answer::new(3, reader, is_parallel);
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
            let (said, heard, logprobs) = answer(reader(&[]), true, &pieces);
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
        let (said, heard, _) = answer(reader(&[]), false, &[TEXT]);
        assert_eq!((said.text.as_str(), said.tool_calls.len()), ("I look.", 1));
        assert_eq!(heard.tool_calls, said.tool_calls);
        assert_eq!(said.tool_calls[0].arguments, "{\"city\": \"Rome\"}");
    }

    #[test]
    fn a_text_that_a_stop_string_ends_says_so_however_it_ended_for_the_engine() {
        let (said, heard, logprobs) =
            answer(reader(&["look"]), true, &["<think>look</think>I ", "lo", "ok. No"]);
        assert_eq!((said.text.as_str(), heard.text.as_str(), logprobs), ("I ", "I ", 3));
        assert_eq!(
            (said.reasoning.as_deref(), said.stop_string.as_deref()),
            (Some("look"), Some("look"))
        );
        assert_eq!(said.finish_reason(FinishReason::Length), FinishReason::Stop);
        let (said, ..) = answer(reader(&["Yes"]), true, &[TEXT, " Yes"]);
        assert_eq!(said.finish_reason(FinishReason::Stop), FinishReason::ToolCalls);
    }

    #[test]
    fn a_raw_prompts_text_is_left_alone() {
        let (said, heard, _) = answer(None, true, &[TEXT]);
        assert_eq!((said.text.as_str(), heard.text.as_str()), (TEXT, TEXT));
        assert_eq!(said.finish_reason(FinishReason::Stop), FinishReason::Stop);
    }
}
