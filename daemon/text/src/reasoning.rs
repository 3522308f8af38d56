//! What a model thinks, parted from what it answers.
//!
//! Owns the tags that models think between. Fed with text cut anywhere, it says the same. Knows
//! nothing of tools, tokens or requests.
//!
//! An answer begins with its thoughts or has none: a tag further behind is text like any other, so
//! that one may talk about it.

/// Pairs of tags. The first is what nearly all models use, the second is Mistral's.
const TAGS: [(&str, &str); 2] = [("<think>", "</think>"), ("[THINK]", "[/THINK]")];

/// The tags that may be special tokens of a vocabulary, which have no text of their own.
pub const MARKERS: [&str; 4] = ["<think>", "</think>", "[THINK]", "[/THINK]"];

/// A piece of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Thoughts.
    Reasoning,
    /// The answer.
    Text,
}

/// The tag that ends the thought which a prompt's template has begun, if it has.
#[must_use]
pub fn open_section_end(prompt: &str) -> Option<&'static str> {
    let prompt = prompt.trim_end();
    TAGS.iter().find(|(open, _)| prompt.ends_with(open)).map(|&(_, close)| close)
}

/// What ends such a thought, with nothing thought.
#[must_use]
pub fn empty_section_end(prompt: &str) -> Option<String> {
    let trimmed = prompt.trim_end();
    let (_, close) = TAGS.iter().find(|(open, _)| trimmed.ends_with(open))?;
    let line = if prompt.len() == trimmed.len() { "\n" } else { "" };
    Some(format!("{line}\n{close}\n\n"))
}

/// Where the text so far has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space, or the beginning of a tag. `is_open`: the prompt has opened one.
    Start { is_open: bool },
    /// Between the tags.
    Thinking,
    /// Behind them, where white space is not the answer's.
    Behind,
    /// In the answer.
    Text,
}

/// Parts one text as it comes.
#[derive(Debug, Clone)]
pub struct ReasoningSplitter {
    state: State,
    close: &'static str,
    /// White space that belongs to a part only if more of it follows.
    space: String,
    /// What may be the beginning of a tag.
    tag: String,
    /// Whether there was a thought at all.
    has_thought: bool,
}

impl ReasoningSplitter {
    /// Before the first token, behind a prompt that has opened a thought, which ends with `close`, or
    /// has not.
    #[must_use]
    pub fn new(close: Option<&'static str>) -> Self {
        Self {
            state: State::Start { is_open: close.is_some() },
            close: close.unwrap_or(TAGS[0].1),
            space: String::new(),
            tag: String::new(),
            has_thought: false,
        }
    }

    /// Gives `out` what is certain after `text`.
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
                    self.state = State::Thinking;
                    self.space.clear();
                    self.tag.clear();
                } else if !TAGS.iter().any(|(open, _)| open.starts_with(tag)) {
                    let held = std::mem::take(&mut self.tag);
                    if is_open {
                        self.state = State::Thinking;
                        self.space.clear();
                        held.chars().for_each(|c| self.step(c, out));
                    } else {
                        self.state = State::Text;
                        let space = std::mem::take(&mut self.space);
                        out(Section::Text, &(space + &held));
                    }
                }
            }
            State::Thinking => self.think(c, out),
            State::Behind if c.is_whitespace() => {}
            State::Behind | State::Text => {
                self.state = State::Text;
                out(Section::Text, c.encode_utf8(&mut [0; 4]));
            }
        }
    }

    fn think(&mut self, c: char, out: &mut impl FnMut(Section, &str)) {
        self.tag.push(c);
        if self.tag == self.close {
            self.state = State::Behind;
            self.space.clear();
            self.tag.clear();
        } else if !self.close.starts_with(&self.tag) {
            // A tag begins with a character that it has nowhere else.
            let c = self.tag.pop();
            if !self.tag.is_empty() {
                self.flush(out);
            }
            match c {
                // A thought does not begin with white space.
                Some(c) if c.is_whitespace() && !self.has_thought => {}
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

    /// Gives out what is held of a thought.
    fn flush(&mut self, out: &mut impl FnMut(Section, &str)) {
        let mut held = std::mem::take(&mut self.space);
        held.push_str(&std::mem::take(&mut self.tag));
        self.has_thought = true;
        out(Section::Reasoning, &held);
    }

    /// Gives `out` what was held back, when no text follows. A thought that was never closed is all
    /// there is.
    pub fn finish(&mut self, out: &mut impl FnMut(Section, &str)) {
        match self.state {
            State::Start { is_open: false } => {
                let held = std::mem::take(&mut self.space) + &std::mem::take(&mut self.tag);
                if !held.is_empty() {
                    out(Section::Text, &held);
                }
            }
            State::Start { is_open: true } | State::Thinking if !self.tag.is_empty() => {
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
    fn thoughts_are_parted_from_the_answer() {
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
    fn a_thought_that_a_prompt_opens_can_be_closed() {
        assert_eq!(open_section_end("<|im_start|>assistant\n<think>\n"), Some("</think>"));
        assert_eq!(open_section_end("[INST]x[/INST][THINK]"), Some("[/THINK]"));
        assert_eq!(open_section_end("<think>\n\n</think>\n\n"), None);
        assert_eq!(empty_section_end("a<think>\n").as_deref(), Some("\n</think>\n\n"));
        assert_eq!(empty_section_end("a<think>").as_deref(), Some("\n\n</think>\n\n"));
        assert_eq!(empty_section_end("a"), None);
    }

    proptest! {
        #[test]
        fn where_the_text_is_cut_makes_no_difference(
            pieces in proptest::collection::vec("(<think>|</think>|<|/|think>|a|é| |\n){0,4}", 0..8),
            is_open: bool,
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            prop_assert_eq!(split(&pieces, is_open), split(&[&whole], is_open));
        }
    }
}
