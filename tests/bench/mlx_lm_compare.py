#!/usr/bin/env python3
"""Measures mlx-lm on a llama-family GGUF file: the reference for Ingle's own MLX engine.

Both sides compute the same thing: the GGUF's weights as 32-bit floats, on MLX's CPU backend, with
the same BLAS. This file is the reference half. It

1. makes a virtual environment with pinned packages in the cache folder (once),
2. puts the system's OpenBLAS in the place of the MLX wheel's reference BLAS there, as Ingle's
   build does, since mlx-lm would otherwise be some fifty times slower,
3. writes the GGUF's weights in the Hugging Face layout, 32-bit floats, to the cache folder (once),
4. loads that model with mlx-lm, reads a prompt, decodes greedily, and prints one JSON object:
   load seconds, prompt and decode tokens per second, peak resident bytes.

Usage:
    mlx_lm_compare.py --gguf MODEL.gguf --cache-dir DIR [--prompt-tokens N] [--decode-tokens N]

Standard output carries the JSON only. Apart from the first run, nothing is fetched.
"""

import argparse
import glob
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time

# The MLX that Ingle links, and an mlx-lm that runs on it.
MLX_VERSION = "0.32.2"
PACKAGES = [
    f"mlx=={MLX_VERSION}",
    "mlx-lm==0.32.2",
    "gguf==0.19.0",
    "numpy==2.4.6",
]
if platform.system() == "Linux":
    PACKAGES.insert(1, f"mlx-cpu=={MLX_VERSION}")

# Layers of a GGUF llama file, by the names that Hugging Face uses.
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def parse_arguments():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", required=True, type=pathlib.Path, help="the model")
    parser.add_argument("--cache-dir", required=True, type=pathlib.Path, help="kept between runs")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--decode-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="the fastest run counts")
    parser.add_argument(
        "--prompt-file", type=pathlib.Path, help="a JSON array of token ids to use as the prompt"
    )
    parser.add_argument("--inside-venv", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare_venv(cache_dir):
    """Makes the virtual environment if it is not there; returns its Python."""
    venv = cache_dir / f"venv-mlx-{MLX_VERSION}"
    python = venv / "bin" / "python"
    finished = venv / "finished"
    if not finished.exists():
        # Python's packages go to standard error: standard output is for the result.
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *PACKAGES], check=True, stdout=sys.stderr)
        use_openblas(venv)
        finished.touch()
    return python


def find_openblas():
    """The system's multi-threaded OpenBLAS, in the order in which Ingle's build looks for it."""
    triple = f"/usr/lib/{platform.machine()}-linux-gnu"
    candidates = [
        os.environ.get("INGLE_OPENBLAS", ""),
        f"{triple}/openblas-pthread/libopenblas.so.0",
        "/usr/lib64/libopenblasp.so.0",
        "/usr/lib/libopenblasp.so.0",
        f"{triple}/libopenblas.so.0",
        "/usr/lib64/libopenblas.so.0",
        "/usr/lib/libopenblas.so.0",
    ]
    return next((path for path in candidates if os.path.isfile(path)), None)


def use_openblas(venv):
    """Replaces the wheel's BLAS and LAPACK by links to OpenBLAS. macOS uses Accelerate instead."""
    if platform.system() != "Linux":
        return
    openblas = find_openblas()
    if openblas is None:
        raise SystemExit(
            "OpenBLAS was not found, and without it the comparison means nothing.\n"
            "hint: install it (Debian: apt install libopenblas0-pthread) or set INGLE_OPENBLAS"
        )
    libraries = glob.glob(f"{venv}/lib/python*/site-packages/mlx_cpu.libs/lib*")
    for library in libraries:
        if os.path.basename(library).startswith(("libblas", "liblapack")):
            os.remove(library)
            os.symlink(openblas, library)


