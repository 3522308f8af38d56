#!/usr/bin/env python3
"""Makes the tiny model folders in tests/goldens and the logits mlx-lm computes for them.

Every architecture and variant that Ingle's MLX engine reads from a folder has a model of random
weights here, dense and quantised, saved the way mlx-lm saves it. mlx-lm then loads that folder
and computes, on the CPU and with all floating-point numbers widened to 32 bits:

- the logits after a prompt in one pass, and after each chunk of the same prompt read in pieces,
- the logits of two prompts of different length, each alone (a batch must give the same),
- a few greedy steps after the prompt.

Last comes how far mlx-lm itself is from these numbers when it computes in the types the weights are
stored in: nobody can ask more of an engine that does the same.

The Rust tests (`daemon/engine-mlx/src/tests/goldens.rs`) hold the engine to these numbers.

Usage, in an environment with mlx-lm 0.32.2 and mlx 0.32.2:
    make_mlx_lm.py [CASE]...

Without a name all cases are made anew. The weights depend on the seed only; the files here were
made on x86-64.
"""

import json
import pathlib
import shutil
import sys
import tempfile

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import _get_classes, load_model

HERE = pathlib.Path(__file__).parent
VOCAB = 96
PROMPT = [(index * index + 7 * index + 3) % VOCAB for index in range(24)]
CHUNKS = [5, 1, 11, 7]
PAIR = [PROMPT[3:20], PROMPT[10:14]]
GREEDY_STEPS = 6

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": VOCAB,
}
MISTRAL = LLAMA | {
    "model_type": "mistral",
    "architectures": ["MistralForCausalLM"],
    "rope_theta": 1000000.0,
    "sliding_window": 128,
}
QWEN2 = LLAMA | {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 128,
    "use_sliding_window": False,
}
QWEN3 = LLAMA | {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 24,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
}
UNTIED = {"tie_word_embeddings": False}
LLAMA3 = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}


def quantized(bits, group_size, **overrides):
    """The `quantization` entry as mlx-lm writes it; overrides are by module path."""
    return {"bits": bits, "group_size": group_size, "mode": "affine"} | overrides


MIXED = quantized(
    4,
    32,
    **{
        "model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 64, "mode": "affine"},
        "model.layers.0.self_attn.v_proj": {"bits": 8, "group_size": 32, "mode": "affine"},
        "model.layers.1.self_attn.o_proj": False,
    },
)
WIDE = {"intermediate_size": 128}

# Name: config, type of the stored numbers, quantisation, whose weights, number of shards.
CASES = {
    "llama": (LLAMA, mx.float16, None, None, 1),
    "llama-linear": (
        LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}},
        mx.float16,
        None,
        "llama",
        1,
    ),
    "llama-llama3": (LLAMA | {"rope_scaling": LLAMA3}, mx.float16, None, "llama", 1),
    "llama-bias": (
        LLAMA | UNTIED | {"attention_bias": True, "mlp_bias": True},
        mx.float16,
        None,
        None,
        1,
    ),
    "mistral": (MISTRAL, mx.float16, None, "llama", 1),
    "qwen2": (QWEN2, mx.bfloat16, None, None, 1),
    "qwen3": (QWEN3, mx.float32, None, None, 2),
    "llama-q4": (LLAMA | WIDE, mx.float16, quantized(4, 64), None, 1),
    "llama-mixed": (LLAMA | WIDE | UNTIED, mx.float32, MIXED, None, 2),
    "mistral-q4": (MISTRAL | WIDE | UNTIED, mx.float16, quantized(4, 32), None, 1),
    "qwen2-q4": (QWEN2 | WIDE, mx.bfloat16, quantized(4, 64), None, 1),
    "qwen3-q8": (QWEN3 | {"tie_word_embeddings": True}, mx.float16, quantized(8, 32), None, 1),
}


