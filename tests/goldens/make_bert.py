#!/usr/bin/env python3
"""Makes the tiny BERTs in tests/goldens and the vectors that plain loops compute for them.

- bert/model.gguf: random weights and a WordPiece vocabulary, for llama.cpp.
- bert-mean: the same weights as a folder that sentence-transformers would read, in 32 bits.
- bert-cls: 16-bit weights under the names of a larger model, whose other parts are there too, and
  the approximate GELU.
- bert-max: bfloat16, and the pooling file in its newer form.

Each folder's golden.json has token ids of some texts and their vectors, at length 1, computed in
Python's own 64-bit floats after transformers' modeling_bert.py and sentence-transformers'
Pooling.py. Needs nothing but Python; the same files come out each time.
"""

import json
import math
import pathlib
import random
import struct

HERE = pathlib.Path(__file__).parent
LAYERS, WIDTH, INNER, HEADS, CONTEXT, TYPES = 2, 16, 24, 2, 40, 2
EPS = 1e-6
WORDS = "the sea ship light house story winter fire wood coal ash".split()
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# A word's first piece begins with U+2581 in GGUF; what goes on with a word has nothing before it.
TOKENS = SPECIAL + ["\u2581" + word for word in WORDS + list(LETTERS)] + list(LETTERS)
# In a tokenizer.json it is the other way round.
PIECES = SPECIAL + WORDS + list(LETTERS) + ["##" + letter for letter in LETTERS]
# Lengths that share a pass and that do not, the shortest and the longest.
TEXTS = [
    [2, 5, 6, 3],
    [2, 16, 7, 3],
    [2, 11, 9, 12, 30, 50, 3],
    [2, 3],
    [4],
    [2] + [(index * index + 5) % len(TOKENS) for index in range(CONTEXT - 2)] + [3],
]
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
# Names in a folder and in a GGUF file.
NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def text(value):
    """A length and the bytes."""
    data = value.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def scalar(kind, value):
    """A metadata value without its type."""
    if kind == STRING:
        return text(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[kind], value)


def entry(key, kind, value):
    """A metadata entry; a list is an array of `kind`."""
    if isinstance(value, list):
        items = b"".join(scalar(kind, item) for item in value)
        return text(key) + struct.pack("<IIQ", ARRAY, kind, len(value)) + items
    return text(key) + struct.pack("<I", kind) + scalar(kind, value)


def weights(seed):
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

    add("embeddings.word_embeddings.weight", len(TOKENS), WIDTH)
    add("embeddings.position_embeddings.weight", CONTEXT, WIDTH)
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


def encode(tensors, ids, activation):
    """The vectors of a text's tokens."""

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
    xs = [add(add(words[token], positions[at]), kind) for at, token in enumerate(ids)]
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
    vocab = len(TOKENS)
    # Type 1 is a normal token, 3 a control token, 2 the unknown one.
    types = [3, 2, 3, 3, 3] + [1] * (vocab - 5)
    metadata = [
        ("general.architecture", STRING, "bert"),
        ("bert.block_count", U32, LAYERS),
        ("bert.embedding_length", U32, WIDTH),
        ("bert.feed_forward_length", U32, INNER),
        ("bert.attention.head_count", U32, HEADS),
        ("bert.context_length", U32, CONTEXT),
        ("bert.attention.layer_norm_epsilon", F32, EPS),
        ("bert.attention.causal", BOOL, False),
        ("bert.pooling_type", U32, 1),
        ("tokenizer.ggml.model", STRING, "bert"),
        ("tokenizer.ggml.token_type_count", U32, TYPES),
        ("tokenizer.ggml.tokens", STRING, TOKENS),
        ("tokenizer.ggml.token_type", I32, types),
        ("tokenizer.ggml.unknown_token_id", U32, 1),
        ("tokenizer.ggml.bos_token_id", U32, 2),
        ("tokenizer.ggml.seperator_token_id", U32, 3),
        ("tokenizer.ggml.padding_token_id", U32, 0),
        ("tokenizer.ggml.cls_token_id", U32, 2),
        ("tokenizer.ggml.mask_token_id", U32, 4),
    ]
    index, data = b"", b""
    for name, (shape, values) in tensors.items():
        module, kind = name.rsplit(".", 1)
        prefix = ""
        if module.startswith("encoder.layer."):
            _, _, layer, module = module.split(".", 3)
            prefix = f"blk.{layer}."
        index += text(f"{prefix}{NAMES[module]}.{kind}") + struct.pack("<I", len(shape))
        index += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        index += struct.pack("<IQ", 0, len(data))
        data += struct.pack(f"<{len(values)}f", *values)
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(entry(*item) for item in metadata) + index
    head += b"\0" * (-len(head) % 32)
    (HERE / "bert" / "model.gguf").write_bytes(head + data)


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
    tensors = weights(seed)
    golden = {
        "texts": TEXTS,
        "vectors": [
            pool(encode(rounded(tensors, dtype), ids, ACTIVATIONS[activation]), pooling)
            for ids in TEXTS
        ],
    }
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
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_act": activation,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "layer_norm_eps": EPS,
        "max_position_embeddings": CONTEXT,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "position_embedding_type": "absolute",
        "type_vocab_size": TYPES,
        "vocab_size": len(TOKENS),
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


if __name__ == "__main__":
    main()
