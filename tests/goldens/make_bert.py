#!/usr/bin/env python3
"""Makes the tiny BERTs in tests/goldens and the vectors that plain loops compute for them.

- bert/model.gguf: random weights and a WordPiece vocabulary, for llama.cpp.
- bert-mean: the same weights as a folder that sentence-transformers would read, in 32 bits.
- bert-cls: 16-bit weights under the names of a larger model, whose other parts are there too, and
  the approximate GELU.
- bert-max: bfloat16, and the pooling file in its newer form.
- roberta-mean: positions that begin behind the padding token's id.

Each folder's golden.json has token ids of some texts and their vectors, at length 1, computed in
Python's own 64-bit floats after transformers' modeling_bert.py and sentence-transformers'
Pooling.py. Needs nothing but Python; the same files come out each time.
"""

import json
import math
import pathlib
import random
import struct

import bert_to_gguf

HERE = pathlib.Path(__file__).parent
LAYERS, WIDTH, INNER, HEADS, CONTEXT, TYPES = 2, 16, 24, 2, 40, 2
EPS = 1e-6
WORDS = "the sea ship light house story winter fire wood coal ash".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = SPECIAL + WORDS + list(LETTERS) + ["##" + letter for letter in LETTERS]
# Lengths that share a pass and that do not, the shortest and the longest.
TEXTS = [
    [2, 5, 6, 3],
    [2, 16, 7, 3],
    [2, 11, 9, 12, 30, 50, 3],
    [2, 3],
    [4],
    [2] + [(index * index + 5) % len(PIECES) for index in range(CONTEXT - 2)] + [3],
]


def weights(seed, positions=CONTEXT):
    """Random weights by their names in a folder: shape and numbers."""
    random.seed(seed)
    tensors = {}

    def add(name, *shape):
        middle = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        values = [random.uniform(middle - 0.5, middle + 0.5) for _ in range(math.prod(shape))]
        tensors[name] = (list(shape), values)

    def module(name, *shape):
        add(f"{name}.weight", *shape)
        add(f"{name}.bias", shape[0])

    add("embeddings.word_embeddings.weight", len(PIECES), WIDTH)
    add("embeddings.position_embeddings.weight", positions, WIDTH)
    add("embeddings.token_type_embeddings.weight", TYPES, WIDTH)
    module("embeddings.LayerNorm", WIDTH)
    for layer in range(LAYERS):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            module(f"encoder.layer.{layer}.attention.{part}", WIDTH, WIDTH)
        module(f"encoder.layer.{layer}.attention.output.LayerNorm", WIDTH)
        module(f"encoder.layer.{layer}.intermediate.dense", INNER, WIDTH)
        module(f"encoder.layer.{layer}.output.dense", WIDTH, INNER)
        module(f"encoder.layer.{layer}.output.LayerNorm", WIDTH)
    return tensors


def half(value):
    """IEEE half precision: its bytes and the number they stand for."""
    data = struct.pack("<e", value)
    return data, struct.unpack("<e", data)[0]


def bfloat(value):
    """The same for bfloat16, cut off."""
    data = struct.pack("<f", value)[2:]
    return data, struct.unpack("<f", b"\0\0" + data)[0]


def single(value):
    """The same for 32 bits."""
    data = struct.pack("<f", value)
    return data, struct.unpack("<f", data)[0]


STORED = {"F32": single, "F16": half, "BF16": bfloat}


def rounded(tensors, dtype):
    """The numbers that are left when the tensors are stored in that type."""
    store = STORED[dtype]
    return {name: (shape, [store(x)[1] for x in xs]) for name, (shape, xs) in tensors.items()}


def gelu(x):
    """Hendrycks and Gimpel 2016."""
    return 0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0)))


def gelu_new(x):
    """Its approximation."""
    return 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def encode(tensors, ids, activation, first=0):
    """The vectors of a text's tokens; the first one is at position `first`."""

    def rows(name):
        (_, width), values = tensors[f"{name}.weight"]
        return [values[at : at + width] for at in range(0, len(values), width)]

    def linear(name, x):
        bias = tensors[f"{name}.bias"][1]
        return [sum(w * v for w, v in zip(row, x)) + b for row, b in zip(rows(name), bias)]

    def norm(name, x):
        mean = sum(x) / WIDTH
        variance = sum((v - mean) ** 2 for v in x) / WIDTH
        scale, bias = tensors[f"{name}.weight"][1], tensors[f"{name}.bias"][1]
        return [(v - mean) / math.sqrt(variance + EPS) * s + b for v, s, b in zip(x, scale, bias)]

    def add(x, y):
        return [a + b for a, b in zip(x, y)]

    words, positions = rows("embeddings.word_embeddings"), rows("embeddings.position_embeddings")
    kind = rows("embeddings.token_type_embeddings")[0]
    xs = [add(add(words[token], positions[first + at]), kind) for at, token in enumerate(ids)]
    xs = [norm("embeddings.LayerNorm", x) for x in xs]
    size = WIDTH // HEADS
    for layer in range(LAYERS):
        block = f"encoder.layer.{layer}"
        queries, keys, values = (
            [linear(f"{block}.attention.self.{part}", x) for x in xs]
            for part in ("query", "key", "value")
        )
        after = []
        for x, query in zip(xs, queries):
            mixed = []
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                scores = [
                    math.exp(sum(q * k for q, k in zip(query[part], key[part])) / math.sqrt(size))
                    for key in keys
                ]
                shares = [score / sum(scores) for score in scores]
                heads = [value[part] for value in values]
                mixed += [sum(s * v[at] for s, v in zip(shares, heads)) for at in range(size)]
            attended = add(linear(f"{block}.attention.output.dense", mixed), x)
            x = norm(f"{block}.attention.output.LayerNorm", attended)
            inner = [activation(v) for v in linear(f"{block}.intermediate.dense", x)]
            after.append(
                norm(f"{block}.output.LayerNorm", add(linear(f"{block}.output.dense", inner), x))
            )
        xs = after
    return xs


