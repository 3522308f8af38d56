//! Constrained decoding: which tokens may come next, so that a text gets the form asked for.
//!
//! Owns the way from an [`OutputFormat`] and a model's vocabulary to a matcher (the ingled
//! llguidance), and the bounds on what a caller can make of it. Knows nothing of engines, samplers
//! or threads: whoever draws tokens asks for the allowed ones and says which was drawn.
//!
//! Formats come from anybody. Their size is bounded here, what they can grow into by
//! `schema::check` and by llguidance's own limits, and nothing they name is ever fetched: this
//! build of llguidance has no resolver of references but the one for `#/...`.
//!
//! A caller's own format is kept to the letter or refused, and so are the schemas of tools that are
//! strict. Any other tool's schema describes more than it binds, and nobody wrote it for a grammar: what
//! cannot be enforced of it is left out, and if need be all of it but that it is an object.

mod annotations;
mod lark;
mod schema;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::wire::generate::OutputFormat;
use llguidance::api::{GrammarInit, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};
use llguidance::{CancellationHandle, Matcher, ParserFactory};
use serde_json::{Value, json};

use super::TextModel;
use super::tokenizer::Tokenizer;
use super::tool_calls::grammar::{Arguments, CallGrammar};

/// The longest token that may be drawn under a constraint, in bytes: the trie's own bound. Longer
/// ones are long runs of spaces.
const MAX_TOKEN_BYTES: usize = 1_000;

/// Space between the parts of a JSON text. It is bounded, because a model that has begun to write
/// spaces may never end.
const JSON_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";

/// The parameter whose member a caller's own form is.
const FORMAT: &str = "format";

/// The parameter whose member the form of a call is.
const TOOLS: &str = "tools";

/// Characters of an error that are passed on.
const ERROR_CHARS: usize = 300;

/// Why a text cannot be held to a form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The format is not one that can be enforced.
    #[error("`{field}` {problem}")]
    Invalid {
        /// The parameter that is wrong: `format` or `tools`.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// It was too much to work with in the middle of a text.
    #[error("`format` could not be enforced any further: {0}")]
    Exceeded(String),
    /// The model's vocabulary cannot be constrained.
    #[error("the model's vocabulary cannot be held to a format: {0}")]
    Vocabulary(String),
}

impl From<ConstraintError> for ErrorBody {
    fn from(error: ConstraintError) -> Self {
        let message = error.to_string();
        match error {
            ConstraintError::Invalid { field, problem } => Self::invalid(field, problem),
            ConstraintError::Exceeded(problem) => {
                Self::invalid("format", format!("could not be enforced any further: {problem}"))
            }
            ConstraintError::Vocabulary(_) => Self::new(ErrorCode::ModelUnsupported, message)
                .with_details(json!({ "field": "format" })),
        }
    }
}

