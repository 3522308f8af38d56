//! Tests of the rewriting: harmless templates give their text, hostile ones an error.
//!
//! The tests of `ingle-text`'s chat templates cover far more templates of both kinds.

use super::*;

fn text(source: &str) -> Result<String, RenderError> {
    render(source, Value::from_pairs([("items", Value::from(vec![1, 2, 3]))]), |_, _| {})
}

#[test]
fn rewritten_jumps_reach_their_targets() {
    let source = "{% for x in items if x != 2 %}{{ loop.index }}{{ 'a' if x > 2 else 'b' }}\
                  {% else %}none{% endfor %}{% macro m(a, b='d') %}<{{ a ~ b }}>{% endmacro %}\
                  {{ m(1) }}{{ false or (true and 'y') }}{{ [1] + [2] }}{{ 3 * 4 }}";
    assert_eq!(text(source).unwrap(), "1b2a<1d>y[1, 2]12");
}

#[test]
fn growing_values_reach_a_limit() {
    let in_loop = |body: &str| {
        format!(
            "{{% set ns = namespace(s='ab', l=[1]) %}}{{% for i in range(99999) %}}{body}{{% endfor %}}"
        )
    };
    for source in [
        in_loop("{% set ns.s = ns.s ~ ns.s %}"),
        in_loop("{% set ns.s = ns.s + ns.s %}"),
        in_loop("{% set ns.s = ns.s.replace('a', ns.s) %}"),
        in_loop("{% set ns.s = [ns.s, ns.s] | join %}"),
        in_loop("{% set ns.l = ns.l + ns.l %}"),
        in_loop("{% set ns.l = [ns.l, ns.l] %}"),
        in_loop("{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}"),
        in_loop("{% for j in range(99999) %}{% endfor %}"),
        " ".repeat(MAX_SOURCE_BYTES + 1),
    ] {
        let error = text(&source).unwrap_err();
        assert!(matches!(error, RenderError::Limit { .. }), "{error}: {:.120}", source);
    }
}

#[test]
fn removed_and_unbounded_operations_fail() {
    for source in
        ["{{ 'a' * 9 }}", "{{ 'x' | format(1) }}", "{{ '{:9}'.format(1) }}", "{{ debug() }}"]
    {
        assert!(matches!(text(source), Err(RenderError::Failed(_))), "{source}");
    }
}

#[test]
fn namespace_in_another_value_is_refused() {
    for source in ["{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "{{ [namespace()] }}"] {
        let error = text(source).unwrap_err().to_string();
        assert_eq!(error, "a namespace cannot be stored in another value", "{source}");
    }
}

#[test]
fn extensions_are_bounded_and_end_a_rendering() {
    let stop = |env: &mut Environment<'static>, bounds: &Arc<Bounds>| {
        let bounds = Arc::clone(bounds);
        env.add_function("stop", move || -> Result<Value, Error> {
            Err(bounds.end(RenderError::Failed("stopped".to_owned())))
        });
    };
    let error = render("{{ stop() }}", Value::from(()), stop).unwrap_err();
    assert_eq!(error, RenderError::Failed("stopped".to_owned()));
}

#[test]
fn mentions_finds_variables_and_ignores_text() {
    assert!(mentions("{% if tools %}{% endif %}", "tools"));
    assert!(!mentions("tools {{ 'tools' }}", "tools"));
}
