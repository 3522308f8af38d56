//! Reasoning: splits a model's reasoning from the rest of its response.
//!
//! Owns the tags around reasoning. The result does not depend on where the text is cut. Does not know
//! tools, tokens or requests.
//!
//! A response begins with reasoning or has none: a later tag is ordinary text, so that a model can write
//! about the tags.

/// Pairs of tags. Nearly all models use the first, Mistral's models the second.
const TAGS: [(&str, &str); 2] = [("<think>", "</think>"), ("[THINK]", "[/THINK]")];

/// The tags that may be special tokens of a vocabulary, which have no text.
pub const MARKERS: [&str; 4] = ["<think>", "</think>", "[THINK]", "[/THINK]"];

/// Section of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The reasoning.
    Reasoning,
    /// The rest.
    Text,
}

/// The tag that ends the reasoning, if the prompt has opened it.
#[must_use]
pub fn open_section_end(prompt: &str) -> Option<&'static str> {
    let prompt = prompt.trim_end();
    TAGS.iter().find(|(open, _)| prompt.ends_with(open)).map(|&(_, close)| close)
}

/// The text that ends reasoning which the prompt has opened, without content.
#[must_use]
pub fn empty_section_end(prompt: &str) -> Option<String> {
    let trimmed = prompt.trim_end();
    let (_, close) = TAGS.iter().find(|(open, _)| trimmed.ends_with(open))?;
    let line = if prompt.len() == trimmed.len() { "\n" } else { "" };
    Some(format!("{line}\n{close}\n\n"))
}

/// Position in the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before any text but white space or the beginning of a tag. `is_open`: the prompt opened a tag.
    Start { is_open: bool },
    /// Between the tags.
    Reasoning,
    /// After the closing tag, where white space is dropped.
    AfterReasoning,
    /// In the rest.
    Text,
}

/// Incremental splitter of one response.
#[derive(Debug, Clone)]
pub struct ReasoningSplitter {
    state: State,
    close: &'static str,
    /// White space that belongs to a section only if more of the section follows.
    space: String,
    /// Text that may be the beginning of a tag.
    tag: String,
    /// Whether the reasoning has any content.
    has_reasoning: bool,
}

impl ReasoningSplitter {
    /// Creates a splitter; `close` is the closing tag if the prompt has opened the reasoning.
    #[must_use]
    pub fn new(close: Option<&'static str>) -> Self {
        Self {
            state: State::Start { is_open: close.is_some() },
            close: close.unwrap_or(TAGS[0].1),
            space: String::new(),
            tag: String::new(),
            has_reasoning: false,
        }
    }