def pool(vectors, pooling):
    """One vector of length 1."""
    columns = list(zip(*vectors))
    vector = {
        "mean": [sum(column) / len(column) for column in columns],
        "cls": list(vectors[0]),
        "max": [max(column) for column in columns],
    }[pooling]
    length = math.sqrt(sum(v * v for v in vector))
    return [round(v / length, 8) for v in vector]


def write_gguf(tensors):
    """bert/model.gguf."""
    sizes = {
        "layers": LAYERS,
        "width": WIDTH,
        "inner": INNER,
        "heads": HEADS,
        "context": CONTEXT,
        "eps": EPS,
        "types": TYPES,
        "pooling": 1,
    }
    ids = {"pad": 0, "unknown": 1, "cls": 2, "sep": 3, "mask": 4}
    stored = {
        name: (shape, "F32", struct.pack(f"<{len(values)}f", *values))
        for name, (shape, values) in tensors.items()
    }
    tokens = [bert_to_gguf.piece(token) for token in PIECES]
    bert_to_gguf.write(HERE / "bert" / "model.gguf", sizes, tokens, ids, stored)


def write_safetensors(path, tensors, dtype):
    """A safetensors file; tensors of another type than `dtype` say so themselves."""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        stored = b"".join(STORED[dtype](value)[0] for value in values)
        kind = dtype
        if name.endswith("position_ids"):
            kind, stored = "I64", struct.pack(f"<{len(values)}q", *values)
        offsets = [len(data), len(data) + len(stored)]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
        data += stored
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


def tokenizer():
    """A tokenizer.json that pads and cuts, as some do: Ingle must do neither."""
    around = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]")]
    around.insert(1, {"Sequence": {"id": "A", "type_id": 0}})
    special = {
        "special": True,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
    }
    return {
        "version": "1.0",
        "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 8},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [
            {"id": index, "content": name} | special for index, name in enumerate(SPECIAL)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": around,
            "pair": around,
            "special_tokens": {
                name: {"id": name, "ids": [index], "tokens": [name]}
                for index, name in ((2, "[CLS]"), (3, "[SEP]"))
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: index for index, piece in enumerate(PIECES)},
        },
    }


def write_folder(name, seed, dtype, pooling, activation, pooling_config):
    """A folder and its golden.json."""
    folder = HERE / name
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    model_type = name.split("-")[0]
    # RoBERTa's padding token is 1.
    first = 2 if model_type == "roberta" else 0
    tensors = weights(seed, CONTEXT + first)
    stored, run = rounded(tensors, dtype), ACTIVATIONS[activation]
    vectors = [pool(encode(stored, ids, run, first), pooling) for ids in TEXTS]
    golden = {"texts": TEXTS, "vectors": vectors}
    # What no vector needs: it must do no harm.
    if name == "bert-cls":
        tensors = {f"bert.{key}": value for key, value in tensors.items()}
        tensors["cls.predictions.bias"] = ([4], [0.0] * 4)
    else:
        tensors = {
            "embeddings.position_ids": ([1, CONTEXT], list(range(CONTEXT))),
            "pooler.dense.bias": ([WIDTH], [0.0] * WIDTH),
        } | tensors
    write_safetensors(folder / "model.safetensors", tensors, dtype)
    config = {
        "model_type": model_type,
        "architectures": ["BertModel"] if model_type == "bert" else ["RobertaModel"],
        "hidden_act": activation,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "layer_norm_eps": EPS,
        "max_position_embeddings": CONTEXT + first,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "position_embedding_type": "absolute",
        "type_vocab_size": TYPES,
        "vocab_size": len(PIECES),
    }
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    files = {
        "config.json": config,
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": WIDTH} | pooling_config,
        "golden.json": golden,
    }
    if name == "bert-mean":
        files["tokenizer.json"] = tokenizer()
        files["tokenizer_config.json"] = {"tokenizer_class": "BertTokenizer"}
    for file, value in files.items():
        indent = None if file in ("tokenizer.json", "golden.json") else 2
        (folder / file).write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")


ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_new}


def main():
    """Writes everything beside this script."""
    write_gguf(rounded(weights(5), "F32"))
    flags = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}
    mean = flags | {"pooling_mode_mean_tokens": True}
    write_folder("bert-mean", 5, "F32", "mean", "gelu", mean)
    cls = flags | {"pooling_mode_cls_token": True}
    write_folder("bert-cls", 6, "F16", "cls", "gelu_new", cls)
    write_folder("bert-max", 7, "BF16", "max", "gelu", {"pooling_mode": "max"})
    write_folder("roberta-mean", 8, "F32", "mean", "gelu", mean)


if __name__ == "__main__":
    main()
