//! Tests of llama.cpp's tokenizers: against our own where both read a vocabulary.

use std::io::Write;
use std::path::Path;

use super::*;
use ingle_formats::gguf::testing::GgufWriter;
use ingle_text::bpe::TokenKind;
use ingle_text::gguf_vocab;
use ingle_text::testing::small_vocab;

/// Strings that tokenizers have disagreed about.
const NASTY: &[&str] = &[
    "",
    " ",
    "  ",
    "\n",
    "\r\n\r\n\t ",
    "a",
    "Hello, world!",
    " leading and trailing ",
    "   three   spaces   ",
    "don't can't I'll WE'RE",
    "1 12 123 1234 3.14159 2026-11-21 0x1F 1e-9",
    "a1b2c3 v1.2.3",
    "Grüße aus Köln, naïve façade",
    "e\u{301} n\u{303} combining",
    "日本語のテキスト、中文文本。한국어",
    "Здравствуй, мир",
    "שלום עולם مرحبا بالعالم",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 emoji",
    "\u{0}\u{1}\u{7f} control",
    "zero\u{200b}width\u{feff}bom\u{a0}nbsp\u{3000}wide",
    "fn main() {\n    println!(\"{}\", 1 << 3);\n}\n",
    "def f(x):\n\treturn x**2  # comment\n\n\n",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|im_start|><|im_start|> <|im_end|>x<|endoftext|>",
    "<|im_start <|not_a_token|> |im_end|>",
    "https://example.org/a?b=c&d=%20#e",
    "UPPER lower MiXeD camelCase snake_case kebab-case",
    "....----____====~~~~",
    "a\u{fffd}b",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈",
];

fn smollm2() -> GgufFile {
    let models = std::env::var_os("INGLE_TEST_MODELS")
        .expect("INGLE_TEST_MODELS names the folder of test models; run ./test, which sets it");
    let files = std::fs::read_dir(Path::new(&models).join("smollm2")).unwrap();
    let mut files = files.map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.extension().is_some_and(|e| e == "gguf")).unwrap();
    GgufFile::open(&file).unwrap()
}

#[test]
fn smollm2_tokens_match_our_own_tokenizer() {
    let gguf = smollm2();
    let (theirs, ours) = (text_model(&gguf).unwrap(), gguf_vocab::text_model(&gguf).unwrap());
    let all = NASTY.concat();
    for special in [SpecialTokens::Parse, SpecialTokens::AsText] {
        for text in NASTY.iter().copied().chain([all.as_str()]) {
            let ids = theirs.tokenizer.encode(text, special).unwrap();
            assert_eq!(ids, ours.tokenizer.encode(text, special).unwrap(), "{text:?}");
            let text = ours.tokenizer.decode(&ids).unwrap();
            assert_eq!(theirs.tokenizer.decode(&ids).unwrap(), text);
        }
    }
    assert_eq!(theirs.tokenizer.vocab_size(), ours.tokenizer.vocab_size());
    for id in 0..u32::try_from(ours.tokenizer.vocab_size()).unwrap() {
        let (theirs, ours) = (&theirs.tokenizer, &ours.tokenizer);
        assert_eq!(theirs.token_bytes(id), ours.token_bytes(id), "token {id}");
        assert_eq!(theirs.is_special(id), ours.is_special(id), "token {id}");
    }
    assert_eq!((theirs.bos, theirs.add_bos), (ours.bos, ours.add_bos));
    // llama.cpp ends a text at a few more tokens, such as those between two files.
    assert!(ours.eos.iter().all(|id| theirs.eos.contains(id)), "{:?}", theirs.eos);
    let messages = [ingle_protocol::wire::chat::Message::new("user", "hi")];
    let rendered = |model: &TextModel| model.encode_chat(&messages, 0).unwrap();
    assert_eq!(rendered(&theirs), rendered(&ours));
}

/// A file that stays where it is until the test ends.
fn open(writer: &GgufWriter) -> (tempfile::NamedTempFile, GgufFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&writer.bytes()).unwrap();
    let gguf = GgufFile::open(file.path()).unwrap();
    (file, gguf)
}

