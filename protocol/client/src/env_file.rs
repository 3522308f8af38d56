//! Reader of files with `NAME=VALUE` lines, such as `.env`.
//!
//! Owns the syntax. Pure; does not know what the names mean. Values are literal: nothing is
//! substituted, and no error shows a line's text, because such files also hold secrets of other
//! programs.
//!
//! ```text
//! # a comment
//! NAME=value            # another
//! export NAME = "a \"quoted\" value"
//! NAME='taken literally: \n $HOME'
//! ```

/// One assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The name before the `=`.
    pub name: String,
    /// The value without its quotes.
    pub value: String,
    /// The line it is on, from 1.
    pub line: usize,
}

/// A line that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// The problem.
    pub problem: &'static str,
}

/// Reads the text of such a file.
///
/// # Errors
/// The first line that is neither an assignment nor a comment nor empty.
pub fn parse(bytes: &[u8]) -> Result<Vec<Assignment>, BadLine> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut assignments = Vec::new();
    for (index, text) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = index + 1;
        let bad = |problem| BadLine { line, problem };
        let text = str::from_utf8(text).map_err(|_| bad("it is not UTF-8"))?.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let text = match text.strip_prefix("export") {
            Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
            _ => text,
        };
        let (name, value) = text.split_once('=').ok_or_else(|| bad("it has no `=`"))?;
        let name = name.trim_end();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(bad("the text before the `=` is not a name"));
        }
        let value = unquote(value.trim_start()).map_err(bad)?;
        assignments.push(Assignment { name: name.to_owned(), value, line });
    }
    Ok(assignments)
}

/// The value at the beginning of `text`, without quotes and without the comment after it.
fn unquote(text: &str) -> Result<String, &'static str> {
    let (value, rest) = if let Some(text) = text.strip_prefix('\'') {
        let (value, rest) = text.split_once('\'').ok_or(NO_END)?;
        (value.to_owned(), rest)
    } else if let Some(text) = text.strip_prefix('"') {
        double_quoted(text)?
    } else {
        // A `#` starts a comment only after a space: a password may contain one.
        let end =
            text.match_indices('#').find(|(at, _)| text[..*at].ends_with(char::is_whitespace));
        let begins_comment = text.starts_with('#');
        let end = if begins_comment { 0 } else { end.map_or(text.len(), |(at, _)| at) };
        return Ok(text[..end].trim_end().to_owned());
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        Ok(value)
    } else {
        Err("something follows the closing quote")
    }
}

const NO_END: &str = "a quote is not closed on the same line";

/// A value up to its closing quote, and what follows that.
fn double_quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next().ok_or(NO_END)? {
            '"' => return Ok((value, rest.as_str())),
            '\\' => match rest.next().ok_or(NO_END)? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                c @ ('"' | '\\' | '$' | '`') => value.push(c),
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_and_comments_are_removed() {
        for (text, value) in [
            ("A=1", "1"),
            ("  export\tA = 1  ", "1"),
            ("A=", ""),
            ("A= # nothing", ""),
            ("A=1 # a comment", "1"),
            ("A=pass#word", "pass#word"),
            ("A=a b", "a b"),
            ("A=b=c", "b=c"),
            ("A='$B \\n' # c", "$B \\n"),
            ("A=\"x \\\"y\\\" \\d\\n\"", "x \"y\" \\d\n"),
            ("\u{feff}A=1\r", "1"),
        ] {
            let found = parse(text.as_bytes()).unwrap();
            let expected = Assignment { name: "A".to_owned(), value: value.to_owned(), line: 1 };
            assert_eq!(found, [expected], "{text:?}");
        }
        let names = |text: &str| parse(text.as_bytes()).unwrap().into_iter().map(|a| a.name);
        assert!(names("\n# A=1\n\r\n").next().is_none());
        assert!(names("exported=1\nexport=2").eq(["exported", "export"]));
    }

    #[test]
    fn bad_line_is_numbered_and_not_shown() {
        for (text, part) in [
            (&b"A=1\nsecret"[..], "no `=`"),
            (b"\n=1", "not a name"),
            (b"\nA B=1", "not a name"),
            (b"\nA='1", "not closed"),
            (b"\nA=\"1\\", "not closed"),
            (b"\nA='1' 2", "closing quote"),
            (b"\nA=\xff", "UTF-8"),
        ] {
            let bad = parse(text).unwrap_err();
            assert_eq!(bad.line, 2, "{bad:?}");
            assert!(bad.problem.contains(part), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }

        #[test]
        fn single_quoted_value_round_trips(value in "[^'\n]*") {
            let text = format!("A='{value}'");
            prop_assert_eq!(&parse(text.as_bytes()).unwrap()[0].value, &value);
        }
    }
}
