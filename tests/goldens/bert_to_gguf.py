#!/usr/bin/env python3
"""Makes a GGUF file of a BERT's folder: its 32-bit weights as they are, or in 16 bits.

For tests that compare engines on the same weights. What llama.cpp's convert_hf_to_gguf.py does for
`BertModel`, without its dependencies: nothing but Python.

Usage: bert_to_gguf.py FOLDER OUT.gguf [F32|F16]
"""

import json
import pathlib
import struct
import sys

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
# ggml's numbers of its types.
TYPES = {"F32": 0, "F16": 1}
POOLING = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2}
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
# What no vector needs.
LEFT_OUT = ("embeddings.position_ids", "pooler.")


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


def name_of(name):
    """A tensor's name in a GGUF file."""
    module, kind = name.rsplit(".", 1)
    prefix = ""
    if module.startswith("encoder.layer."):
        _, _, layer, module = module.split(".", 3)
        prefix = f"blk.{layer}."
    return f"{prefix}{NAMES[module]}.{kind}"


def write(path, sizes, tokens, ids, tensors):
    """Writes a file. `sizes` are of the model, `ids` of its special tokens by name; a tensor is its
    shape, its type and its bytes, under its name in a folder."""
    # Type 1 is a normal token, 3 a control token, 2 the unknown one.
    types = [1] * len(tokens)
    for name, token in ids.items():
        types[token] = 2 if name == "unknown" else 3
    metadata = [
        ("general.architecture", STRING, "bert"),
        ("bert.block_count", U32, sizes["layers"]),
        ("bert.embedding_length", U32, sizes["width"]),
        ("bert.feed_forward_length", U32, sizes["inner"]),
        ("bert.attention.head_count", U32, sizes["heads"]),
        ("bert.context_length", U32, sizes["context"]),
        ("bert.attention.layer_norm_epsilon", F32, sizes["eps"]),
        ("bert.attention.causal", BOOL, False),
        ("bert.pooling_type", U32, sizes["pooling"]),
        ("tokenizer.ggml.model", STRING, "bert"),
        ("tokenizer.ggml.token_type_count", U32, sizes["types"]),
        ("tokenizer.ggml.tokens", STRING, tokens),
        ("tokenizer.ggml.token_type", I32, types),
        ("tokenizer.ggml.unknown_token_id", U32, ids["unknown"]),
        ("tokenizer.ggml.bos_token_id", U32, ids["cls"]),
        ("tokenizer.ggml.seperator_token_id", U32, ids["sep"]),
        ("tokenizer.ggml.padding_token_id", U32, ids["pad"]),
        ("tokenizer.ggml.cls_token_id", U32, ids["cls"]),
        ("tokenizer.ggml.mask_token_id", U32, ids["mask"]),
    ]
    index, data = b"", []
    offset = 0
    for name, (shape, kind, values) in tensors.items():
        index += text(name_of(name)) + struct.pack("<I", len(shape))
        index += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        index += struct.pack("<IQ", TYPES[kind], offset)
        padding = b"\0" * (-len(values) % 32)
        data += [values, padding]
        offset += len(values) + len(padding)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(entry(*item) for item in metadata) + index
    head += b"\0" * (-len(head) % 32)
    pathlib.Path(path).write_bytes(b"".join([head, *data]))


def read_safetensors(path):
    """The tensors of a file in 32 bits: shape, type and bytes by name."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__" or name.startswith(LEFT_OUT):
            continue
        if info["dtype"] != "F32":
            sys.exit(f"{path}: tensor {name} is {info['dtype']}, expected F32")
        begin, end = (8 + length + offset for offset in info["data_offsets"])
        tensors[name] = (info["shape"], "F32", data[begin:end])
    return tensors


def halved(tensor):
    """A matrix in 16 bits; vectors stay."""
    shape, kind, values = tensor
    if len(shape) == 1:
        return tensor
    count = len(values) // 4
    return shape, "F16", struct.pack(f"<{count}e", *struct.unpack(f"<{count}f", values))


def main():
    """Converts a folder."""
    if len(sys.argv) not in (3, 4) or sys.argv[3:] not in ([], ["F32"], ["F16"]):
        sys.exit(__doc__)
    folder, out = pathlib.Path(sys.argv[1]), sys.argv[2]

    def load(name):
        return json.loads((folder / name).read_text(encoding="utf-8"))

    config, pooling = load("config.json"), load("1_Pooling/config.json")
    vocab = load("tokenizer.json")["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    sizes = {
        "layers": config["num_hidden_layers"],
        "width": config["hidden_size"],
        "inner": config["intermediate_size"],
        "heads": config["num_attention_heads"],
        "context": config["max_position_embeddings"],
        "eps": config["layer_norm_eps"],
        "types": config["type_vocab_size"],
        "pooling": next(number for mode, number in POOLING.items() if pooling[mode]),
    }
    names = {"unknown": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    ids = {kind: vocab[name] for kind, name in names.items()}
    tensors = read_safetensors(folder / "model.safetensors")
    if sys.argv[3:] == ["F16"]:
        tensors = {
            # llama.cpp adds these two in 32 bits.
            name: tensor if "position" in name or "token_type" in name else halved(tensor)
            for name, tensor in tensors.items()
        }
    write(out, sizes, [piece(token) for token in tokens], ids, tensors)


def piece(token):
    """A token as GGUF has it: U+2581 before a word's first piece, and nothing before the others."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else "\u2581" + token


if __name__ == "__main__":
    main()