fn byte_pairs() -> GgufWriter {
    let (mut tokens, kinds, merges) = small_vocab();
    let mut types: Vec<i32> = kinds
        .iter()
        .map(|kind| match kind {
            TokenKind::Normal => 1,
            TokenKind::Special => 3,
            TokenKind::UserDefined => 4,
        })
        .collect();
    for token in ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"] {
        tokens.push(token.to_owned());
        types.push(3);
    }
    GgufWriter::new()
        .string("general.architecture", "llama")
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "smollm")
        .strings("tokenizer.ggml.tokens", &tokens)
        .strings("tokenizer.ggml.merges", &merges)
        .i32_array("tokenizer.ggml.token_type", &types)
        .u32("tokenizer.ggml.bos_token_id", 261)
        .u32("tokenizer.ggml.eos_token_id", 262)
}

#[test]
fn fim_tokens_are_found() {
    let (_file, gguf) = open(&byte_pairs());
    let model = text_model(&gguf).unwrap();
    let fim = model.fim.clone().unwrap();
    assert_eq!((fim.prefix, fim.suffix, fim.middle), (264, 265, Some(266)));
    assert_eq!(model.tokenizer.encode("hello w", SpecialTokens::Parse).unwrap(), [259, 260]);
    assert_eq!(model.tokenizer.decode(&[261, 259, 264, 260]).unwrap(), "hello w");
    assert_eq!(
        model.tokenizer.decode(&[10_000]),
        Err(TextError::UnknownToken { id: 10_000, vocab_size: 267 })
    );
}

#[test]
fn sentencepiece_leading_space_is_not_text() {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁hello", "▁", "h", "e", "l", "o"].map(str::to_owned));
    let mut types = vec![2, 3, 3];
    types.extend([6; 256]);
    types.extend([1; 6]);
    let scores: Vec<f32> = (0..tokens.len()).map(|index| -(index as f32)).collect();
    let (_file, gguf) = open(
        &GgufWriter::new()
            .string("general.architecture", "llama")
            .string("tokenizer.ggml.model", "llama")
            .strings("tokenizer.ggml.tokens", &tokens)
            .f32_array("tokenizer.ggml.scores", &scores)
            .i32_array("tokenizer.ggml.token_type", &types)
            .u32("tokenizer.ggml.bos_token_id", 1)
            .u32("tokenizer.ggml.eos_token_id", 2),
    );
    let model = text_model(&gguf).unwrap();
    let ids = model.tokenizer.encode("hello é", SpecialTokens::Parse).unwrap();
    assert_eq!(model.tokenizer.decode(&ids).unwrap(), "hello é");
    assert!(model.add_bos && model.bos == Some(1) && model.eos == [2]);
}

#[test]
fn unusable_vocabularies_are_named() {
    let (tokens, _, _) = small_vocab();
    let header = || GgufWriter::new().string("general.architecture", "llama");
    let many = vec!["same".to_owned(); 50];
    for (writer, expected) in [
        (header(), "`tokenizer.ggml.model` is missing"),
        (header().string("tokenizer.ggml.model", "no_vocab"), "no vocabulary"),
        (header().string("tokenizer.ggml.model", "runes"), "unknown tokenizer"),
        (byte_pairs_without_merges().strings("tokenizer.ggml.tokens", &tokens), "merges"),
        (
            byte_pairs_without_merges()
                .strings("tokenizer.ggml.tokens", &many)
                .strings("tokenizer.ggml.merges", &["s a".to_owned()]),
            // An assertion of llama.cpp's.
            "token_to_id",
        ),
        (
            byte_pairs_without_merges()
                .strings("tokenizer.ggml.tokens", &tokens)
                .strings("tokenizer.ggml.merges", &["s a".to_owned()])
                .i32_array("tokenizer.ggml.token_type", &[1]),
            "toktypes",
        ),
    ] {
        let (_file, gguf) = open(&writer);
        let problem = text_model(&gguf).unwrap_err().to_string();
        assert!(problem.contains(expected), "{problem}");
    }
}

fn byte_pairs_without_merges() -> GgufWriter {
    GgufWriter::new()
        .string("general.architecture", "llama")
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "gpt-2")
}