    /// Splits `text`, and passes the text whose section is certain to `out`.
    pub fn push(&mut self, text: &str, out: &mut impl FnMut(Section, &str)) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if self.state == State::Text {
                return out(Section::Text, rest);
            }
            self.step(c, out);
            rest = &rest[c.len_utf8()..];
        }
    }

    fn step(&mut self, c: char, out: &mut impl FnMut(Section, &str)) {
        match self.state {
            State::Start { is_open } => {
                if self.tag.is_empty() && c.is_whitespace() {
                    self.space.push(c);
                    return;
                }
                self.tag.push(c);
                let tag = self.tag.as_str();
                if let Some((_, close)) = TAGS.iter().find(|(open, _)| *open == tag) {
                    self.close = close;
                    self.state = State::Reasoning;
                    self.space.clear();
                    self.tag.clear();
                } else if !TAGS.iter().any(|(open, _)| open.starts_with(tag)) {
                    let held = std::mem::take(&mut self.tag);
                    if is_open {
                        self.state = State::Reasoning;
                        self.space.clear();
                        held.chars().for_each(|c| self.step(c, out));
                    } else {
                        self.state = State::Text;
                        let space = std::mem::take(&mut self.space);
                        out(Section::Text, &(space + &held));
                    }
                }
            }
            State::Reasoning => self.reasoning_step(c, out),
            State::AfterReasoning if c.is_whitespace() => {}
            State::AfterReasoning | State::Text => {
                self.state = State::Text;
                out(Section::Text, c.encode_utf8(&mut [0; 4]));
            }
        }
    }

    fn reasoning_step(&mut self, c: char, out: &mut impl FnMut(Section, &str)) {
        self.tag.push(c);
        if self.tag == self.close {
            self.state = State::AfterReasoning;
            self.space.clear();
            self.tag.clear();
        } else if !self.close.starts_with(&self.tag) {
            // The first character of a tag occurs in it only once, so no other match can have begun.
            let c = self.tag.pop();
            if !self.tag.is_empty() {
                self.flush(out);
            }
            match c {
                // White space at the beginning of the reasoning is dropped.
                Some(c) if c.is_whitespace() && !self.has_reasoning => {}
                Some(c) if c.is_whitespace() => self.space.push(c),
                Some(c) => {
                    self.tag.push(c);
                    if !self.close.starts_with(c) {
                        self.flush(out);
                    }
                }
                None => {}
            }
        }
    }

    /// Gives out the held-back reasoning.
    fn flush(&mut self, out: &mut impl FnMut(Section, &str)) {
        let mut held = std::mem::take(&mut self.space);
        held.push_str(&std::mem::take(&mut self.tag));
        self.has_reasoning = true;
        out(Section::Reasoning, &held);
    }

    /// Ends the response, and passes held-back text to `out`.
    ///
    /// If the reasoning was never closed, all of the response is reasoning.
    pub fn finish(&mut self, out: &mut impl FnMut(Section, &str)) {
        match self.state {
            State::Start { is_open: false } => {
                let held = std::mem::take(&mut self.space) + &std::mem::take(&mut self.tag);
                if !held.is_empty() {
                    out(Section::Text, &held);
                }
            }
            State::Start { is_open: true } | State::Reasoning if !self.tag.is_empty() => {
                self.flush(out);
            }
            _ => {}
        }
        self.state = State::Text;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(pieces: &[&str], is_open: bool) -> (String, String) {
        let (mut reasoning, mut text) = (String::new(), String::new());
        let mut out = |part, more: &str| match part {
            Section::Reasoning => reasoning.push_str(more),
            Section::Text => text.push_str(more),
        };
        let mut splitter = ReasoningSplitter::new(is_open.then_some("</think>"));
        pieces.iter().for_each(|piece| splitter.push(piece, &mut out));
        splitter.finish(&mut out);
        (reasoning, text)
    }

    #[test]
    fn reasoning_is_split_from_the_rest() {
        for (is_open, whole, reasoning, text) in [
            (false, "Hello.", "", "Hello."),
            (false, " \n Hello.\n", "", " \n Hello.\n"),
            (false, "<think>\nhm, well\n</think>\n\nHello.", "hm, well", "Hello."),
            (false, "\n<think>a</think>b", "a", "b"),
            (false, "<think>\n\n</think>\n\nHello.", "", "Hello."),
            (false, "<thin", "", "<thin"),
            (false, "<thing>", "", "<thing>"),
            (false, "  ", "", "  "),
            (false, "a <think>b</think>", "", "a <think>b</think>"),
            (false, "<think>a < b </thin </think> c <think>", "a < b </thin", "c <think>"),
            (false, "<think>a <</think>b", "a <", "b"),
            (false, "<think>a\n\nb", "a\n\nb", ""),
            (false, "<think>a </thi", "a </thi", ""),
            (false, "[THINK]a</think>[/THINK]b", "a</think>", "b"),
            (true, "a\n</think>\nb", "a", "b"),
            (true, "<think>\na</think>b", "a", "b"),
            (true, "<a", "<a", ""),
            (true, "<", "<", ""),
            (true, "never closed", "never closed", ""),
        ] {
            let found = split(&[whole], is_open);
            assert_eq!(found, (reasoning.to_owned(), text.to_owned()), "{whole:?}");
        }
    }

    #[test]
    fn open_reasoning_of_a_prompt_can_be_closed() {
        assert_eq!(open_section_end("<|im_start|>assistant\n<think>\n"), Some("</think>"));
        assert_eq!(open_section_end("[INST]x[/INST][THINK]"), Some("[/THINK]"));
        assert_eq!(open_section_end("<think>\n\n</think>\n\n"), None);
        assert_eq!(empty_section_end("a<think>\n").as_deref(), Some("\n</think>\n\n"));
        assert_eq!(empty_section_end("a<think>").as_deref(), Some("\n\n</think>\n\n"));
        assert_eq!(empty_section_end("a"), None);
    }

    proptest! {
        #[test]
        fn cutting_text_anywhere_gives_equal_sections(
            pieces in proptest::collection::vec("(<think>|</think>|<|/|think>|a|é| |\n){0,4}", 0..8),
            is_open: bool,
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            prop_assert_eq!(split(&pieces, is_open), split(&[&whole], is_open));
        }
    }
}
