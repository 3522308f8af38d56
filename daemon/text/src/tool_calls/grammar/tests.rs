//! Tests of call grammars: the texts that they allow, how the parser reads these, and their schemas.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use crate::limits;

use super::*;
use crate::constraint::probe::{allows, follow};
use crate::constraint::{Constraint, ConstraintError, Grammars};
use crate::tokenizer::{ByteTokenizer, SpecialTokens, Tokenizer};
use crate::tool_calls::ToolParser;
use crate::tool_calls::tests::read_by;
use crate::{TextError, TextModel};

fn tool(name: &str, parameters: Value) -> Tool {
    let parameters = parameters.as_object().cloned();
    Tool { name: name.to_owned(), description: None, parameters, strict: false }
}

fn weather() -> Vec<Tool> {
    let city = json!({ "type": "object", "properties": { "city": { "type": "string" } } });
    vec![tool("weather", city)]
}

fn is_whole(constraint: &Constraint, text: &str) -> bool {
    follow(&mut constraint.fork(), text) == (text.len(), true)
}

#[test]
fn rules_match_the_parsers_calls() {
    let special = |name: &str| (name == "[TOOL_CALLS]").then_some(7);
    let rules =
        |format, is_parallel| of_calls(format, &weather(), is_parallel, None, special).rules;
    assert_eq!(
        rules(ToolFormat::Hermes, true),
        "start: calls\ncalls: call (\"\\n\" call){0,15}\n\
         call: \"<tool_call>\" \"\\n\" object \"\\n\" \"</tool_call>\"\n\
         object: tool0\ntool0: \"{\\\"name\\\": \\\"weather\\\", \\\"arguments\\\": \" \
         tool0_arguments \"}\"\n"
    );
    assert!(rules(ToolFormat::Hermes, false).starts_with("start: calls\ncalls: call\n"));
    assert!(rules(ToolFormat::Llama3, true).contains("\\\"parameters\\\": "));
    let list = rules(ToolFormat::MistralList, false);
    assert!(list.starts_with("start: calls\ncalls: <[7]> \"[\" object \"]\"\n"), "{list}");
    let named = rules(ToolFormat::MistralNamed, true);
    assert!(named.contains("tool0: \"weather\" \"[ARGS]\" tool0_arguments\n"), "{named}");
    let bare = Tool { parameters: None, ..tool("now", json!({})) };
    let grammar = of_calls(ToolFormat::Hermes, &[bare], true, None, |_| None);
    assert_eq!(grammar.arguments[0].schema["additionalProperties"], false);
}

/// A call as each format writes it.
fn calls(arguments: &str) -> [(ToolFormat, String); 4] {
    let object = |key: &str| format!("{{\"name\": \"weather\", \"{key}\": {arguments}}}");
    [
        (ToolFormat::Hermes, format!("<tool_call>\n{}\n</tool_call>", object("arguments"))),
        (ToolFormat::Llama3, object("parameters")),
        (ToolFormat::MistralList, format!("[TOOL_CALLS][{}]", object("arguments"))),
        (ToolFormat::MistralNamed, format!("[TOOL_CALLS]weather[ARGS]{arguments}")),
    ]
}

#[test]
fn grammar_output_parses_as_a_call() {
    let grammars = Grammars::new(&TextModel::bytes()).unwrap();
    let arguments = "{\"city\": \"Rome\"}";
    for (format, text) in calls(arguments) {
        let constraint =
            grammars.calls(&of_calls(format, &weather(), true, None, |_| None)).unwrap();
        assert!(is_whole(&constraint, &text), "{text}");
        let parser = ToolParser::new(format, vec!["weather".to_owned()]);
        assert_eq!(
            read_by(parser, &[&text]),
            (String::new(), vec![format!("weather({arguments})")])
        );
    }
}