/// A model's vocabulary in the form that constraints are made from. Made once a model: it takes some
/// hundred milliseconds, and some dozens of bytes a token.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// Reads the bytes of every token.
    ///
    /// # Errors
    /// [`ConstraintError::Vocabulary`].
    pub fn new(text: &TextModel) -> Result<Self, ConstraintError> {
        let ends: Vec<u32> = known(&text.eos, text.tokenizer.vocab_size());
        let words = words(text.tokenizer.as_ref(), &ends);
        // The trie asserts what it expects of a vocabulary, which may be anybody's.
        let made = catch_unwind(AssertUnwindSafe(|| {
            let info = TokRxInfo::new(
                u32::try_from(words.len()).unwrap_or(u32::MAX),
                ends.first().copied().unwrap_or(INVALID_TOKEN),
            );
            let mut trie = TokTrie::from(&info, &words);
            if ends.len() > 1 {
                trie = trie.with_eos_tokens(&ends);
            }
            let vocabulary: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            ParserFactory::new_simple(&vocabulary)
        }));
        let mut factory = match made {
            Ok(made) => made.map_err(|error| ConstraintError::Vocabulary(brief(&error)))?,
            Err(_) => {
                let problem = "it has tokens that no trie can hold";
                return Err(ConstraintError::Vocabulary(problem.to_owned()));
            }
        };
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            // One or two kilobytes each.
            max_lexer_states: 50_000,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self { factory })
    }

    /// The constraint of one text; `None` when the text may have any form. Blocks for as long as the
    /// format is compiled, up to a second for the largest.
    ///
    /// # Errors
    /// [`ConstraintError::Invalid`] with what is wrong with the format.
    pub fn constraint(&self, format: &OutputFormat) -> Result<Option<Constraint>, ConstraintError> {
        if *format == OutputFormat::Text {
            return Ok(None);
        }
        self.compiled(|| grammar(format)).map(Some).map_err(|problem| invalid(FORMAT, problem))
    }

    /// The constraint of one text that calls tools, or may. Blocks as [`Grammars::constraint`] does, and
    /// longer where a tool that is not strict has a schema that cannot be enforced.
    ///
    /// # Errors
    /// [`ConstraintError::Invalid`] with what is wrong, and whether with the tools or with the format of
    /// an answer that calls none.
    pub fn calls(&self, calls: &CallGrammar) -> Result<Constraint, ConstraintError> {
        let mut tools: Vec<Arguments> = calls.arguments.clone();
        for tool in &mut tools {
            tool.schema = annotations::without(&tool.schema);
        }
        on_a_deep_stack(|| within_bounds(calls, &mut tools))
            .unwrap_or_else(|| Err(invalid(TOOLS, "could not be read".to_owned())))?;
        let problem = match self.compiled(|| Ok(of_calls(calls, &tools))) {
            Ok(constraint) => return Ok(constraint),
            Err(problem) => problem,
        };
        // Somebody's schema is at fault, or all of them together.
        if let Some(schema) = &calls.content {
            let alone = self.compiled(|| grammar_of(schema));
            alone.map_err(|problem| invalid(FORMAT, problem))?;
        }
        let until = Instant::now() + Duration::from_millis(limits::CALL_SCHEMAS_MS);
        let mut is_changed = false;
        for tool in &mut tools {
            let problem = if Instant::now() < until {
                self.compiled(|| Ok(of_arguments(tool))).err()
            } else {
                Some("takes too long to enforce beside the others".to_owned())
            };
            if let Some(problem) = problem {
                give_way(tool, &problem)?;
                is_changed = true;
            }
        }
        if is_changed {
            let remade = self.compiled(|| Ok(of_calls(calls, &tools)));
            return remade.map_err(|problem| invalid(TOOLS, problem));
        }
        Err(invalid(TOOLS, problem))
    }

    /// # Errors
    /// What follows the parameter's name in a message.
    fn compiled(
        &self,
        grammar: impl FnOnce() -> Result<TopLevelGrammar, String> + Send,
    ) -> Result<Constraint, String> {
        // Checking follows references as compiling does.
        let parser = on_a_deep_stack(|| {
            let grammar = GrammarInit::Serialized(grammar()?);
            Ok::<_, String>(self.factory.create_parser_from_init_default(grammar))
        });
        let parser = parser.unwrap_or_else(|| Err("could not be compiled".to_owned()))?;
        let matcher = Matcher::new(parser).into_cancellable();
        match matcher.get_error() {
            Some(problem) => Err(format!("cannot be enforced: {}", brief(&problem))),
            None => Ok(Constraint { matcher }),
        }
    }
}

fn invalid(field: &'static str, problem: String) -> ConstraintError {
    ConstraintError::Invalid { field, problem }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}

/// The form that one text must have, and how much of it there is already.
pub struct Constraint {
    matcher: Matcher,
}

