//! Stop strings in a stream of text.
//!
//! Owns the text that is held back because it may begin a stop string. Does not know tokens.

use super::TextError;

/// Finds the first of several stop strings in text that arrives in pieces.
///
/// The match that is complete first wins, and the longest of several that end at the same character.
/// The text given out is the text before the match, for any cutting into pieces: no part of the stop
/// string is given out, and only text that may still become one is held back.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

/// A piece of text that is safe to give out, and the stop string that ended it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextPiece {
    /// The text, which may be empty.
    pub text: String,
    /// The stop string, if one was found. No text follows it.
    pub stopped: Option<String>,
}

impl StopMatcher {
    /// Creates a matcher for `stops`, which may be empty.
    ///
    /// # Errors
    /// [`TextError::EmptyStop`].
    pub fn new(stops: Vec<String>) -> Result<Self, TextError> {
        if stops.iter().any(String::is_empty) {
            return Err(TextError::EmptyStop);
        }
        Ok(Self { stops, held: String::new(), stopped: false })
    }

    /// Whether the matcher has no stop strings.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stops.is_empty()
    }

    /// Matches `text` and returns the text that is certain. All text after a match is ignored.
    pub fn push(&mut self, text: &str) -> TextPiece {
        if self.stopped {
            return TextPiece::default();
        }
        if self.stops.is_empty() {
            return TextPiece { text: text.to_owned(), stopped: None };
        }
        let new_from = self.held.len();
        self.held.push_str(text);
        if let Some((start, stop)) = self.first_match(new_from) {
            self.stopped = true;
            let stopped = Some(self.stops[stop].clone());
            self.held.truncate(start);
            return TextPiece { text: std::mem::take(&mut self.held), stopped };
        }
        let rest = self.held.split_off(self.certain_len());
        TextPiece { text: std::mem::replace(&mut self.held, rest), stopped: None }
    }

    /// Ends the text and returns the held-back rest.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The start and the stop string of the match that ends first, after `new_from`.
    ///
    /// Earlier ends were checked before.
    fn first_match(&self, new_from: usize) -> Option<(usize, usize)> {
        let held = self.held.as_bytes();
        (new_from + 1..=held.len()).find_map(|end| {
            let before = &held[..end];
            let ending =
                self.stops.iter().enumerate().filter(|(_, stop)| before.ends_with(stop.as_bytes()));
            let (index, stop) = ending.max_by_key(|(_, stop)| stop.len())?;
            Some((end - stop.len(), index))
        })
    }

    /// The length of the text in front of the longest suffix that begins a stop string.
    fn certain_len(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = self.held.len().saturating_sub(longest.saturating_sub(1));
        let starts = self.held.char_indices().map(|(start, _)| start);
        let mut candidates = starts.filter(|&start| start >= earliest);
        candidates
            .find(|&start| self.stops.iter().any(|stop| stop.starts_with(&self.held[start..])))
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(stops.iter().map(|&stop| stop.to_owned()).collect()).unwrap()
    }

    fn piece(text: &str, stopped: Option<&str>) -> TextPiece {
        TextPiece { text: text.to_owned(), stopped: stopped.map(str::to_owned) }
    }

    #[test]
    fn partial_match_is_held_back_until_it_fails() {
        let mut matcher = matcher(&["END"]);
        assert_eq!(matcher.push("an E"), piece("an ", None));
        assert_eq!(matcher.push("N"), piece("", None));
        assert_eq!(matcher.push("E"), piece("EN", None));
        assert_eq!(matcher.push("ND more"), piece("", Some("END")));
        assert_eq!(matcher.push("more"), piece("", None));
        assert_eq!(matcher.finish(), "");
    }

    #[test]
    fn held_back_text_at_the_end_is_text() {
        let mut matcher = matcher(&["\n\n"]);
        assert_eq!(matcher.push("a\n"), piece("a", None));
        assert_eq!(matcher.finish(), "\n");
    }

    #[test]
    fn first_complete_match_wins() {
        assert_eq!(matcher(&["abcd", "b"]).push("xabcd"), piece("xa", Some("b")));
        assert_eq!(matcher(&["c", "abc"]).push("xabc"), piece("x", Some("abc")));
        assert_eq!(matcher(&["b", "a"]).push("ab"), piece("", Some("a")));
    }

    #[test]
    fn text_passes_through_without_stop_strings() {
        assert_eq!(matcher(&[]).push("anything"), piece("anything", None));
        assert!(StopMatcher::new(vec![String::new()]).is_err());
    }

    /// The definition, character by character over the whole text.
    fn naive(text: &str, stops: &[String]) -> (String, Option<String>) {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let matching = stops.iter().filter(|stop| text[..end].ends_with(stop.as_str()));
            if let Some(stop) = matching.max_by_key(|stop| stop.len()) {
                return (text[..end - stop.len()].to_owned(), Some(stop.clone()));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_naive_result(
            chunks in proptest::collection::vec("[abé]{0,4}", 0..12),
            stops in proptest::collection::vec("[abé]{1,5}", 0..4),
        ) {
            let whole = chunks.concat();
            let (expected, expected_stop) = naive(&whole, &stops);
            let mut matcher = StopMatcher::new(stops.clone()).unwrap();
            let mut text = String::new();
            let mut seen = 0;
            let mut stopped = None;
            for chunk in &chunks {
                seen += chunk.len();
                let piece = matcher.push(chunk);
                text.push_str(&piece.text);
                prop_assert!(expected.starts_with(&text), "leaked: {text:?} {expected:?}");
                if piece.stopped.is_some() {
                    stopped = piece.stopped;
                    break;
                }
                // Held back is exactly the longest suffix that begins a stop string.
                let held = &whole[text.len()..seen];
                let suffixes = (0..seen).filter(|&start| whole.is_char_boundary(start));
                let begins = |start: &usize| {
                    stops.iter().any(|stop| stop.starts_with(&whole[*start..seen]))
                };
                let longest = suffixes.filter(begins).map(|start| seen - start).max();
                prop_assert_eq!(held.len(), longest.unwrap_or(0));
            }
            text.push_str(&matcher.finish());
            prop_assert_eq!(text, expected);
            prop_assert_eq!(stopped, expected_stop);
        }
    }
}