/// Content that begins as a call may, in every way it can go on.
#[test]
fn grammar_output_is_a_call_or_content() {
    let grammars = Grammars::new(&TextModel::bytes()).unwrap();
    let person = json!({
        "type": "object",
        "properties": { "name": { "type": "string" }, "age": { "type": "integer" } },
        "required": ["name", "age"], "additionalProperties": false,
    });
    let any = json!({ "type": "object" });
    let list = json!({ "type": "array", "items": { "type": "integer" } });
    let word = json!({ "enum": ["yes", "no"] });
    let contents: [(&Value, &str, bool); 13] = [
        (&person, "{\"name\": \"Eva\", \"age\": 1}", true),
        (&person, "{\n  \"name\":\"weather\",\n  \"age\" : 12\n}", true),
        (&person, "{\"name\": \"weather\", \"parameters\": 1}", false),
        (&person, "{\"age\": 1, \"name\": \"Eva\"}", false),
        (&person, "Sure", false),
        (&any, "{}", true),
        (&any, "{\"n\": 1, \"name\": \"weather\"}", true),
        (&any, "{\"name\": \"wea\", \"parameters\": {}}", true),
        (&any, "{\"name\": \"weather\"}", true),
        (&any, "{\"name\": \"weather\", \"parameters\": {}, \"more\": [1]}", true),
        (&any, "{\"name\": \"weather\", \"parameters\": {\"city\": 1, \"x\": {}}, \"y\": 1}", true),
        (&list, "[1, 2]", true),
        (&word, "\"yes\"", true),
    ];
    let arguments = "{\"city\": \"Rome\"}";
    for (format, call) in calls(arguments) {
        for schema in [&person, &any, &list, &word] {
            let grammar = of_calls(format, &weather(), true, Some(schema.clone()), |_| None);
            let constraint = grammars.calls(&grammar).unwrap();
            let parser = ToolParser::new(format, vec!["weather".to_owned()]).with_response_format();
            assert!(is_whole(&constraint, &call), "{call} beside {schema}");
            let read = read_by(parser.clone(), &[&call]);
            assert_eq!(read, (String::new(), vec![format!("weather({arguments})")]), "{call}");
            let of_schema = contents.iter().filter(|(of, ..)| *of == schema);
            for (_, text, is_allowed) in of_schema {
                assert_eq!(is_whole(&constraint, text), *is_allowed, "{format:?}: {text}");
                if *is_allowed {
                    let read = read_by(parser.clone(), &[text]);
                    assert_eq!(read, ((*text).to_owned(), Vec::new()), "{format:?}");
                }
            }
            assert!(!is_whole(&constraint, &format!("{call}{{}}")), "{format:?}");
            assert!(!is_whole(&constraint, ""), "{format:?}");
        }
    }
    // A tag that is a special token, as most are.
    for (format, tag) in
        [(ToolFormat::Hermes, "<tool_call>"), (ToolFormat::MistralList, "[TOOL_CALLS]")]
    {
        let special = |name: &str| (name == tag).then_some(ByteTokenizer::BOS);
        let grammar = of_calls(format, &weather(), true, Some(any.clone()), special);
        let mut constraint = grammars.calls(&grammar).unwrap();
        assert!(is_whole(&constraint, "{\"answer\": 1}"), "{format:?}");
        assert!(!allows(&mut constraint, u32::from(tag.as_bytes()[0])), "{format:?}");
        assert!(allows(&mut constraint, ByteTokenizer::BOS), "{format:?}");
        constraint.accept(ByteTokenizer::BOS).unwrap();
        let (_, call) = calls(arguments).into_iter().find(|(of, _)| *of == format).unwrap();
        assert!(is_whole(&constraint, &call[tag.len()..]), "{format:?}");
    }
    // A bare object may have its spaces elsewhere, as its model likes.
    let grammar = of_calls(ToolFormat::Llama3, &weather(), true, Some(any), |_| None);
    let constraint = grammars.calls(&grammar).unwrap();
    for call in [
        "{\"name\":\"weather\",\"parameters\":{\"city\":\"Rome\"}}",
        "{\n \"name\" : \"weather\" ,\n \"parameters\" :\n{}\n}",
    ] {
        assert!(is_whole(&constraint, call), "{call}");
    }
    // Nothing else than the object that a call is may be what it is beside another form.
    let grammar = of_calls(ToolFormat::Llama3, &weather(), true, Some(person), |_| None);
    let constraint = grammars.calls(&grammar).unwrap();
    for refused in
        ["{\"name\": \"weather\", \"parameters\": {\"city\": 1}}", "{\"name\": \"wea\", \"par"]
    {
        assert!(!is_whole(&constraint, refused), "{refused}");
        assert!(follow(&mut constraint.fork(), refused).0 < refused.len(), "{refused}");
    }
}

/// Bytes, and tokens that begin in one part of a call and end in another, as those of models do.
struct LongTokens;

const LONG: [&str; 9] = [
    "{\"",
    "{\"name\": \"",
    "\": ",
    "\": \"",
    "weather",
    "\", \"",
    "parameters",
    "\": {\"",
    "\"}}",
];