impl Constraint {
    /// A set of the tokens that may come next: bit `id % 32` of word `id / 32`. It has an end token
    /// exactly when the text has its whole form.
    ///
    /// # Errors
    /// [`ConstraintError::Exceeded`]; the constraint is of no use afterwards.
    pub fn allowed(&mut self) -> Result<Vec<u32>, ConstraintError> {
        self.matcher.compute_mask_or_eos().map(Vec::from).map_err(exceeded)
    }

    /// Takes note of the token that came. End tokens need not be told.
    ///
    /// # Errors
    /// [`ConstraintError::Exceeded`] when the token was not allowed, or a limit is reached.
    pub fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.matcher.consume_token(token).map_err(exceeded)
    }

    /// Whether the text is whole and nothing may follow but its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && self.matcher.stop_reason().is_ok()
    }

    /// The same constraint for another text, from where this one stands.
    #[must_use]
    pub fn fork(&self) -> Self {
        // A plain clone would share its caches, and a lock on them, with the original.
        Self { matcher: self.matcher.deep_clone() }
    }

    /// What ends a call of this constraint that another thread is in.
    #[must_use]
    pub fn canceller(&self) -> Option<Canceller> {
        self.matcher.cancellation_handle().map(Canceller)
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

/// Ends a constraint's work from another thread.
#[derive(Debug, Clone)]
pub struct Canceller(CancellationHandle);

impl Canceller {
    /// Whatever the constraint does now, or is asked from now on, fails.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// A format as llguidance reads it, once it is known to stay small.
///
/// # Errors
/// What follows "`format`" in a message.
fn grammar(format: &OutputFormat) -> Result<TopLevelGrammar, String> {
    Ok(match format {
        OutputFormat::Text | OutputFormat::JsonObject => {
            TopLevelGrammar::from_json_schema(to_the_letter(json!({ "type": "object" })))
        }
        OutputFormat::JsonSchema { schema } => grammar_of(schema)?,
        OutputFormat::Grammar { lark } => {
            TopLevelGrammar::from_lark(lark::checked(lark, to_the_letter)?)
        }
    })
}

/// A schema as llguidance reads it.
///
/// # Errors
/// As [`grammar`].
fn grammar_of(schema: &Value) -> Result<TopLevelGrammar, String> {
    schema::check([schema])?;
    Ok(TopLevelGrammar::from_json_schema(to_the_letter(schema.clone())))
}

/// Checks that the schemas can be compiled together. Tools that are not strict give way.
///
/// # Errors
/// [`ConstraintError::Invalid`].
fn within_bounds(calls: &CallGrammar, tools: &mut [Arguments]) -> Result<(), ConstraintError> {
    let (mut sum, mut all) = (schema::Sum::default(), 0);
    if let Some(content) = &calls.content {
        sum.add(content, schema::bytes(content)).map_err(|problem| invalid(FORMAT, problem))?;
    }
    // What must be enforced has the room first.
    let (strict, lenient): (Vec<_>, Vec<_>) = tools.iter_mut().partition(|tool| tool.is_strict);
    for tool in strict.into_iter().chain(lenient) {
        let bytes = schema::bytes(&tool.schema);
        let outcome = if all + bytes > limits::CALL_SCHEMA_BYTES {
            let most = limits::CALL_SCHEMA_BYTES;
            Err(format!("has, with the other tools, a schema of more than {most} bytes"))
        } else {
            sum.add(&tool.schema, bytes)
        };
        match outcome {
            Ok(()) => all += bytes,
            Err(problem) => give_way(tool, &problem)?,
        }
    }
    Ok(())
}

/// Asks for any object where a schema cannot be enforced.
///
/// # Errors
/// [`ConstraintError::Invalid`] where it must be.
fn give_way(tool: &mut Arguments, problem: &str) -> Result<(), ConstraintError> {
    if tool.is_strict {
        let problem = format!("has a strict tool `{}` that {problem}", tool.tool);
        return Err(invalid(TOOLS, problem));
    }
    tool.schema = json!({ "type": "object" });
    Ok(())
}

/// The arguments of one tool as llguidance reads them.
fn of_arguments(tool: &Arguments) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(written_our_way(tool.schema.clone(), !tool.is_strict))
}

/// Calls of tools as llguidance reads them, or the content in their stead. Neither the rules, which are
/// our own, nor the schemas are checked.
fn of_calls(calls: &CallGrammar, tools: &[Arguments]) -> TopLevelGrammar {
    let mut lark = calls.rules.clone();
    if calls.is_spaced {
        // The same space as in JSON, so that what is a part of both is the same part.
        let ignored = format!("%llguidance {{\"ignore_once\": true}}\n%ignore /{JSON_SPACE}/\n");
        lark.insert_str(0, &ignored);
    }
    for tool in tools {
        let schema = written_our_way(tool.schema.clone(), !tool.is_strict);
        lark.push_str(&format!("{}: %json {schema}\n", tool.rule));
    }
    if let Some(schema) = &calls.content {
        lark.push_str(&format!("content: %json {}\n", to_the_letter(schema.clone())));
    }
    TopLevelGrammar::from_lark(lark)
}

/// A schema whose every word is kept.
fn to_the_letter(schema: Value) -> Value {
    written_our_way(schema, false)
}

/// A schema with this daemon's way of writing JSON, and not with the caller's: llguidance takes
/// settings from the schema, some of which give up what the schema promises.
fn written_our_way(mut schema: Value, is_lenient: bool) -> Value {
    if let Some(schema) = schema.as_object_mut() {
        let settings = json!({ "whitespace_pattern": JSON_SPACE, "lenient": is_lenient });
        schema.insert("x-guidance".to_owned(), settings);
    }
    schema
}

/// Runs `work` where it may call itself often: what a schema refers to is compiled inside of what
/// refers to it. `None` when it panicked, or when the system gives no thread.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    const STACK_BYTES: usize = 64 << 20;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("ingle-format".to_owned());
        let running = thread.stack_size(STACK_BYTES).spawn_scoped(scope, work).ok()?;
        running.join().ok()
    })
}