def random_weights(model):
    """Weights that give logits of a few units, with norms and biases that matter."""
    weights = []
    for name, array in sorted(tree_flatten(model.parameters())):
        noise = mx.random.normal(array.shape)
        if "norm" in name:
            array = 1.0 + 0.3 * noise
        elif name.endswith(".bias"):
            array = 0.3 * noise
        elif "embed_tokens" in name:
            array = 0.2 * noise
        else:
            array = noise * 2.0 / array.shape[-1] ** 0.5
        weights.append((name, array))
    return weights


def save(folder, config, dtype, quantization, shards):
    """Writes config.json and the weights."""
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    model.update(tree_unflatten(random_weights(model)))
    model.set_dtype(dtype)
    if quantization is not None:
        config = config | {"quantization": quantization, "quantization_config": quantization}
        nn.quantize(
            model,
            group_size=quantization["group_size"],
            bits=quantization["bits"],
            class_predicate=lambda path, module: hasattr(module, "to_quantized")
            and quantization.get(path, True),
        )
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    weights = sorted(tree_flatten(model.parameters()))
    if shards == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), dict(weights), {"format": "mlx"})
        return
    per_shard = -(-len(weights) // shards)
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(weights[shard * per_shard : (shard + 1) * per_shard])
        mx.save_safetensors(str(folder / name), part, {"format": "mlx"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def rounded(logits):
    """One row of logits for JSON."""
    return [round(value, 6) for value in logits.tolist()]


def compute(folder):
    """What mlx-lm makes of the folder, in 32-bit floats; and its own rounding without."""
    golden = compute_with(folder, mx.float32)
    stored = compute_with(folder, None)
    rows = lambda one: mx.array([one["one_pass"], *one["chunked"], *one["pair_logits"]])
    golden["mlx_lm_gap"] = round(mx.abs(rows(golden) - rows(stored)).max().item(), 6)
    return golden


def compute_with(folder, dtype):
    """The logits, with all floating-point numbers as `dtype` if there is one."""
    model, _ = load_model(folder)
    if dtype is not None:
        model.set_dtype(dtype)

    def last(tokens, cache):
        return model(mx.array([tokens]), cache=cache)[0, -1]

    one_pass = last(PROMPT, make_prompt_cache(model))
    cache, position, chunked = make_prompt_cache(model), 0, []
    for chunk in CHUNKS:
        chunked.append(rounded(last(PROMPT[position : position + chunk], cache)))
        position += chunk
    assert position == len(PROMPT)
    pair = [rounded(last(prompt, make_prompt_cache(model))) for prompt in PAIR]
    greedy, steps = [], []
    logits = one_pass
    for _ in range(GREEDY_STEPS):
        greedy.append(int(mx.argmax(logits)))
        logits = last(greedy[-1:], cache)
        steps.append(rounded(logits))
    return {
        "prompt": PROMPT,
        "one_pass": rounded(one_pass),
        "chunks": CHUNKS,
        "chunked": chunked,
        "pair": PAIR,
        "pair_logits": pair,
        "greedy": greedy,
        "greedy_logits": steps,
    }


def write_golden(path, golden):
    """JSON with one line an entry, so that a change can be read."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def make(name):
    """One case, from its seed to its logits."""
    config, dtype, quantization, weights_of, shards = CASES[name]
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    golden = {}
    if weights_of is None:
        mx.random.seed(sum(name.encode()))
        save(folder, config, dtype, quantization, shards)
        golden |= compute(folder)
    else:
        # The same weights under another config: only the config is kept.
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        golden["weights_of"] = weights_of
        with tempfile.TemporaryDirectory() as temporary:
            whole = pathlib.Path(temporary)
            shutil.copy(folder / "config.json", whole)
            shutil.copy(HERE / weights_of / "model.safetensors", whole)
            golden |= compute(whole)
    write_golden(folder / "golden.json", golden)
    top = sorted(golden["one_pass"])[-1]
    print(f"{name}: largest logit {top:.2f}, own gap {golden['mlx_lm_gap']:.1e}")


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    for case in sys.argv[1:] or CASES:
        make(case)
