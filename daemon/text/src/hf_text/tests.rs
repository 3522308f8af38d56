//! Tests of tiny tokenizers of each kind against the reference (`tests/goldens/make_tokenizers.py`), and
//! of broken folders.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::chat_template::ChatInput;
use crate::detokenize::Detokenizer;
use crate::tokenizer::{SpecialTokens, Tokenizer};
use ingle_protocol::wire::chat::Message;

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../tests/goldens/tokenizers", name].iter().collect()
}

fn golden(name: &str) -> Value {
    let text = fs::read(fixture(name).join("golden.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// The text of `ids`, token by token, as generated tokens are turned into text.
fn streamed(tokenizer: &dyn Tokenizer, ids: &[u32]) -> String {
    let mut detokenizer = Detokenizer::default();
    let mut text: String = ids.iter().map(|&id| detokenizer.push(tokenizer, id)).collect();
    text.push_str(&detokenizer.finish());
    text
}

#[test]
fn ids_and_texts_equal_the_reference() {
    for name in ["byte_level", "llama2", "mistral", "unigram"] {
        let model = text_model(&fixture(name)).unwrap();
        let tokenizer = model.tokenizer.as_ref();
        let golden = golden(name);
        for case in golden["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids = tokenizer.encode(text, SpecialTokens::Parse).unwrap();
            assert_eq!(json!(ids), case["ids"], "{name}: {text:?}");
            let as_text = tokenizer.encode(text, SpecialTokens::AsText).unwrap();
            assert_eq!(json!(as_text), case["as_text"], "{name}: {text:?}");
            let prompt = model.encode_prompt(text).unwrap();
            assert_eq!(json!(prompt), case["prompt"], "{name}: {text:?}");
            assert_eq!(case["decoded"], tokenizer.decode(&ids).unwrap(), "{name}: {text:?}");
            // A continuation keeps its first space.
            assert_eq!(case["continued"], streamed(tokenizer, &ids), "{name}: {text:?}");
        }
        let chat = golden["chat"].as_str();
        assert_eq!(chat.is_some(), model.chat_template.is_some());
        if let (Some(expected), Some(template)) = (chat, &model.chat_template) {
            let messages = [Message::new("user", "Hello world!")];
            let input = ChatInput {
                messages: &messages,
                tools: &[],
                options: &serde_json::Map::new(),
                add_generation_prompt: true,
                unix_time_s: 0,
            };
            assert_eq!(template.render(&input).unwrap(), expected, "{name}");
        }
    }
}

#[test]
fn special_tokens_come_from_any_file() {
    let model = text_model(&fixture("byte_level")).unwrap();
    let id = |name: &str| {
        let ids = model.tokenizer.encode(name, SpecialTokens::Parse).unwrap();
        assert_eq!(ids.len(), 1, "{name}");
        ids[0]
    };
    // Both files of configuration; the union, in order.
    assert_eq!(model.eos, [id("<|endoftext|>"), id("<|im_end|>")]);
    assert_eq!((model.bos, model.add_bos), (None, false));
    // One that only tokenizer_config.json knows.
    let fim = id("<|fim_prefix|>");
    assert!(model.tokenizer.is_special(fim) && model.tokenizer.token_bytes(fim).is_none());
    assert_eq!(model.tokenizer.vocab_size(), fim as usize + 1);
    assert_eq!(model.tokenizer.token_bytes(id("<tool>")).unwrap().as_ref(), b"<tool>");

    for name in ["llama2", "mistral"] {
        let model = text_model(&fixture(name)).unwrap();
        assert_eq!((model.bos, model.add_bos), (Some(1), true));
        assert_eq!(model.eos, [2]);
        assert_eq!(model.tokenizer.token_bytes(3 + 0x0a).unwrap().as_ref(), b"\n");
        // A template that writes the token itself does not have it twice.
        let ids = model.encode_chat(&[Message::new("user", "Hello")], 0).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == 1).count(), 1);
    }
}

/// A copy of a fixture with some files changed; `None` removes one.
fn changed(name: &str, changes: &[(&str, Option<&str>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    for (file, content) in changes {
        let path = folder.path().join(file);
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }
    folder
}

fn problem(name: &str, changes: &[(&str, Option<&str>)]) -> String {
    text_model(changed(name, changes).path()).unwrap_err().to_string()
}

#[test]
fn explicit_setting_precedes_tokenizer_steps() {
    let config = r#"{"add_bos_token":false,"bos_token":"<s>","eos_token":"</s>"}"#;
    let folder = changed("llama2", &[("tokenizer_config.json", Some(config))]);
    let model = text_model(folder.path()).unwrap();
    assert_eq!((model.bos, model.add_bos, model.eos), (Some(1), false, vec![2]));
    // Without any configuration the names of the special tokens say what ends a text.
    let none = [("tokenizer_config.json", None), ("config.json", None)];
    let model = text_model(changed("llama2", &none).path()).unwrap();
    assert_eq!((model.add_bos, model.eos), (true, vec![2]));
}

#[test]
fn unusable_folder_error_has_next_step() {
    let empty = [("tokenizer.json", None)];
    assert!(problem("unigram", &empty).contains("no tokenizer.json; pull the model again"));
    let message = problem("unigram", &[("tokenizer.json", None), ("tokenizer.model", Some(""))]);
    assert!(message.contains("tokenizer.model: is a SentencePiece file"), "{message}");
    assert!(message.contains("save_pretrained"), "{message}");
    let tokenizer = fs::read_to_string(fixture("llama2").join("tokenizer.json")).unwrap();
    let with = |from: &str, to: &str| {
        assert!(tokenizer.contains(from), "{from}");
        problem("llama2", &[("tokenizer.json", Some(&tokenizer.replace(from, to)))])
    };
    for (message, named) in [
        (problem("llama2", &[("tokenizer.json", Some("{"))]), "tokenizer.json: "),
        (problem("llama2", &[("config.json", Some("["))]), "config.json: is not JSON"),
        (
            problem(
                "llama2",
                &[(
                    "tokenizer_config.json",
                    Some(
                        r#"{"added_tokens_decoder":{"7":{"content":"<s>","single_word":false,
                    "lstrip":false,"rstrip":false,"normalized":false,"special":true}}}"#,
                    ),
                )],
            ),
            "token \"<s>\" the id 7, but here its id is 1",
        ),
        (
            with("\"ByteFallback\"", "\"BPEDecoder\",\"suffix\":\"w\""),
            "its decoder `BPEDecoder` is not supported",
        ),
        (with("\"<0xFF>\":258", "\"<0xFF>\":4294967295"), "id 4294967295"),
    ] {
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn hostile_files_are_refused() {
    let nested = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
    let tokenizer = fs::read_to_string(fixture("byte_level").join("tokenizer.json")).unwrap();
    let mut value: Value = serde_json::from_str(&tokenizer).unwrap();
    let mut with = |path: &str, new: Value| {
        let old = std::mem::replace(value.pointer_mut(path).unwrap(), new);
        let text = value.to_string();
        *value.pointer_mut(path).unwrap() = old;
        text
    };
    let regex = "/pre_tokenizer/pretokenizers/0/pattern/Regex";
    for text in [
        nested("[", "]"),
        nested("{\"decoder\":", "}"),
        with(regex, nested("(", ")").into()),
        with(regex, "(?:(?:(?:a{1000}){1000}){1000}){1000}".into()),
        with("/decoder", json!(7)),
        with("/model/vocab", json!({})),
        with("/model/merges", json!([["no", "such"]])),
    ] {
        let files = [("tokenizer.json", Some(text.as_str()))];
        problem("byte_level", &files);
    }
    // One that compiles, and goes wrong at a text of its own: an error, not a loss of text.
    let text = with(regex, r"(?:\w+)*(?=\1)|(\w*)*?!!!(?<=x)".into());
    let folder = changed("byte_level", &[("tokenizer.json", Some(text.as_str()))]);
    if let Ok(model) = text_model(folder.path()) {
        let _ = model.tokenizer.encode(&"w".repeat(60), SpecialTokens::Parse);
    }
}
