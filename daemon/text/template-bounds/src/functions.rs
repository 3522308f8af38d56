//! Bounded environment: minijinja's filters and operators, limited where they can make large values.
//!
//! Owns the filters behind the rewritten operators, and bounded versions of minijinja's filters. Does
//! not know the functions of a dialect: the caller of `render` adds those.

use std::sync::Arc;

use minijinja::functions::Function;
use minijinja::value::{FunctionArgs, FunctionResult, Kwargs, Rest, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, State, Value, filters};

use super::bounds::Bounds;
use super::strings::{call_method, characters, indent, join, line_count, part_count, replace};
use super::{MAX_CALL_DEPTH, MAX_STEPS, refuse};

// Names of the filters that `compile` puts in place of operators. They are not identifiers, so no
// template can define or call them directly; one that reaches them through `map` gains nothing.
pub(crate) const CONCAT: &str = "~";
pub(crate) const ADD: &str = "+";
pub(crate) const MULTIPLY: &str = "*";
pub(crate) const CHARGE: &str = "!charge";
pub(crate) const STORE: &str = "!store";

/// Filters that can make large values from small ones and that no chat template needs.
const REMOVED_FILTERS: &[&str] =
    &["batch", "slice", "pprint", "format", "zip", "chain", "groupby", "sum", "escape", "e"];

/// An environment that counts all of its values in `bounds`.
pub(crate) fn environment(bounds: &Arc<Bounds>) -> Environment<'static> {
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

/// minijinja's own operators, which have no other interface than a template expression.
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
    env.add_filter(
        "indent",
        move |text: &str, width: Option<usize>, first: Option<bool>, blank: Option<bool>| {
            indent(&shared, text, width.unwrap_or(4), first == Some(true), blank == Some(true))
        },
    );
}

/// Adds one of minijinja's filters with a check on the number of items before it.
///
/// All of these filters take a string as the list of its characters.
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

/// Jinja's filter `map`: an attribute of every item, or a filter applied to every item.
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
