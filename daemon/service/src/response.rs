//! Builds the response of one choice: reasoning, content and tool calls.
//!
//! Owns the way from the engine's deltas to events and result, so that a stream and a whole response
//! cannot differ: the result has exactly what was pushed as events. Does not know the syntax of
//! reasoning and calls, or stop strings; `text` does.

use std::collections::VecDeque;

use ingle_protocol::wire::chat::ToolCall;
use ingle_protocol::wire::generate::{FinishReason, GenerateEvent, TokenLogprob};

use ingle_text::response_parser::{ResponseParser, ResponsePart};

/// The builder of one choice's response.
#[derive(Debug)]
pub(super) struct ResponseBuilder {
    choice: usize,
    /// Absent where the text is passed on as it is.
    parser: Option<ResponseParser>,
    is_parallel: bool,
    response: Response,
    /// Log-probabilities that wait for an event with text.
    logprobs: Vec<TokenLogprob>,
}

/// The response so far.
#[derive(Debug, Default)]
pub(super) struct Response {
    /// The content.
    pub(super) text: String,
    /// The reasoning.
    pub(super) reasoning: Option<String>,
    /// The tool calls.
    pub(super) tool_calls: Vec<ToolCall>,
    /// The stop string that ended the content.
    pub(super) stop_string: Option<String>,
}

impl Response {
    /// The finish reason, given the engine's.
    ///
    /// A response that stops after tool calls waits for their results. A stop string can be found
    /// after the text has ended for another reason, where its text could have begun a call before.
    pub(super) fn finish_reason(&self, reason: FinishReason) -> FinishReason {
        let is_stopped = self.stop_string.is_some() || reason == FinishReason::Stop;
        match reason {
            _ if is_stopped && !self.tool_calls.is_empty() => FinishReason::ToolCalls,
            _ if is_stopped => FinishReason::Stop,
            reason => reason,
        }
    }
}

impl ResponseBuilder {
    /// An empty response of this choice. `is_parallel` allows it several tool calls.
    pub(super) fn new(choice: usize, parser: Option<ResponseParser>, is_parallel: bool) -> Self {
        let (response, logprobs) = (Response::default(), Vec::new());
        Self { choice, parser, is_parallel, response, logprobs }
    }

    /// Adds text of the engine, and pushes its parts to `events`.
    pub(super) fn push(
        &mut self,
        text: &str,
        logprobs: Vec<TokenLogprob>,
        events: &mut VecDeque<GenerateEvent>,
    ) {
        self.logprobs.extend(logprobs);
        let Some(mut parser) = self.parser.take() else {
            return self.delta(text, events);
        };
        parser.push(text, &mut |part| self.part(part, events));
        self.parser = Some(parser);
    }

    /// Ends the response, and pushes held-back text to `events`.
    pub(super) fn finish(mut self, events: &mut VecDeque<GenerateEvent>) -> Response {
        if let Some(mut parser) = self.parser.take() {
            parser.finish(&mut |part| self.part(part, events));
            self.response.stop_string = parser.stopped().map(str::to_owned);
        }
        if !self.logprobs.is_empty() {
            // The last tokens may have log-probabilities and no text.
            self.delta("", events);
        }
        self.response
    }

