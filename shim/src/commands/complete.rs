//! `complete`: continues a raw prompt, or fills a gap in it.

use std::fs::File;
use std::io::{self, IsTerminal, Read};

use ingle_protocol::limits;
use ingle_protocol::wire::generate::GenerateParams;

use super::generate::{answer_once, no_prompt, params, read_stdin};
use crate::cli::{Gap, GenerateOptions};
use crate::context::Context;
use crate::output::{Failure, Outcome};

/// Continues a raw prompt.
pub(crate) async fn complete(
    context: &mut Context,
    prompt: Option<&str>,
    gap: Gap,
    options: &GenerateOptions,
) -> Outcome {
    let prompt = match prompt {
        None if io::stdin().is_terminal() => return Err(no_prompt()),
        None | Some("-") => read_stdin()?,
        Some(prompt) => prompt.to_owned(),
    };
    let suffix = suffix(gap)?;
    if prompt.is_empty() && suffix.is_none() {
        return Err(no_prompt());
    }
    let params = GenerateParams { prompt: Some(prompt), suffix, ..params(options) };
    answer_once(context, params, options).await
}

/// The text after the gap, if there is one.
fn suffix(gap: Gap) -> Result<Option<String>, Failure> {
    let Some(path) = gap.suffix_file else { return Ok(gap.suffix) };
    let limit = limits::FRAME_BYTES as u64;
    let read = || {
        let mut bytes = Vec::new();
        File::open(&path)?.take(limit).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    let unusable = |problem: String| {
        let message = format!("{}: {problem}", path.display());
        Failure::usage(message, "Give a file of UTF-8 text with --suffix-file.")
    };
    let bytes = read().map_err(|error| unusable(error.to_string()))?;
    if bytes.len() as u64 == limit {
        return Err(unusable(format!("it has over {limit} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| unusable("it is not UTF-8 text".to_owned()))?;
    Ok(Some(text))
}