def convert(gguf_path, cache_dir):
    """Writes the model in the Hugging Face layout as 32-bit floats; returns the folder."""
    import gguf
    import mlx.core as mx
    import numpy as np

    stamp = gguf_path.stat()
    folder = cache_dir / f"{gguf_path.stem}-fp32-{stamp.st_size}-{int(stamp.st_mtime)}"
    if (folder / "config.json").exists():
        return folder
    reader = gguf.GGUFReader(gguf_path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    if keys["general.architecture"] != "llama":
        raise SystemExit(f"{gguf_path}: only the llama architecture can be compared")
    heads = keys["llama.attention.head_count"]
    kv_heads = keys.get("llama.attention.head_count_kv", heads)

    arrays = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values = values.reshape([int(size) for size in reversed(tensor.shape)])
        name = hugging_face_name(tensor.name)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = unpermute(values, heads if "q_proj" in name else kv_heads)
        arrays[name] = mx.array(values)

    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "mlx"})
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": keys["llama.embedding_length"],
        "num_hidden_layers": keys["llama.block_count"],
        "intermediate_size": keys["llama.feed_forward_length"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": keys["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": keys.get("llama.rope.freq_base", 10000.0),
        "max_position_embeddings": keys["llama.context_length"],
        "vocab_size": int(arrays["model.embed_tokens.weight"].shape[0]),
        "tie_word_embeddings": "lm_head.weight" not in arrays,
    }
    # Written last: its presence says that the folder is whole.
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def hugging_face_name(name):
    """`blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`."""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.{parts[3]}"
    return f"{TOP_NAMES[parts[0]]}.{parts[1]}"


def unpermute(weight, heads):
    """Undoes llama.cpp's reordering of the query and key rows within each head."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def measure(folder, prompt, decode_tokens, repeats):
    """Loads the model and times `repeats` generations; the fastest prompt and decode count."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load_model

    started = time.perf_counter()
    model, _ = load_model(folder)
    mx.eval(model.parameters())
    load_seconds = time.perf_counter() - started

    def generate(tokens, count):
        """Seconds to the first token, and seconds for the rest; and the tokens."""
        begin = time.perf_counter()
        steps = generate_step(mx.array(tokens), model, max_tokens=count)
        output = [int(next(steps)[0])]
        first = time.perf_counter()
        output += [int(token) for token, _ in steps]
        return first - begin, time.perf_counter() - first, output

    # mlx-lm compiles a few kernels on first use; that is start-up, not speed.
    generate(prompt[:8], 2)
    prompt_seconds, decode_seconds = [], []
    for _ in range(repeats):
        reading, decoding, output = generate(prompt, decode_tokens)
        prompt_seconds.append(reading)
        decode_seconds.append(decoding)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "load_seconds": round(load_seconds, 3),
        "prompt_tokens": len(prompt),
        "prompt_tokens_per_second": round(len(prompt) / min(prompt_seconds), 2),
        "decode_tokens": decode_tokens,
        "decode_tokens_per_second": round((decode_tokens - 1) / min(decode_seconds), 2),
        "peak_rss_bytes": peak if platform.system() == "Darwin" else peak * 1024,
        "first_tokens": output[:16],
        "mlx_version": mx.__version__,
        "device": str(mx.default_device()),
    }


def synthetic_prompt(count, vocab_size):
    """Token ids spread over the vocabulary, the same ones every time."""
    usable = vocab_size - 100
    return [100 + (index * 7919) % usable for index in range(count)]


def main():
    """Prepares the environment, then measures inside it."""
    arguments = parse_arguments()
    arguments.cache_dir.mkdir(parents=True, exist_ok=True)
    if not arguments.inside_venv:
        python = prepare_venv(arguments.cache_dir)
        command = [python, os.path.abspath(__file__), "--inside-venv", *sys.argv[1:]]
        raise SystemExit(subprocess.run(command).returncode)

    folder = convert(arguments.gguf, arguments.cache_dir)
    if arguments.prompt_file:
        prompt = json.loads(arguments.prompt_file.read_text())
    else:
        config = json.loads((folder / "config.json").read_text())
        prompt = synthetic_prompt(arguments.prompt_tokens, config["vocab_size"])
    print(json.dumps(measure(folder, prompt, arguments.decode_tokens, arguments.repeats)))


if __name__ == "__main__":
    main()