impl Tokenizer for LongTokens {
    /// The longest token that fits, and so on.
    fn encode(&self, text: &str, _special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        let (mut rest, mut ids) = (text, Vec::new());
        while let Some(&first) = rest.as_bytes().first() {
            let long = LONG.iter().zip(258..).filter(|(token, _)| rest.starts_with(**token));
            let (bytes, id) =
                long.map(|(token, id)| (token.len(), id)).max().unwrap_or((1, u32::from(first)));
            ids.push(id);
            rest = &rest[bytes..];
        }
        Ok(ids)
    }

    fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        match LONG.get((id as usize).wrapping_sub(258)) {
            Some(token) => Some(Cow::Borrowed(token.as_bytes())),
            None => ByteTokenizer.token_bytes(id),
        }
    }

    fn special_name(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        ByteTokenizer.special_name(id)
    }

    fn is_special(&self, id: u32) -> bool {
        ByteTokenizer.is_special(id)
    }

    fn vocab_size(&self) -> usize {
        258 + LONG.len()
    }
}

#[test]
fn tokens_across_two_parts_are_allowed() {
    let model = TextModel { tokenizer: Arc::new(LongTokens), ..TextModel::bytes() };
    let grammars = Grammars::new(&model).unwrap();
    let any = json!({ "type": "object" });
    let person = json!({ "type": "object", "required": ["name"], "additionalProperties": false,
        "properties": { "name": { "type": "string" }, "warm": { "type": "string" } } });
    for (content, text) in [
        (&any, "{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}"),
        (&any, "{\"name\": \"weather\", \"para\": \"weather\"}"),
        (&any, "{\"answer\": {\"a\": \"b\"}}"),
        (&person, "{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}"),
        (&person, "{\"name\": \"weather\", \"warm\": \"weather\"}"),
        (&person, "{\"name\": \"Rome\"}"),
    ] {
        let content = Some(content.clone());
        let grammar = of_calls(ToolFormat::Llama3, &weather(), true, content, |_| None);
        let mut constraint = grammars.calls(&grammar).unwrap();
        let tokens = model.tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        assert!(tokens.iter().any(|token| *token > 257));
        for token in tokens {
            assert!(allows(&mut constraint, token), "{token} in {text}");
            constraint.accept(token).unwrap();
        }
        assert!(allows(&mut constraint, ByteTokenizer::EOS), "{text}");
    }
}

fn demanded(tools: &[Tool]) -> Result<Constraint, ConstraintError> {
    let grammars = Grammars::new(&TextModel::bytes()).unwrap();
    grammars.calls(&of_calls(ToolFormat::MistralNamed, tools, false, None, |_| None))
}

/// Whether a demanded call of the first tool may have these arguments.
fn takes(constraint: &Constraint, arguments: &str) -> bool {
    is_whole(constraint, &format!("[TOOL_CALLS]f[ARGS]{arguments}"))
}

#[test]
fn strict_schemas_bind_fully_others_as_possible() {
    let of = |properties: Value| json!({ "type": "object", "properties": properties });
    let string = |more: Value| {
        let mut schema = json!({ "type": "string" });
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        of(json!({ "a": schema, "b": { "type": "integer" } }))
    };
    let unique = json!({ "type": "array", "items": { "type": "integer" }, "uniqueItems": true });
    for (schema, taken, refused, message) in [
        (string(json!({ "format": "password" })), "{\"a\":\"x\"}", Some("{\"a\":1}"), "password"),
        (of(json!({ "a": unique })), "{\"a\":[1,1]}", Some("{\"a\":[true]}"), "uniqueItems"),
        (
            of(json!({ "a": { "oneOf": [{ "type": "integer" }, { "type": "number" }] } })),
            "{\"a\":1}",
            Some("{\"a\":true}"),
            "oneOf",
        ),
        (of(json!({ "a": { "not": { "type": "null" } } })), "{\"a\":null}", Some("[]"), "not"),
        // Nothing of it can be enforced.
        (string(json!({ "pattern": "^(?!x)" })), "{\"a\":1,\"b\":\"x\"}", Some("[]"), "regex"),
        (
            of(json!({ "a": { "$ref": "http://127.0.0.1:9/x" } })),
            "{\"a\":1}",
            Some("[]"),
            "127.0.0.1",
        ),
        (json!({ "type": "objekt" }), "{\"a\":1}", Some("[]"), "objekt"),
    ] {
        // Another tool keeps what it has.
        let others = [tool("f", schema.clone()), tool("g", of(json!({ "a": { "type": "null" } })))];
        let constraint = demanded(&others).unwrap_or_else(|error| panic!("{schema}: {error}"));
        assert!(takes(&constraint, taken), "{schema}");
        assert!(!refused.is_some_and(|refused| takes(&constraint, refused)), "{schema}");
        let other = |arguments: &str| format!("[TOOL_CALLS]g[ARGS]{arguments}");
        assert!(is_whole(&constraint, &other("{\"a\":null}")));
        assert!(!is_whole(&constraint, &other("{\"a\":1}")));
        let strict = [Tool { strict: true, ..tool("f", schema) }, others[1].clone()];
        let error = demanded(&strict).unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, ConstraintError::Invalid { field: "tools", .. }), "{told}");
        assert!(
            told.starts_with("`tools` has a strict tool `f`") && told.contains(message),
            "{told}"
        );
    }
}

