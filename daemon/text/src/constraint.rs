//! Constrained decoding: limits the next token so that a text follows its format.
//!
//! Owns the compilation of an [`OutputFormat`] with a model's vocabulary to a matcher (the crate
//! llguidance), and the bounds on a client's format. Does not know engines, samplers or threads: a
//! sampler asks for the allowed tokens and reports the one it has drawn.
//!
//! Formats are untrusted input. Their size is bounded here, their growth by `schema::check` and by
//! llguidance's own limits. No reference is ever fetched: this build of llguidance resolves only those
//! of the kind `#/...`.
//!
//! A client's response format is enforced exactly or refused, and so is the schema of a strict tool. The
//! schema of any other tool mainly describes, and was not written for a grammar: parts that cannot be
//! enforced are left out, and if necessary everything except that it is an object.

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

/// Maximum size of a token under a constraint, in bytes: the trie's own bound.
///
/// Longer tokens are long runs of spaces.
const MAX_TOKEN_BYTES: usize = 1_000;

/// White space between the parts of a JSON text.
///
/// It is bounded, because a model that begins to write white space may never stop.
const JSON_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";

/// The request's field with the response format.
const FORMAT: &str = "format";

/// The request's field with the tools.
const TOOLS: &str = "tools";

/// Maximum number of characters of llguidance's error in a message.
const ERROR_CHARS: usize = 300;

/// Reason why a text cannot be constrained.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The format cannot be enforced.
    #[error("`{field}` {problem}")]
    Invalid {
        /// The request's field: `format` or `tools`.
        field: &'static str,
        /// The problem, as the rest of the sentence.
        problem: String,
    },
    /// The constraint reached a limit in the middle of a text.
    #[error("`format` could not be enforced any further: {0}")]
    Exceeded(String),
    /// The model's vocabulary cannot be constrained.
    #[error("the model's vocabulary cannot be constrained to a format: {0}")]
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

/// Compiler of constraints for one model's vocabulary.
///
/// Created once for each model: that takes some hundred milliseconds, and dozens of bytes per token.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// Reads the bytes of every token of the vocabulary.
    ///
    /// # Errors
    /// [`ConstraintError::Vocabulary`].
    pub fn new(text: &TextModel) -> Result<Self, ConstraintError> {
        let ends: Vec<u32> = known(&text.eos, text.tokenizer.vocab_size());
        let words = words(text.tokenizer.as_ref(), &ends);
        // The trie asserts its expectations of a vocabulary, which is untrusted.
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

    /// The constraint of one text; `None` if the format allows any text.
    ///
    /// Blocks while the format is compiled, up to a second for the largest.
    ///
    /// # Errors
    /// [`ConstraintError::Invalid`] with the problem of the format.
    pub fn constraint(&self, format: &OutputFormat) -> Result<Option<Constraint>, ConstraintError> {
        if *format == OutputFormat::Text {
            return Ok(None);
        }
        self.compiled(|| grammar(format)).map(Some).map_err(|problem| invalid(FORMAT, problem))
    }

    /// The constraint of one text that must call tools, or may.
    ///
    /// Blocks as [`Grammars::constraint`] does, and longer if the schema of a tool that is not strict
    /// cannot be enforced.
    ///
    /// # Errors
    /// [`ConstraintError::Invalid`] with the problem, and its field: the tools, or the format of a response
    /// without calls.
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
        // One of the schemas cannot be compiled, or all of them together: find out which.
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
                Some("takes too long to compile with the others".to_owned())
            };
            if let Some(problem) = problem {
                drop_schema(tool, &problem)?;
                is_changed = true;
            }
        }
        if is_changed {
            let remade = self.compiled(|| Ok(of_calls(calls, &tools)));
            return remade.map_err(|problem| invalid(TOOLS, problem));
        }
        Err(invalid(TOOLS, problem))
    }

    /// Compiles a grammar on a thread with a deep stack.
    ///
    /// # Errors
    /// The problem, as the rest of a sentence that begins with the field's name.
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

/// The constraint of one text, and its position in that text.
pub struct Constraint {
    matcher: Matcher,
}

impl Constraint {
    /// The set of tokens that may come next: bit `id % 32` of word `id / 32`.
    ///
    /// It contains an end token exactly when the text is complete.
    ///
    /// # Errors
    /// [`ConstraintError::Exceeded`]; the constraint cannot be used afterwards.
    pub fn allowed(&mut self) -> Result<Vec<u32>, ConstraintError> {
        self.matcher.compute_mask_or_eos().map(Vec::from).map_err(exceeded)
    }

    /// Accepts the next token of the text. End tokens need no call.
    ///
    /// # Errors
    /// [`ConstraintError::Exceeded`] when the token was not allowed, or a limit is reached.
    pub fn accept(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.matcher.consume_token(token).map_err(exceeded)
    }

    /// Whether the text is complete and only its end may follow.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && self.matcher.stop_reason().is_ok()
    }

    /// A copy of the constraint for another text, at the same position.
    #[must_use]
    pub fn fork(&self) -> Self {
        // A plain clone would share its caches, and a lock on them, with the original.
        Self { matcher: self.matcher.deep_clone() }
    }

    /// A handle that ends a call of this constraint from another thread.
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
    /// Makes the current call of the constraint and all later ones fail.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// Checks a format and converts it to llguidance's input.
