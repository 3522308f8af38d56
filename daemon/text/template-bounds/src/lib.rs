//! Template bounds: renders untrusted Jinja templates in bounded time and memory.
//!
//! A chat template comes with a model's file, so it is as untrusted as the file. minijinja's own fuel
//! bounds the number of steps, but one step can make or read a value of any size: a string that doubles
//! in each turn of a loop fills the memory in 40 steps. minijinja has no hook at these steps, so this
//! crate compiles a template itself and rewrites the instructions. Owns that rewriting, the limits and
//! the bounded replacements of filters and methods. Does not know models, messages or files: the
//! `extend` argument of [`render`] adds the functions of a dialect.
//!
//! # Hooks
//!
//! - `compile`: checks the tokens before the compiler sees them (it evaluates constant expressions and
//!   recurses along expressions), then replaces instructions: operators become calls of bounded filters,
//!   and the result of every instruction that makes a value passes the filter that measures it.
//! - `functions`: the filters behind the operators, and bounded versions of those filters that
//!   can make a large value from a small one. Filters that no chat template needs are removed.
//! - `strings`: the same for Python's string methods, through the unknown-method callback.
//! - The formatter of the environment measures every value that a template outputs.
//! - A thread with a large stack, because compiler and renderer recurse with the depth of expressions.
//!
//! # Updating minijinja
//!
//! The crate relies on minijinja's feature `unstable_machinery`, which may change in any release. After
//! each update check these points; no compiler error shows the first five:
//!
//! 1. Every new variant of `Instruction` that can make a value is listed in `compile::replacement`.
//! 2. Every new variant of `Instruction` with a jump target is listed in `compile::rewrite`.
//! 3. Every new filter, function, test or method that makes or reads a value larger than its arguments
//!    is bounded or removed in `functions` and `strings`.
//! 4. `Instruction::ApplyFilter` still takes a filter by name, a count of arguments and a cache slot,
//!    of which `!0` means no cache.
//! 5. `State` still names its namespace type `…::Namespace` (see `Bounds::refuse_namespace`).
//! 6. The tests of this crate and of `ingle-text`'s chat templates pass: they render hostile templates,
//!    and templates in use.

mod bounds;
mod compile;
mod functions;
mod strings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::machinery::{self, Token};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value};

pub use bounds::{BoundedText, Bounds};

/// Maximum size of a template's source, in bytes. The longest in use have about 20 kB.
pub const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Maximum number of steps in one rendering. A long conversation takes some 10,000.
const MAX_STEPS: u64 = 2_000_000;

/// Maximum nesting of macro calls.
const MAX_CALL_DEPTH: usize = 100;

/// Stack size of the thread that compiles and renders a template, in bytes.
///
/// Both recurse with the depth of expressions. Pages that are not touched cost nothing.
const STACK_BYTES: usize = 64 << 20;

/// Reason why a template gave no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The template reached a limit on its size, time or memory.
    #[error("it exceeds the limit of {limit} {what}")]
    Limit {
        /// The unit of the limit.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The template does not compile, failed, or refused its input.
    #[error("{0}")]
    Failed(String),
}

/// Renders a template with the variables of `context`.
///
/// `extend` adds functions and filters to the environment; those that make text must charge it to the
/// bounds. A rendering takes at most some seconds and some 300 MB.
///
/// # Errors
/// [`RenderError`], with the line of a mistake in the template.
pub fn render(
    source: &str,
    context: Value,
    extend: impl FnOnce(&mut Environment<'static>, &Arc<Bounds>) + Send,
) -> Result<String, RenderError> {
    if source.len() > MAX_SOURCE_BYTES {
        let limit = MAX_SOURCE_BYTES as u64;
        return Err(RenderError::Limit { what: "bytes of source", limit });
    }
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("ingle-template".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, move || run(source, context, extend))
            .map_err(|error| RenderError::Failed(format!("cannot start a thread: {error}")))?
            .join()
            .unwrap_or_else(|_| Err(RenderError::Failed("the template engine panicked".into())))
    })
}

fn run(
    source: &str,
    context: Value,
    extend: impl FnOnce(&mut Environment<'static>, &Arc<Bounds>),
) -> Result<String, RenderError> {
    let bounds = Arc::new(Bounds::start());
    let failed = |error: Error| -> RenderError {
        if let Some(reason) = bounds.stopped() {
            return reason;
        }
        match error.kind() {
            ErrorKind::OutOfFuel => RenderError::Limit { what: "steps", limit: MAX_STEPS },
            _ => RenderError::Failed(error.to_string()),
        }
    };
    let mut environment = functions::environment(&bounds);
    extend(&mut environment, &bounds);
    let instructions = compile::compile(source).map_err(failed)?;
    let mut text = String::new();
    let mut output = machinery::make_string_output(&mut text);
    machinery::eval(
        &environment,
        &instructions,
        context,
        &BTreeMap::new(),
        &mut output,
        AutoEscape::None,
    )
    .map_err(failed)?;
    Ok(text)
}

/// Whether a template mentions a variable `name`. One that does not compile mentions none.
#[must_use]
pub fn mentions(source: &str, name: &str) -> bool {
    let tokens = machinery::tokenize(source, false, SyntaxConfig::default());
    tokens.map_while(Result::ok).any(|(token, _)| matches!(token, Token::Ident(it) if it == name))
}

/// An error for a template that uses what is not supported.
#[must_use]
pub fn refuse(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}