#[test]
fn error_names_the_tools_or_the_format() {
    let grammars = Grammars::new(&TextModel::bytes()).unwrap();
    let of = |tools: &[Tool], content: Value| {
        let grammar = of_calls(ToolFormat::Llama3, tools, true, Some(content), |_| None);
        grammars.calls(&grammar).unwrap_err()
    };
    let bad = json!({ "not": {} });
    let error = of(&weather(), bad.clone());
    assert!(matches!(error, ConstraintError::Invalid { field: "format", .. }), "{error}");
    let strict = Tool { strict: true, ..tool("f", bad) };
    let error = of(&[strict], json!({ "type": "object" }));
    assert!(matches!(error, ConstraintError::Invalid { field: "tools", .. }), "{error}");
}

/// What servers of many tools have: long descriptions, and brackets in them.
#[test]
fn many_tools_with_long_descriptions_compile() {
    let long = "(see [1], {2} and \"3\") ".repeat(15);
    let properties: serde_json::Map<String, Value> = (0..6)
        .map(|n| (format!("member{n}"), json!({ "type": "string", "description": long })))
        .collect();
    let schema = json!({ "type": "object", "title": "T", "properties": properties,
        "required": ["member0"], "additionalProperties": false });
    let tools: Vec<Tool> = (0..ingle_protocol::limits::TOOLS)
        .map(|n| tool(&format!("f{n}"), schema.clone()))
        .collect();
    assert!(json!(tools).to_string().len() > 4 * limits::FORMAT_BYTES);
    let began = Instant::now();
    let constraint = demanded(&tools).unwrap();
    println!("compiled in {:?}", began.elapsed());
    assert!(is_whole(&constraint, "[TOOL_CALLS]f127[ARGS]{\"member0\": \"x\"}"));
}

/// Schemas are compiled together, so they have their bounds together; what is strict has the room first.
#[test]
fn oversized_schema_becomes_any_object() {
    let names: Vec<String> = (0..1_500).map(|n| format!("option {n}")).collect();
    let wide = json!({ "type": "object", "properties": { "a": { "enum": names } } });
    let one = |n| json!({ "type": "object", "properties": { "a": { "const": n } } });
    let combined = json!({ "anyOf": (0..100).map(one).collect::<Vec<Value>>() });
    let referring: Vec<Value> = (0..100).map(|_| json!({ "$ref": "#/$defs/a" })).collect();
    let referring = json!({ "type": "object", "$defs": { "a": { "type": "integer" } },
        "properties": { "a": { "type": "array", "prefixItems": referring } } });
    for (schema, value, message) in [
        (wide, "\"option 3\"", "bytes"),
        (combined, "3", "alternatives"),
        (referring, "[3]", "references"),
    ] {
        let mut tools: Vec<Tool> =
            (0..20).map(|n| tool(&format!("f{n}"), schema.clone())).collect();
        let call = |name: &str, value: &str| format!("[TOOL_CALLS]{name}[ARGS]{{\"a\": {value}}}");
        let constraint = demanded(&tools).unwrap();
        assert!(is_whole(&constraint, &call("f0", value)), "{message}");
        assert!(!is_whole(&constraint, &call("f0", "{}")), "{message}");
        assert!(is_whole(&constraint, &call("f19", "{}")), "{message}");
        tools[19].strict = true;
        let constraint = demanded(&tools).unwrap();
        assert!(is_whole(&constraint, &call("f19", value)), "{message}");
        assert!(!is_whole(&constraint, &call("f19", "{}")), "{message}");
        tools.iter_mut().for_each(|tool| tool.strict = true);
        let error = demanded(&tools).unwrap_err().to_string();
        assert!(error.starts_with("`tools` has a strict tool `f"), "{error}");
        assert!(error.contains(message), "{error}");
    }
}
