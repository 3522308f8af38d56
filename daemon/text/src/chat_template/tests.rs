//! Tests of the dialect on templates in use, and of the limits on hostile ones.

use std::time::{Duration, Instant};

use super::*;

fn input<'a>(messages: &'a [Message], options: &'a Map<String, Json>) -> ChatInput<'a> {
    let unix_time_s = 1_795_219_200;
    ChatInput { messages, tools: &[], options, add_generation_prompt: true, unix_time_s }
}

fn render(source: &str, messages: &[Message]) -> Result<String, TextError> {
    ChatTemplate::new(source, "<s>", "</s>").render(&input(messages, &Map::new()))
}

fn conversation() -> Vec<Message> {
    vec![
        Message::new("system", " Be brief. "),
        Message::new("user", "Hi <you> & \"me\""),
        Message::new("assistant", "Hello"),
        Message::new("user", "Bye"),
    ]
}

fn text(source: &str) -> String {
    render(source, &conversation()).unwrap()
}

#[test]
fn smollm2_template_adds_its_system_message() {
    let source = "{% for message in messages %}{% if loop.first and messages[0]['role'] != \
        'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by \
        Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + \
        message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ \
        '<|im_start|>assistant\n' }}{% endif %}";
    assert_eq!(
        render(source, &[Message::new("user", "Hi")]).unwrap(),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging \
         Face<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn slices_namespaces_and_macros_work() {
    let source = "{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0]['content'].strip() %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- set ns = namespace(n=0, text='') %}
{%- macro turn(role) -%}
    [{{ role | upper }}]
{%- endmacro %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {%- set ns.n = ns.n + 1 %}
    {%- set ns.text = ns.text ~ turn(message.role) + message.content|trim %}
    {%- if loop.last %}{% break %}{% endif %}
{%- endfor %}
{{- system + ns.text + '#' ~ ns.n }}";
    assert_eq!(text(source), "<s>Be brief.[USER]Hi <you> & \"me\"[ASSISTANT]Hello[USER]Bye#3");
    let error = render(source, &conversation()[2..]).unwrap_err();
    assert_eq!(error.to_string(), "chat template: Conversation roles must alternate");
}

#[test]
fn blocks_are_trimmed_as_by_hugging_face() {
    assert_eq!(text("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
}

#[test]
fn tojson_equals_pythons_json() {
    assert_eq!(
        text("{{ messages[1] | tojson }}"),
        r#"{"role": "user", "content": "Hi <you> & \"me\""}"#
    );
    assert_eq!(
        text("{{ {'a': [1, 2.5, none, true], 'b': {}} | tojson }}"),
        r#"{"a": [1, 2.5, null, true], "b": {}}"#
    );
    assert_eq!(
        text("{{ {'a': [1, 'é'], 'b': []} | tojson(indent=2) }}"),
        "{\n  \"a\": [\n    1,\n    \"é\"\n  ],\n  \"b\": []\n}"
    );
}

#[test]
fn python_methods_and_dialect_functions_work() {
    assert_eq!(text("{{ ' x '.strip() }}{{ 'a-b'.split('-')[-1] }}"), "xb");
    assert_eq!(
        text("{% for k, v in messages[3].items() %}{{ k }}={{ v }};{% endfor %}"),
        "role=user;content=Bye;"
    );
    assert_eq!(text("{{ messages[0].get('name', 'none') }}"), "none");
    assert_eq!(
        text("{{ 'a.b.c'.replace('.', '::') }}{{ 'aXbX' | replace('X', '') }}"),
        "a::b::cab"
    );
    assert_eq!(text("{{ 'aaa'.replace('a', 'b', 2) }}{{ ', '.join(['x', 'y']) }}"), "bbax, y");
    assert_eq!(
        text("{{ messages | map(attribute='role') | join('/') }}"),
        "system/user/assistant/user"
    );
    assert_eq!(text("{{ strftime_now('%d %b %Y') }}"), "21 Nov 2026");
    assert_eq!(text("{{ 'a\nb' | indent(2) }}{{ 3 * 4 }}{{ [1] + [2] }}"), "a\n  b12[1, 2]");
    assert_eq!(text("{{ missing }}{{ tools is none }}{{ x is defined }}"), "TrueFalse");
    assert_eq!(text("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"), "2");
}

#[test]
fn loops_and_conditions_survive_rewriting() {
    assert_eq!(
        text(
            "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }} \
             {% else %}none{% endfor %}{% for m in [] %}x{% else %}none{% endfor %}\
             {{ 'a' if not false and (true or missing) else 'b' }}\
             {% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}\
             {% call(x) m2(1) %}{{ x }}{% endcall %}"
                .replace("{% call(x) m2(1) %}{{ x }}{% endcall %}", "")
                .as_str()
        ),
        "1/2 2/2 nonea13"
    );
    assert_eq!(
        text(
            "{% macro m(a, b='d') %}<{{ a }}{{ b }}{{ caller() }}>{% endmacro %}\
              {% call m(1) %}in{{ 1 + 1 }}{% endcall %}{% set x %}cap{{ 2 }}{% endset %}{{ x }}"
        ),
        "<1din2>cap2"
    );
}

#[test]
fn errors_name_their_line() {
    let error = render("a\n{{ 'x' }}\n{% for %}", &[]).unwrap_err().to_string();
    assert!(error.contains(":3"), "{error}");
    let error = render("a\nb\n{{ missing.attribute }}", &[]).unwrap_err().to_string();
    assert!(error.contains(":3"), "{error}");
}

#[test]
fn nothing_can_be_read_from_disk() {
    for source in
        ["{% include '/etc/passwd' %}", "{% import 'x' as x %}", "{% extends '/etc/passwd' %}"]
    {
        assert!(render(source, &[]).is_err(), "{source}");
    }
}

/// Each of these would take all time or memory there is; each must end soon with an error.
#[test]
fn hostile_templates_end_with_an_error() {
    let long_chain = format!("{{{{ a{} }}}}", " ~ a".repeat(60_000));
    let long_filters = format!("{{{{ a{} }}}}", "|trim".repeat(50_000));
    let deep_parens = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    let deep_ifs = "{% if true %}".repeat(15_000);
    let elifs = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(15_000)) + "{{";
    let huge = " ".repeat(template_bounds::MAX_SOURCE_BYTES + 1);
    let raw = format!(
        "{{% for i in range(100000) %}}{}{{% endfor %}}",
        "r".repeat(template_bounds::MAX_SOURCE_BYTES / 2)
    );
    let raw_capture = format!("{{% set x %}}{raw}{{% endset %}}");
    let loop_of = |body: &str| {
        format!(
            "{{% set ns = namespace(s='ab', l=[1], m=[2]) %}}{{% for i in range(99999) %}}{body}\
             {{% endfor %}}{{{{ ns.l == ns.m }}}}{{{{ ns.s }}}}"
        )
    };
    let cases = [
        "{% for i in range(1000000000) %}x{% endfor %}".to_owned(),
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% macro f(s) %}{{ f(s ~ s) }}{% endmacro %}{{ f('abc') }}".to_owned(),
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        "{{ 'a' * 1000000000 }}".to_owned(),
        "{{ ('a' * 99999999) ~ ('a' * 99999999) ~ ('a' * 99999999) }}".to_owned(),
        "{% set a = 'a' %}{{ a * 99999999 }}".to_owned(),
        "{% set a = [1] %}{% for x in a * 99999999 %}{% endfor %}".to_owned(),
        loop_of("{% set ns.s = ns.s ~ ns.s %}"),
        loop_of("{% set ns.s = ns.s + ns.s %}"),
        loop_of("{% set ns.s = ns.s.replace('a', ns.s) %}"),
        loop_of("{% set ns.s = ns.s | replace('', ns.s) %}"),
        loop_of("{% set ns.s = ns.s.join([ns.s, ns.s]) %}"),
        loop_of("{% set ns.s = [ns.s, ns.s] | join %}"),
        loop_of("{% set ns.s = ns.s | indent(1000000) %}"),
        loop_of("{% set ns.s = '\\n' | indent(99999999999) %}"),
        loop_of("{% set ns.s = [ns.s, ns.s] | tojson %}"),
        loop_of("{% set ns.s = [ns.s, ns.s] | string %}"),
        loop_of("{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}"),
        loop_of("{% set ns.s = '%1000000000d' | format(1) %}"),
        loop_of("{% set ns.s = '{:1000000000}'.format(1) %}"),
        loop_of("{% set ns.l = ns.l + ns.l %}{% set ns.m = ns.m + ns.m %}"),
        loop_of("{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}"),
        loop_of("{% set ns.l = {'a': ns.l, 'b': ns.l} %}"),
        loop_of("{% set ns.l = dict(a=ns.l, b=ns.l) %}"),
        loop_of("{% set ns.l = (ns.l, ns.l) %}"),
        loop_of("{% set ns.l = ns.l + [messages[0].content | upper] %}"),
        loop_of("{% set ns.l = ns.l + [range(99999) | list] %}"),
        loop_of("{% set ns.l = ns.l + [messages[0].content] %}"),
        loop_of("{% set ns.l = ns.l | reverse %}{% set ns.m = ns.m[0:] %}") + "{{ x() }}",
        loop_of("{% set ns.l = {'a': ns.l | items | list} %}{% set ns.l = ns.l | items %}"),
        loop_of("{% set ns.l = {'a': ns.l} | items %}"),
        loop_of("{% set ns.l = ns.l | map('list') | list %}") + "{{ x() }}",
        loop_of("{% set ns.l = messages[0].content | list %}"),
        loop_of("{% set ns.l = messages[0].content.split('x') %}"),
        loop_of("{% set ns.l = messages[0].content | split('x') | unique %}"),
        loop_of("{% set ns.l = messages[0].content | sort %}"),
        loop_of("{% if messages[0].content in messages[0].content ~ 'x' %}{% endif %}"),
        loop_of("{% if messages[0].content is lower %}{% endif %}") + "{{ x() }}",
        "{% set l = [messages[0].content] %}{% set l = l + l + l + l %}{% set l = l + l + l + l %}\
         {% for i in range(99999) %}{% set x = l | map('upper') | list %}{% endfor %}"
            .to_owned(),
        "{{ debug() }}".to_owned(),
        "{{ messages[0].content | e }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.a = {'b': ns} %}{{ ns | tojson }}".to_owned(),
        "{{ {'a': 1} | tojson(indent=99999999999) }}".to_owned(),
        long_chain,
        long_filters,
        deep_parens,
        deep_ifs,
        elifs,
        huge,
        raw,
        raw_capture,
    ];
    let big = [Message::new("user", "x".repeat(1 << 20))];
    for source in cases {
        let start = Instant::now();
        let outcome = render(&source, &big);
        let took = start.elapsed();
        let head: String = source.chars().take(160).collect();
        assert!(outcome.is_err(), "{head} gave {} bytes", outcome.unwrap_or_default().len());
        assert!(took < Duration::from_secs(10), "{head} took {took:?}");
        if std::env::var_os("SHOW").is_some() {
            println!("{took:?} {head}\n    {}", outcome.unwrap_err());
        }
    }
}

#[test]
fn long_conversation_is_within_the_limits() {
    let messages: Vec<Message> = (0..2000).map(|_| Message::new("user", "x".repeat(500))).collect();
    let source =
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | trim }}\n{% endfor %}";
    assert_eq!(render(source, &messages).unwrap().len(), 2000 * 507);
}