    fn part(&mut self, part: ResponsePart<'_>, events: &mut VecDeque<GenerateEvent>) {
        match part {
            ResponsePart::Reasoning(text) => {
                self.response.reasoning.get_or_insert_default().push_str(text);
                match events.back_mut() {
                    // Pieces that come together are one event.
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
                self.response.tool_calls.push(call);
                self.call(Some((id, name)), String::new(), events);
            }
            ResponsePart::Arguments(more) => {
                if let Some(call) = self.response.tool_calls.last_mut() {
                    call.arguments.push_str(&more);
                }
                self.call(None, more, events);
            }
            ResponsePart::End => {
                // Excess calls are parsed, so that they do not become content, and then dropped.
                if !self.is_parallel {
                    self.response.tool_calls.truncate(1);
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
        let index = self.response.tool_calls.len().saturating_sub(1);
        if index > 0 && !self.is_parallel {
            return;
        }
        let (id, name) = begin.unzip();
        let choice = self.choice;
        events.push_back(GenerateEvent::ToolCall { choice, index, id, name, arguments });
    }

    fn delta(&mut self, text: &str, events: &mut VecDeque<GenerateEvent>) {
        let logprobs = std::mem::take(&mut self.logprobs);
        self.response.text.push_str(text);
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

/// A new id for a tool call.
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

    fn parser(stops: &[&str]) -> Option<ResponseParser> {
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

    /// The response as the result has it and as the events have it, and the log-probabilities.
    fn build(
        parser: Option<ResponseParser>,
        is_parallel: bool,
        pieces: &[&str],
    ) -> (Response, Response, usize) {
        let mut builder = ResponseBuilder::new(3, parser, is_parallel);
        let mut events = VecDeque::new();
        let (mut streamed, mut streamed_logprobs) = (Response::default(), 0);
        for (piece, token) in pieces.iter().zip(0..) {
            builder.push(piece, vec![logprob(token)], &mut events);
        }
        let result = builder.finish(&mut events);
        for event in events {
            match event {
                GenerateEvent::Delta { choice: 3, text, logprobs } => {
                    streamed.text.push_str(&text);
                    streamed_logprobs += logprobs.len();
                }
                GenerateEvent::Reasoning { choice: 3, text } => {
                    streamed.reasoning.get_or_insert_default().push_str(&text);
                }
                GenerateEvent::ToolCall { choice: 3, index, id, name, arguments } => {
                    assert_eq!(id.is_some(), index == streamed.tool_calls.len());
                    if let (Some(id), Some(name)) = (id, name) {
                        streamed.tool_calls.push(ToolCall { id, name, arguments });
                    } else {
                        streamed.tool_calls[index].arguments.push_str(&arguments);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        (result, streamed, streamed_logprobs)
    }

    #[test]
    fn events_and_result_are_equal_for_any_cut() {
        for size in [1, 7, 1_000] {
            let pieces: Vec<&str> =
                TEXT.as_bytes().chunks(size).map(|c| std::str::from_utf8(c).unwrap()).collect();
            let (result, streamed, logprobs) = build(parser(&[]), true, &pieces);
            assert_eq!(result.text, "I look.");
            assert_eq!(result.reasoning.as_deref(), Some("which city?"));
            let calls = result.tool_calls.iter().map(|call| (&*call.name, &*call.arguments));
            let expected = [("weather", "{\"city\": \"Rome\"}"), ("time", "{}")];
            assert!(calls.eq(expected), "{:?}", result.tool_calls);
            assert_ne!(result.tool_calls[0].id, result.tool_calls[1].id);
            assert_eq!(result.finish_reason(FinishReason::Stop), FinishReason::ToolCalls);
            assert_eq!(result.finish_reason(FinishReason::Length), FinishReason::Length);
            assert_eq!((streamed.text, streamed.reasoning), (result.text, result.reasoning));
            assert_eq!(streamed.tool_calls, result.tool_calls);
            assert_eq!(logprobs, pieces.len());
        }
    }

    #[test]
    fn excess_calls_are_dropped() {
        let (result, streamed, _) = build(parser(&[]), false, &[TEXT]);
        assert_eq!((result.text.as_str(), result.tool_calls.len()), ("I look.", 1));
        assert_eq!(streamed.tool_calls, result.tool_calls);
        assert_eq!(result.tool_calls[0].arguments, "{\"city\": \"Rome\"}");
    }

    #[test]
    fn stop_string_wins_over_the_engines_reason() {
        let (result, streamed, logprobs) =
            build(parser(&["look"]), true, &["<think>look</think>I ", "lo", "ok. No"]);
        assert_eq!((result.text.as_str(), streamed.text.as_str(), logprobs), ("I ", "I ", 3));
        assert_eq!(
            (result.reasoning.as_deref(), result.stop_string.as_deref()),
            (Some("look"), Some("look"))
        );
        assert_eq!(result.finish_reason(FinishReason::Length), FinishReason::Stop);
        let (result, ..) = build(parser(&["Yes"]), true, &[TEXT, " Yes"]);
        assert_eq!(result.finish_reason(FinishReason::Stop), FinishReason::ToolCalls);
    }

    #[test]
    fn raw_completion_is_not_parsed() {
        let (result, streamed, _) = build(None, true, &[TEXT]);
        assert_eq!((result.text.as_str(), streamed.text.as_str()), (TEXT, TEXT));
        assert_eq!(result.finish_reason(FinishReason::Stop), FinishReason::Stop);
    }
}