///
/// # Errors
/// The problem, as the rest of a sentence that begins with "`format`".
fn grammar(format: &OutputFormat) -> Result<TopLevelGrammar, String> {
    Ok(match format {
        OutputFormat::Text | OutputFormat::JsonObject => {
            TopLevelGrammar::from_json_schema(exact(json!({ "type": "object" })))
        }
        OutputFormat::JsonSchema { schema } => grammar_of(schema)?,
        OutputFormat::Grammar { lark } => TopLevelGrammar::from_lark(lark::checked(lark, exact)?),
    })
}

/// Checks a schema and converts it to llguidance's input.
///
/// # Errors
/// As [`grammar`].
fn grammar_of(schema: &Value) -> Result<TopLevelGrammar, String> {
    schema::check([schema])?;
    Ok(TopLevelGrammar::from_json_schema(exact(schema.clone())))
}

/// Checks that the schemas can be compiled together; drops schemas of tools that are not strict.
///
/// # Errors
/// [`ConstraintError::Invalid`].
fn within_bounds(calls: &CallGrammar, tools: &mut [Arguments]) -> Result<(), ConstraintError> {
    let (mut cost, mut all) = (schema::SchemaCost::default(), 0);
    if let Some(content) = &calls.content {
        cost.add(content, schema::bytes(content)).map_err(|problem| invalid(FORMAT, problem))?;
    }
    // Strict schemas, which must be enforced, take their share of the bounds first.
    let (strict, lenient): (Vec<_>, Vec<_>) = tools.iter_mut().partition(|tool| tool.is_strict);
    for tool in strict.into_iter().chain(lenient) {
        let bytes = schema::bytes(&tool.schema);
        let outcome = if all + bytes > limits::CALL_SCHEMA_BYTES {
            let most = limits::CALL_SCHEMA_BYTES;
            Err(format!("has, with the other tools, a schema of more than {most} bytes"))
        } else {
            cost.add(&tool.schema, bytes)
        };
        match outcome {
            Ok(()) => all += bytes,
            Err(problem) => drop_schema(tool, &problem)?,
        }
    }
    Ok(())
}

/// Replaces a schema that cannot be enforced by the schema of any object.
///
/// # Errors
/// [`ConstraintError::Invalid`] for a strict tool.
fn drop_schema(tool: &mut Arguments, problem: &str) -> Result<(), ConstraintError> {
    if tool.is_strict {
        let problem = format!("has a strict tool `{}` that {problem}", tool.tool);
        return Err(invalid(TOOLS, problem));
    }
    tool.schema = json!({ "type": "object" });
    Ok(())
}

/// Converts the arguments of one tool to llguidance's input.
fn of_arguments(tool: &Arguments) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(with_our_settings(tool.schema.clone(), !tool.is_strict))
}

/// Converts tool calls, or the content instead, to llguidance's input.
///
/// Neither the rules, which are our own, nor the schemas are checked.
fn of_calls(calls: &CallGrammar, tools: &[Arguments]) -> TopLevelGrammar {
    let mut lark = calls.rules.clone();
    if calls.is_spaced {
        // The same white space as in JSON, so that calls and content consist of the same tokens.
        let ignored = format!("%llguidance {{\"ignore_once\": true}}\n%ignore /{JSON_SPACE}/\n");
        lark.insert_str(0, &ignored);
    }
    for tool in tools {
        let schema = with_our_settings(tool.schema.clone(), !tool.is_strict);
        lark.push_str(&format!("{}: %json {schema}\n", tool.rule));
    }
    if let Some(schema) = &calls.content {
        lark.push_str(&format!("content: %json {}\n", exact(schema.clone())));
    }
    TopLevelGrammar::from_lark(lark)
}

/// A schema that llguidance must enforce exactly.
fn exact(schema: Value) -> Value {
    with_our_settings(schema, false)
}

/// A schema with this daemon's settings in place of the client's.
///
/// llguidance takes settings from the schema, some of which would break what the schema promises.
fn with_our_settings(mut schema: Value, is_lenient: bool) -> Value {
    if let Some(schema) = schema.as_object_mut() {
        let settings = json!({ "whitespace_pattern": JSON_SPACE, "lenient": is_lenient });
        schema.insert("x-guidance".to_owned(), settings);
    }
    schema
}

/// Runs `work` on a thread with a deep stack, because referenced schemas are compiled recursively.
///
/// Returns `None` if it panicked, or if the system cannot start a thread.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    const STACK_BYTES: usize = 64 << 20;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("ingle-format".to_owned());
        let running = thread.stack_size(STACK_BYTES).spawn_scoped(scope, work).ok()?;
        running.join().ok()
    })
}

/// The bytes of every token.
///
/// Special tokens have llguidance's marker before their names, so that no text matches them and a
/// grammar can name them. End tokens have it too, special or not: drawn inside a string they would end
/// the text there.
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

/// The readable part of llguidance's error: without states and stacks, and truncated.
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
