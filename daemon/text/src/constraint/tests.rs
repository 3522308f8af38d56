//! Tests of constraints on texts of single bytes: allowed tokens, and hostile formats.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use super::probe::{allows, follow};
use super::*;
use crate::TextError;
use crate::tokenizer::{ByteTokenizer, SpecialTokens};

fn grammars() -> Grammars {
    Grammars::new(&TextModel::bytes()).unwrap()
}

fn schema(schema: Value) -> OutputFormat {
    OutputFormat::JsonSchema { schema }
}

fn lark(lark: impl Into<String>) -> OutputFormat {
    OutputFormat::Grammar { lark: lark.into() }
}

fn constraint(format: &OutputFormat) -> Constraint {
    grammars().constraint(format).unwrap().unwrap()
}

fn refusal(format: &OutputFormat) -> String {
    grammars().constraint(format).unwrap_err().to_string()
}

#[test]
fn text_may_end_only_when_complete() {
    let point = json!({
        "type": "object",
        "properties": { "x": { "type": "integer", "minimum": 0 }, "name": { "enum": ["a", "b"] } },
        "required": ["x"],
        "additionalProperties": false
    });
    let any = OutputFormat::JsonObject;
    for (format, text, expected) in [
        (&any, r#"{"a": [1, "b", null]}"#, (21, true)),
        (&any, r#"{"a": [1, "b""#, (13, false)),
        (&any, "Sure", (0, false)),
        (&any, "[1]", (0, false)),
        (&schema(point.clone()), r#"{"x": 12}"#, (9, true)),
        (&schema(point.clone()), "{\n  \"x\": 12,\n  \"name\": \"b\"\n}", (28, true)),
        (&schema(point.clone()), r#"{"x": -1}"#, (6, false)),
        (&schema(point.clone()), r#"{"x": 1, "name": "c"}"#, (18, false)),
        (&schema(point.clone()), r#"{"name": "a"}"#, (2, false)),
        (&schema(json!({ "type": "integer" })), "12", (2, true)),
        (&schema(json!({ "type": "string", "pattern": "^[a-c]{2}$" })), "\"ab\"", (4, true)),
        (&schema(json!({ "type": "string", "pattern": "^[a-c]{2}$" })), "\"ad", (2, false)),
        (
            &schema(json!({ "$ref": "#/$defs/list", "$defs": {
            "list": { "anyOf": [{ "type": "null" },
                { "type": "array", "items": { "$ref": "#/$defs/list" }, "maxItems": 2 }] } } })),
            "[[null],[null,[]]]",
            (18, true),
        ),
        (&lark("start: \"yes\" | \"no\""), "yes", (3, true)),
        (&lark("start: \"yes\" | \"no\""), "nope", (2, true)),
    ] {
        assert_eq!(follow(&mut constraint(format), text), expected, "{text} for {format:?}");
    }
    assert!(grammars().constraint(&OutputFormat::Text).unwrap().is_none());
}

#[test]
fn complete_text_allows_only_its_end() {
    let mut word = constraint(&lark("start: \"ab\""));
    assert!(!word.is_complete());
    assert_eq!(follow(&mut word, "ab"), (2, true));
    assert!(word.is_complete());
    let mut number = constraint(&schema(json!({ "type": "integer" })));
    assert_eq!(follow(&mut number, "12"), (2, true));
    assert!(!number.is_complete());
}

#[test]
fn fork_is_independent() {
    let mut origin = constraint(&lark("start: \"a\" (\"b\" | \"c\") \"d\""));
    follow(&mut origin, "a");
    let mut fork = origin.fork();
    assert_eq!(follow(&mut fork, "bd"), (2, true));
    assert_eq!(follow(&mut origin, "cd"), (2, true));
}

#[test]
fn white_space_in_json_is_bounded() {
    let mut object = constraint(&OutputFormat::JsonObject);
    let (taken, _) = follow(&mut object, &format!("{{{}", " ".repeat(100)));
    assert_eq!(taken, 41);
}

#[test]
fn special_tokens_match_by_name_only() {
    let mut any = constraint(&lark("start: /(.|\\n)+/"));
    assert!(!allows(&mut any, ByteTokenizer::BOS) && !allows(&mut any, ByteTokenizer::EOS));
    let mut named = constraint(&lark("start: <s> \"a\""));
    assert!(allows(&mut named, ByteTokenizer::BOS) && !allows(&mut named, u32::from(b'<')));
    named.accept(ByteTokenizer::BOS).unwrap();
    assert_eq!(follow(&mut named, "a"), (1, true));
    let message = refusal(&lark("start: <nothing> \"a\""));
    assert!(message.contains("unknown special token"), "{message}");
}

#[test]
fn forbidden_token_fails_and_cancel_ends_work() {
    let mut word = constraint(&lark("start: \"ab\""));
    assert!(matches!(word.accept(u32::from(b'x')), Err(ConstraintError::Exceeded(_))));
    assert!(word.allowed().is_err() && !word.is_complete());
    let mut cancelled = constraint(&lark("start: \"ab\""));
    cancelled.canceller().unwrap().cancel();
    assert!(cancelled.allowed().is_err());
}

#[test]
fn unenforceable_schema_gives_readable_error() {
    for (format, expected) in [
        (schema(json!(17)), "must be an object"),
        (schema(json!({ "type": "objekt" })), "Invalid type: objekt"),
        (schema(json!({ "$ref": "http://127.0.0.1:9/a.json" })), "http://127.0.0.1:9/a.json"),
        (schema(json!({ "$ref": "#/$defs/none" })), "#/$defs/none"),
        (schema(json!({ "type": "integer", "minimum": 3, "maximum": 2 })), "nsatisfiable"),
        (schema(json!({ "type": "string", "pattern": "(" })), "regex"),
        (schema(json!({ "not": { "type": "null" } })), "Unimplemented keys"),
        (lark("start: missing"), "missing"),
        (lark(""), "start"),
    ] {
        let message = refusal(&format);
        assert!(message.starts_with("`format` "), "{message}");
        assert!(message.contains(expected), "{message}, not {expected}");
        assert!(message.len() < 800, "{message}");
    }
    // The caller's own settings for llguidance are not taken.
    let lenient = json!({ "not": {}, "x-guidance": { "lenient": true } });
    assert!(refusal(&schema(lenient)).contains("Unimplemented keys"));
}

/// Whatever comes, it is refused or it works, within a time and on the stack there is.
#[test]
fn hostile_formats_are_bounded() {
    let nested = |depth: usize| {
        (0..depth)
            .fold(json!({ "type": "null" }), |inner, _| json!({ "items": inner, "type": "array" }))
    };
    let alternatives = |count: usize| {
        let options: Vec<Value> =
            (0..count).map(|n| json!({ "required": [format!("p{n}")] })).collect();
        json!({ "anyOf": options })
    };
    let names: Vec<String> = (0..2_000).map(|n| format!("a long name of an option, {n}")).collect();
    let chain: serde_json::Map<String, Value> = (0..490)
        .map(|n| (format!("d{n}"), json!({ "allOf": [{ "$ref": format!("#/$defs/d{}", n + 1) }] })))
        .chain([("d490".to_owned(), json!({ "type": "null" }))])
        .collect();
    // Followed before anything counts it.
    let long_chain: serde_json::Map<String, Value> = (0..2_900)
        .map(|n| (format!("a{n}"), json!({ "$ref": format!("#/a{}", n + 1) })))
        .chain([("$ref".to_owned(), json!("#/a0"))])
        .collect();
    let rules: String = (0..490).map(|n| format!("r{n}: r{} \"x\"?\n", n + 1)).collect();
    let all: Vec<(&str, OutputFormat)> = vec![
        ("deep", schema(nested(120))),
        ("wide", schema(json!({ "enum": names }))),
        (
            "combined",
            schema(json!({ "allOf": [alternatives(30), alternatives(30), { "enum": names }] })),
        ),
        ("combined less", schema(json!({ "allOf": [alternatives(30), alternatives(30)] }))),
        ("chain", schema(json!({ "$ref": "#/$defs/d0", "$defs": chain }))),
        ("long chain", schema(Value::Object(long_chain))),
        (
            "combined in a grammar",
            lark(format!(
                "start: %json {}\n",
                json!({ "allOf": [alternatives(30), alternatives(30), { "enum": names }] })
            )),
        ),
        ("no JSON in a grammar", lark("start: %json {\"a\": }\n".to_owned())),
        (
            "loop",
            schema(
                json!({ "$ref": "#/$defs/a", "$defs": { "a": { "allOf": [{ "$ref": "#/$defs/a" }] } } }),
            ),
        ),
        ("own self", schema(json!({ "$ref": "#" }))),
        (
            "loop of two",
            schema(json!({ "$ref": "#/$defs/a", "$defs": {
            "a": { "anyOf": [{ "$ref": "#/$defs/b" }] }, "b": { "anyOf": [{ "$ref": "#/$defs/a" }] } } })),
        ),
        (
            "growing",
            schema(json!({ "$ref": "#/$defs/a", "$defs": { "a": { "type": "object",
            "properties": { "x": { "allOf": [{ "$ref": "#/$defs/a" }, { "$ref": "#/$defs/a" }] } } } } })),
        ),
        (
            "long text",
            schema(json!({ "type": "string", "minLength": 1_000_000, "maxLength": 2_000_000 })),
        ),
        ("many items", schema(json!({ "type": "array", "minItems": 1_000_000 }))),
        (
            "most items",
            schema(
                json!({ "type": "array", "maxItems": 4_000_000_000_u64, "items": {"type": "null"} }),
            ),
        ),
        ("exponential", schema(json!({ "type": "string", "pattern": "(a|b)*a(a|b){30}" }))),
        (
            "repeated",
            schema(json!({ "type": "string", "pattern": "((((a{100}){100}){100}){100}){100}" })),
        ),
        ("repeated more", lark("start: /(((((.{0,99}){0,99}){0,99}){0,99}x){0,99})/")),
        (
            "brackets",
            schema(
                json!({ "type": "string", "pattern": "(".repeat(20_000) + "a" + &")".repeat(20_000) }),
            ),
        ),
        (
            "intersected",
            schema(json!({ "type": "string", "allOf": [
            { "pattern": "(a|b)*a(a|b){12}c" }, { "pattern": "(a|b)*b(a|b){13}c" },
            { "pattern": "^(a|b|c)*$" }] })),
        ),
        (
            "patterns",
            schema(json!({ "type": "object", "patternProperties": {
            "^(a|b)*a(a|b){14}$": {}, "^(a|b)*b(a|b){15}$": {} } })),
        ),
        (
            "numbers",
            schema(
                json!({ "type": "number", "minimum": 1e-300, "maximum": 1e300, "multipleOf": 1e-10 }),
            ),
        ),
        (
            "lcm",
            schema(
                json!({ "type": "integer", "allOf": [{ "multipleOf": 99_991 }, { "multipleOf": 0.0099_989 }] }),
            ),
        ),
        ("integers", schema(json!({ "type": "integer", "multipleOf": 982_451_653 }))),
        ("rules", lark(format!("start: r0\n{rules}r490: \"y\"\n"))),
        ("parentheses", lark(format!("start: {}\"a\"{}", "(".repeat(99), ")".repeat(99)))),
        (
            "too many parentheses",
            lark(format!("start: {}\"a\"{}", "(".repeat(9_000), ")".repeat(9_000))),
        ),
        ("endless rule", lark("start: start | start start | \"a\"")),
        ("empty rule", lark("start: a*\na: b*\nb: \"\"*")),
        ("ambiguous", lark("start: a a a a a a a a\na: (\"x\"? \"x\"? a?)*")),
        ("repetition", lark("start: (\"a\" ~ 0..10000) ~ 0..10000")),
        ("alternatives", lark(format!("start: {}", vec!["\"a\""; 9_000].join("|")))),
        ("prefixes", lark(format!("start: {}\"a\"", "!".repeat(60_000)))),
        ("too long", schema(json!({ "description": "x".repeat(70_000) }))),
        ("import", lark("%import common.INT\nstart: INT")),
        ("nested json", lark(format!("start: %json {}", nested(60)))),
        ("suffixes", lark(format!("start: \"a\"{}", "?".repeat(60_000)))),
        ("negations", lark(format!("start: A\nA: {}\"a\"", "~".repeat(60_000)))),
    ];
    let grammars = grammars();
    for (name, format) in all {
        let began = Instant::now();
        let outcome = grammars.constraint(&format);
        let compiled = began.elapsed();
        let told = match outcome {
            Err(error) => {
                let message = error.to_string();
                assert!(
                    message.starts_with("`format` ") && message.len() < 800,
                    "{name}: {message}"
                );
                message
            }
            Ok(constraint) => {
                // As a model would that draws anything: 60 tokens, or what there is.
                let mut constraint = constraint.unwrap();
                let mut steps = 0;
                while steps < 60 && !constraint.is_complete() {
                    let Ok(words) = constraint.allowed() else { break };
                    let bits =
                        (0..256_u32).filter(|id| words[*id as usize / 32] >> (id % 32) & 1 == 1);
                    let Some(token) = bits.max_by_key(|id| id.wrapping_mul(2_654_435_761) ^ steps)
                    else {
                        break;
                    };
                    if constraint.accept(token).is_err() {
                        break;
                    }
                    steps += 1;
                }
                format!("{steps} steps")
            }
        };
        println!("{name}: compiled in {compiled:?}, all took {:?}: {told}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(60), "{name}");
    }
}

/// A vocabulary whose end is an ordinary token, as in files that were converted badly.
struct PlainEnd;

impl Tokenizer for PlainEnd {
    fn encode(&self, text: &str, special: SpecialTokens) -> Result<Vec<u32>, TextError> {
        ByteTokenizer.encode(text, special)
    }

    fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        if id == 256 { Some(Cow::Borrowed(b"<end>")) } else { ByteTokenizer.token_bytes(id) }
    }

    fn special_name(&self, _id: u32) -> Option<Cow<'_, [u8]>> {
        None
    }

    fn is_special(&self, _id: u32) -> bool {
        false
    }

    fn vocab_size(&self) -> usize {
        257
    }
}

#[test]
fn end_token_never_matches_as_text() {
    let model =
        TextModel { tokenizer: Arc::new(PlainEnd), eos: vec![256, 4_000], ..TextModel::bytes() };
    let grammars = Grammars::new(&model).unwrap();
    let mut text = grammars.constraint(&schema(json!({ "type": "string" }))).unwrap().unwrap();
    assert!(!allows(&mut text, 256));
    for byte in *b"\"a" {
        text.accept(byte.into()).unwrap();
        assert!(!allows(&mut text, 256));
    }
    text.accept(u32::from(b'"')).unwrap();
    assert!(text.is_complete() && allows(&mut text, 256));
}
