#!/usr/bin/env python3
"""Makes the tiny tokenizers in tests/goldens/tokenizers, and what the reference says of them.

    python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3 transformers==5.23.0 jinja2
    venv/bin/python tests/goldens/make_tokenizers.py

Each folder is what a model folder holds beside its weights; golden.json holds the reference's ids
and texts. Nothing is fetched.
"""

import json
import pathlib

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

ROOT = pathlib.Path(__file__).parent / "tokenizers"

CORPUS = [
    "Once upon a time there was a fox. The fox lived in the wood, and the wood was old.",
    "The quick brown fox jumps over the lazy dog, and then the dog jumps over the fox.",
    "Hello world! Hello, world? It is what it is: one, two, three.",
    "def main():\n    print('hello world')\n    return 12345\n",
    "Grüße aus Köln! Où est la forêt? El niño está en casa.",
] * 4

TEXTS = [
    "Hello world!",
    " Hello  world",
    "  two spaces, then the end  ",
    "Once upon a time",
    "def main():\n\treturn 12345\r\n",
    "Grüße, 世界 🙂!",
    "e\u0301 and \u00e9",
    "\u2581fox",
    "",
    " ",
    "\n",
    "the <s>fox</s> and <|im_end|>the <tool>dog",
]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}"
    "{{ eos_token }}{% endfor %}"
)


def added(identity, content, special, normalized=False):
    return {
        "id": identity,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": normalized,
        "special": special,
    }


def byte_level():
    """As Qwen's: NFC, a regular expression, byte-level BPE, ChatML; padding and truncation on."""
    tokenizer = Tokenizer(models.BPE())
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    from tokenizers import Regex

    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    data = json.loads(tokenizer.to_str())
    size = len(data["model"]["vocab"])
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"]
    data["added_tokens"] = [
        added(size + index, name, name.startswith("<|")) for index, name in enumerate(names)
    ]
    data["truncation"] = {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
    }
    data["padding"] = {
        "strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": size, "pad_type_id": 0, "pad_token": "<|endoftext|>",
    }
    # One token more, which only the configuration knows.
    more = added(size + 4, "<|fim_prefix|>", True)
    decoder = {str(token.pop("id")): token for token in [dict(t) for t in data["added_tokens"]] + [more]}
    config = {
        "add_bos_token": False,
        "added_tokens_decoder": decoder,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": "the file beside it wins",
    }
    files = {
        "tokenizer_config.json": config,
        "generation_config.json": {"eos_token_id": [size + 2, size]},
        "chat_template.jinja": CHATML,
    }
    return data, files


def sentencepiece_vocab(size):
    """Vocabulary and merges as a conversion of a SentencePiece BPE model has them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False)
    tokenizer.train_from_iterator([line for line in CORPUS if line.isascii()], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trained = sorted(model["vocab"], key=model["vocab"].get)
    names += [name for name in trained if name != "\n"]
    vocab = {name: index for index, name in enumerate(names)}
    merges = [merge for merge in model["merges"] if "\n" not in "".join(merge)]
    return vocab, merges


def llama2():
    """As Llama 2's: the space is a normalizer's, bytes are tokens of their own, `<s>` comes first."""
    vocab, merges = sentencepiece_vocab(140)
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(0, "<unk>", True), added(1, "<s>", True), added(2, "</s>", True)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }
    describe = {"__type": "AddedToken", **added(0, "</s>", True)}
    del describe["id"]
    config = {
        "bos_token": {**describe, "content": "<s>"},
        "eos_token": describe,
        "unk_token": "<unk>",
        "chat_template": [
            {"name": "tool_use", "template": "tools"},
            {"name": "default", "template": LLAMA},
        ],
    }
    return data, {"tokenizer_config.json": config, "config.json": {"eos_token_id": 2}}


def mistral():
    """As Mistral's third: the space is the pre-tokenizer's and stands before the first word only."""
    data, files = llama2()
    data["normalizer"] = None
    data["pre_tokenizer"] = {
        "type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False,
    }
    # A token that is no special one, and has spaces in it, as Gemma's.
    size = len(data["model"]["vocab"])
    data["added_tokens"].append(added(size, "\u2581\u2581", False))
    data["model"]["vocab"]["\u2581\u2581"] = size
    files["special_tokens_map.json"] = {"bos_token": "<s>", "eos_token": "</s>"}
    files["tokenizer_config.json"] = {"chat_template": LLAMA}
    return data, files


def unigram():
    """As T5's: a Unigram model with Metaspace on both sides, and an unknown token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    data = json.loads(tokenizer.to_str())
    config = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return data, {"tokenizer_config.json": config, "generation_config.json": {"eos_token_id": 1}}


def golden(folder, data):
    """What the tokenizers library and transformers say."""
    whole = Tokenizer.from_str(json.dumps(data))
    whole.no_padding()
    whole.no_truncation()
    loaded = PreTrainedTokenizerFast.from_pretrained(folder)
    plain = Tokenizer.from_str(json.dumps(data))
    plain.no_padding()
    plain.no_truncation()
    plain.encode_special_tokens = True
    cases = []
    for text in TEXTS:
        ids = whole.encode(text, add_special_tokens=False).ids
        # What the ids say after others, as generated tokens do.
        before = whole.encode("fox", add_special_tokens=False).ids
        start = whole.decode(before)
        continued = whole.decode(before + ids)
        assert continued.startswith(start), (folder, text)
        cases.append(
            {
                "text": text,
                "ids": ids,
                "as_text": plain.encode(text, add_special_tokens=False).ids,
                "prompt": whole.encode(text, add_special_tokens=True).ids,
                "decoded": whole.decode(ids),
                "continued": continued.removeprefix(start),
            }
        )
    result = {"cases": cases}
    if loaded.chat_template:
        messages = [{"role": "user", "content": "Hello world!"}]
        if isinstance(loaded.chat_template, dict):
            loaded.chat_template = loaded.chat_template["default"]
        result["chat"] = loaded.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
    return result


def main():
    for make in [byte_level, llama2, mistral, unigram]:
        data, files = make()
        folder = ROOT / make.__name__
        folder.mkdir(parents=True, exist_ok=True)
        write = lambda name, value: (folder / name).write_text(
            value if isinstance(value, str)
            else json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n",
            encoding="utf-8",
        )
        write("tokenizer.json", data)
        for name, value in files.items():
            write(name, value)
        write("golden.json", golden(folder, data))


if __name__ == "__main__":
    main()