/// The bytes of every token. Special tokens are marked in llguidance's way, under their names, so
/// that no text matches them and a grammar can name them. So are those that end a text, special or
/// not: drawn inside a string they would end it there.
fn words(tokenizer: &dyn Tokenizer, ends: &[u32]) -> Vec<Vec<u8>> {
    let size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let word = |id: u32| {
        let word = if tokenizer.is_special(id) || ends.contains(&id) {
            let named = tokenizer.special_name(id).filter(|name| !name.is_empty());
            let name = named.unwrap_or_else(|| format!("<special {id}>").into_bytes().into());
            [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_ref()].concat()
        } else {
            tokenizer.token_bytes(id).unwrap_or_default().into_owned()
        };
        if word.len() > MAX_TOKEN_BYTES { Vec::new() } else { word }
    };
    (0..size).map(word).collect()
}

fn known(tokens: &[u32], vocab_size: usize) -> Vec<u32> {
    tokens.iter().copied().filter(|&token| (token as usize) < vocab_size).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to `map_err`")]
fn exceeded(error: impl ToString) -> ConstraintError {
    ConstraintError::Exceeded(brief(&error))
}

/// What of an error of llguidance's is for people: without states, stacks and its own length.
fn brief(error: &impl ToString) -> String {
    let error = error.to_string();
    if error.starts_with("panic: ") {
        return "the library that enforces formats failed on it".to_owned();
    }
    let text = error.split("\n<").next().unwrap_or_default();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(ERROR_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

const _: () = assert!(limits::FORMAT_BYTES < limits::FRAME_BYTES);
const _: () = assert!(limits::CALL_SCHEMA_BYTES <= limits::TOOL_BYTES);

#[cfg(test)]
pub(crate) mod probe;
#[cfg(test)]
mod tests;
