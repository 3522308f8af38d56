//! The functions, filters and methods a chat template can use.
//!
//! Owns Hugging Face's additions to Jinja and bounded stand-ins for what could make large values.

use std::sync::Arc;

use minijinja::functions::Function;
use minijinja::value::{FunctionArgs, FunctionResult, Kwargs, Rest, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

use super::bounds::Bounds;
use super::json::to_json;
use super::strftime::strftime;
use super::strings::{call_method, characters, indent, join, line_count, part_count, replace};
use super::{MAX_CALL_DEPTH, MAX_STEPS, TextError};

/// Names of the filters that `compile` puts in place of operators. They are no identifiers, so they
/// hide no filter of a template's; one that gets at them through `map` gains nothing.
pub(super) const CONCAT: &str = "~";
pub(super) const ADD: &str = "+";
pub(super) const MULTIPLY: &str = "*";
pub(super) const CHARGE: &str = "!charge";
pub(super) const STORE: &str = "!store";

/// Filters that no chat template needs and that can make large values from small ones.
const REMOVED_FILTERS: &[&str] =
    &["batch", "slice", "pprint", "format", "zip", "chain", "groupby", "sum", "escape", "e"];

/// An environment whose values are all counted in `bounds`.
pub(super) fn environment(bounds: &Arc<Bounds>, unix_time_s: i64) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_fuel(Some(MAX_STEPS));
    env.set_recursion_limit(MAX_CALL_DEPTH);
    env.set_debug(false);
    env.remove_global("debug");
    for name in REMOVED_FILTERS {
        env.remove_filter(name);
    }
    add_operators(&mut env, bounds);
    add_filters(&mut env, bounds);

    let shared = Arc::clone(bounds);
    env.set_formatter(move |out, _, value| {
        if value.is_undefined() {
            return Ok(());
        }
        let text = shared.text_of(value)?;
        out.write_str(&text).map_err(Error::from)
    });
    let shared = Arc::clone(bounds);
    env.set_unknown_method_callback(move |state, value, method, arguments| {
        call_method(&shared, state, value, method, arguments)
    });
    let shared = Arc::clone(bounds);
    env.add_function("raise_exception", move |message: String| -> Result<Value, Error> {
        Err(shared.end(TextError::ChatTemplate(message)))
    });
    let shared = Arc::clone(bounds);
    env.add_function("strftime_now", move |format: &str| -> Result<String, Error> {
        // The longest directive gives 24 bytes for two.
        shared.charge_text(format.len() * 12)?;
        Ok(strftime(format, unix_time_s))
    });
    env
}

fn add_operators(env: &mut Environment<'_>, bounds: &Arc<Bounds>) {
    let shared = Arc::clone(bounds);
    env.add_filter(CONCAT, move |left: &Value, right: &Value| -> Result<String, Error> {
        let mut text = shared.text_of(left)?;
        text.push_str(&shared.text_of(right)?);
        Ok(text)
    });
    let shared = Arc::clone(bounds);
    let plus = Operators::new();
    env.add_filter(ADD, move |left: &Value, right: &Value| -> Result<Value, Error> {
        if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
            shared.charge_text(left.len() + right.len())?;
        }
        plus.add(left, right)
    });
    let times = Operators::new();
    env.add_filter(MULTIPLY, move |left: &Value, right: &Value| -> Result<Value, Error> {
        if left.is_number() && right.is_number() {
            return times.multiply(left, right);
        }
        Err(refuse("`*` is supported between numbers only"))
    });
    let shared = Arc::clone(bounds);
    env.add_filter(CHARGE, move |value: Value| -> Result<Value, Error> { shared.charge(value) });
    let shared = Arc::clone(bounds);
    env.add_filter(STORE, move |value: Value| -> Result<Value, Error> {
        shared.refuse_namespace(&value)?;
        Ok(value)
    });
}

