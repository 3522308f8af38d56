#!/usr/bin/env python3
"""Writes bert/model.gguf: a BERT of one layer with random weights and a WordPiece vocabulary.

Only its shape is realistic. The test that uses it compares its vectors with each other, because the
engine's arithmetic has tests of its own. Needs nothing but Python; the same file comes out each time.
"""

import pathlib
import random
import struct

WIDTH, INNER, HEADS, CONTEXT = 16, 24, 2, 40
WORDS = "the sea ship light house story winter fire wood coal ash".split()
# A word's first piece begins with U+2581 in GGUF; what goes on with a word has nothing before it.
TOKENS = (
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    + ["\u2581" + word for word in WORDS]
    + ["\u2581" + letter for letter in "abcdefghijklmnopqrstuvwxyz"]
    + list("abcdefghijklmnopqrstuvwxyz")
)
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


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


def main():
    """Writes the file beside this script."""
    vocab = len(TOKENS)
    # Type 1 is a normal token, 3 a control token, 2 the unknown one.
    types = [3, 2, 3, 3, 3] + [1] * (vocab - 5)
    metadata = [
        ("general.architecture", STRING, "bert"),
        ("bert.block_count", U32, 1),
        ("bert.embedding_length", U32, WIDTH),
        ("bert.feed_forward_length", U32, INNER),
        ("bert.attention.head_count", U32, HEADS),
        ("bert.context_length", U32, CONTEXT),
        ("bert.attention.layer_norm_epsilon", F32, 1e-6),
        ("bert.attention.causal", BOOL, False),
        ("bert.pooling_type", U32, 1),
        ("tokenizer.ggml.model", STRING, "bert"),
        ("tokenizer.ggml.token_type_count", U32, 2),
        ("tokenizer.ggml.tokens", STRING, TOKENS),
        ("tokenizer.ggml.token_type", I32, types),
        ("tokenizer.ggml.unknown_token_id", U32, 1),
        ("tokenizer.ggml.bos_token_id", U32, 2),
        ("tokenizer.ggml.seperator_token_id", U32, 3),
        ("tokenizer.ggml.padding_token_id", U32, 0),
        ("tokenizer.ggml.cls_token_id", U32, 2),
        ("tokenizer.ggml.mask_token_id", U32, 4),
    ]
    norm, bias = [WIDTH], [WIDTH]
    shapes = {
        "token_embd.weight": [WIDTH, vocab],
        "token_types.weight": [WIDTH, 2],
        "position_embd.weight": [WIDTH, CONTEXT],
        "token_embd_norm.weight": norm,
        "token_embd_norm.bias": bias,
    }
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes[f"blk.0.{part}.weight"] = [WIDTH, WIDTH]
        shapes[f"blk.0.{part}.bias"] = bias
    shapes |= {
        "blk.0.attn_output_norm.weight": norm,
        "blk.0.attn_output_norm.bias": bias,
        "blk.0.ffn_up.weight": [WIDTH, INNER],
        "blk.0.ffn_up.bias": [INNER],
        "blk.0.ffn_down.weight": [INNER, WIDTH],
        "blk.0.ffn_down.bias": bias,
        "blk.0.layer_output_norm.weight": norm,
        "blk.0.layer_output_norm.bias": bias,
    }
    random.seed(5)
    index, data = b"", b""
    for name, shape in shapes.items():
        index += text(name) + struct.pack("<I", len(shape))
        index += b"".join(struct.pack("<Q", size) for size in shape)
        index += struct.pack("<IQ", 0, len(data))
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        middle = 1.0 if name.endswith("norm.weight") else 0.0
        values = [random.uniform(middle - 0.5, middle + 0.5) for _ in range(count)]
        data += struct.pack(f"<{count}f", *values)
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata))
    head += b"".join(entry(*item) for item in metadata) + index
    head += b"\0" * (-len(head) % 32)
    path = pathlib.Path(__file__).parent / "bert" / "model.gguf"
    path.write_bytes(head + data)


if __name__ == "__main__":
    main()