/// The engine's own operators, which it offers to templates only.
struct Operators(Environment<'static>);

impl Operators {
    fn new() -> Self {
        Self(Environment::empty())
    }

    fn eval(&self, expression: &str, left: &Value, right: &Value) -> Result<Value, Error> {
        let context = Value::from_pairs([("a", left.clone()), ("b", right.clone())]);
        self.0.compile_expression(expression)?.eval(context)
    }

    fn add(&self, left: &Value, right: &Value) -> Result<Value, Error> {
        self.eval("a + b", left, right)
    }

    fn multiply(&self, left: &Value, right: &Value) -> Result<Value, Error> {
        self.eval("a * b", left, right)
    }
}

pub(super) fn refuse(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

fn add_filters(env: &mut Environment<'_>, bounds: &Arc<Bounds>) {
    let shared = Arc::clone(bounds);
    env.add_filter("replace", move |text: &str, from: &str, to: &str, rest: Rest<Value>| {
        replace(&shared, text, from, to, &rest)
    });
    let shared = Arc::clone(bounds);
    env.add_filter("join", move |value: &Value, joiner: Option<&str>, attribute: Option<&str>| {
        join(&shared, joiner.unwrap_or_default(), value, attribute)
    });
    let shared = Arc::clone(bounds);
    env.add_filter(
        "map",
        move |state: &mut State<'_, '_>, list: &Value, rest: Rest<ValueOrKwargs>| {
            map(&shared, state, list, &rest.into_values())
        },
    );
    guard(env, bounds, "list", filters::list, characters);
    guard(env, bounds, "sort", filters::sort, characters);
    guard(env, bounds, "unique", filters::unique, characters);
    guard(env, bounds, "select", filters::select, characters);
    guard(env, bounds, "reject", filters::reject, characters);
    guard(env, bounds, "selectattr", filters::selectattr, characters);
    guard(env, bounds, "rejectattr", filters::rejectattr, characters);
    guard(env, bounds, "lines", filters::lines, |text, _| line_count(text));
    guard(env, bounds, "split", filters::split, part_count);
    let shared = Arc::clone(bounds);
    env.add_filter("string", move |value: &Value| shared.text_of(value));
    let shared = Arc::clone(bounds);
    env.add_filter("tojson", move |value: &Value, options: Kwargs| -> Result<String, Error> {
        let indent: Option<usize> = options.get("indent")?;
        // Python's other options are left at their defaults.
        to_json(&shared, value, indent)
    });
    let shared = Arc::clone(bounds);
    env.add_filter(
        "indent",
        move |text: &str, width: Option<usize>, first: Option<bool>, blank: Option<bool>| {
            indent(&shared, text, width.unwrap_or(4), first == Some(true), blank == Some(true))
        },
    );
}

/// Puts a look at the number of items before one of the engine's filters, which all take strings
/// as lists of their characters.
fn guard<F, R, A>(
    env: &mut Environment<'_>,
    bounds: &Arc<Bounds>,
    name: &'static str,
    filter: F,
    items_of_text: fn(&str, &[Value]) -> usize,
) where
    F: Function<R, A>,
    R: FunctionResult,
    A: for<'a> FunctionArgs<'a>,
{
    let shared = Arc::clone(bounds);
    let filter = Value::from_function(filter);
    let guarded = move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
        let arguments = arguments.into_values();
        if let [value, rest @ ..] = arguments.as_slice()
            && let Some(text) = value.as_str()
        {
            shared.check_items(items_of_text(text, rest))?;
        }
        filter.call(state, &arguments)
    };
    env.add_filter(name, guarded);
}

/// Jinja's `map`: an attribute of every item, or a filter applied to every item.
fn map(
    bounds: &Bounds,
    state: &mut State<'_, '_>,
    list: &Value,
    arguments: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = list.as_str() {
        bounds.check_items(characters(text, &[]))?;
    }
    let (arguments, options): (&[Value], Kwargs) = from_args(arguments)?;
    let mut out = Vec::new();
    if let Some(attribute) = options.get::<Option<&str>>("attribute")? {
        let default = options.get::<Option<Value>>("default")?;
        for item in list.try_iter()? {
            let found = attribute.split('.').try_fold(item, |item, name| item.get_attr(name))?;
            out.push(match &default {
                Some(default) if found.is_undefined() => default.clone(),
                _ => found,
            });
        }
    } else {
        let Some((name, arguments)) = arguments.split_first() else {
            return Err(refuse("map takes a filter's name or `attribute`"));
        };
        let name = name.as_str().ok_or_else(|| refuse("map takes a filter's name"))?;
        for item in list.try_iter()? {
            let arguments: Vec<Value> =
                std::iter::once(item).chain(arguments.iter().cloned()).collect();
            out.push(bounds.charge(state.apply_filter(name, &arguments)?)?);
        }
    }
    options.assert_all_used()?;
    Ok(Value::from(out))
}
