#!/usr/bin/env python3
"""How long an HTTP client waits for the list of models, and for a stream's first byte.

Ingle on its sim engine and `mlx_lm.server` side by side: both serve in the same run, and their
requests alternate, so that whatever else the machine does meets both. Each request has a connection
of its own. Accepted is at most half of what `mlx_lm.server` takes, at the median, for both.

What is measured is the way around the model, not the model: `mlx_lm.server` gets the smallest one
it can serve (random weights of 130 KiB, two layers, 64 wide; made here), whose pass over the prompt
is part of its time and is reported too; the sim engine computes nothing. Its list of models is read
from an empty Hugging Face cache, which is the fastest that it can be.

Usage:
    http_latency.py [--bin DIR] [--python PYTHON] [--requests N]

PYTHON is one that has mlx-lm; without it, a virtual environment is made in the cache folder, once.
Exits with 1 when a ratio is above 0.5.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import harness
import mlx_lm_compare

# The most that Ingle may take, as a share of what `mlx_lm.server` takes.
ACCEPTED = 0.5

# Seconds that `mlx_lm.server` may take to be there.
START_LIMIT_S = 120

# Requests of each kind before any is counted: the first loads the model.
WARM_UP = 5

# Makes a tokenizer for the 96 tokens of the small model, and measures its pass over the prompt;
# runs in the environment that has mlx-lm.
MAKE_MODEL = """
import json, pathlib, shutil, sys, time
from tokenizers import Tokenizer, models, pre_tokenizers, decoders
source, target = map(pathlib.Path, sys.argv[1:])
shutil.copy(source / "model.safetensors", target)
config = json.loads((source / "config.json").read_text())
config["eos_token_id"] = 0
(target / "config.json").write_text(json.dumps(config))
words = ["<|end|>", *(chr(32 + index) for index in range(95))]
tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, "<|end|>"))
tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
tokenizer.decoder = decoders.Fuse()
tokenizer.save(str(target / "tokenizer.json"))
(target / "tokenizer_config.json").write_text(json.dumps({
    "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "model_max_length": 512,
    "chat_template": "{% for message in messages %}{{ message.content }} {% endfor %}",
}))
import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
model, _ = load_model(target)
times = []
for _ in range(30):
    begun_at = time.perf_counter()
    mx.eval(model(mx.array([[40] * 6]), cache=make_prompt_cache(model)))
    times.append(time.perf_counter() - begun_at)
print(sorted(times)[len(times) // 2] * 1e3)
"""

# A delta with text in it.
TEXT = re.compile(rb'"content": ?"[^"]')

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "stream": True}


class Server:
    """Where one of the two listens, and what it wants to see. The client is a bare socket, whose
    own share of the time is the least there can be."""

    def __init__(self, port, headers, model):
        self.port = port
        headers = {"Host": f"127.0.0.1:{port}", "Connection": "close", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        body = json.dumps(dict(CHAT, model=model))
        self.models = f"GET /v1/models HTTP/1.1\r\n{head}\r\n".encode()
        self.chat = (
            f"POST /v1/chat/completions HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def answer(self, request):
        """Each piece of the body so far with the milliseconds after which it was there."""
        begun_at = time.perf_counter()
        with socket.create_connection(("127.0.0.1", self.port), START_LIMIT_S) as stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream.sendall(request)
            got = b""
            while piece := stream.recv(65536):
                now = time.perf_counter()
                got += piece
                head, end, body = got.partition(b"\r\n\r\n")
                if end and not head.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
                    sys.exit(f"error: {got[:500]}")
                if end and body:
                    yield (now - begun_at) * 1e3, body

    def models_ms(self):
        """Milliseconds until the list of models is there, whatever tells its end."""
        for took, body in self.answer(self.models):
            try:
                json.loads(body)
                return took
            except ValueError:
                pass
        sys.exit("error: a list of models without an end")

    def first_bytes_ms(self):
        """Milliseconds until a stream's first byte, and until its first text."""
        first = text = None
        for took, body in self.answer(self.chat):
            first = first or took
            if text is None and TEXT.search(body):
                text = took
        if text is None:
            sys.exit("error: a stream without text")
        return first, text


def start_mlx_lm(python, model, home):
    """`mlx_lm.server` on a port of its own, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = dict(os.environ, HF_HOME=str(home), HF_HUB_OFFLINE="1")
    (home / "hub").mkdir(parents=True)
    command = [python, "-m", "mlx_lm", "server", "--model", model, "--port", str(port),
               "--log-level", "ERROR", "--temp", "0"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    give_up_at = time.monotonic() + START_LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, Server(port, {}, str(model))
        except OSError:
            if process.poll() is not None or time.monotonic() > give_up_at:
                process.kill()
                sys.exit("error: mlx_lm.server did not start")
            # It has no message that it is ready; this waits for its port only.
            time.sleep(0.1)


def measure(ours, theirs, requests):
    """Alternating requests: milliseconds of each kind, ours and theirs."""
    kinds = {"/v1/models": ([], []), "first SSE byte": ([], []), "first text": ([], [])}
    for index in range(WARM_UP + requests):
        for side, server in enumerate((ours, theirs)):
            models = server.models_ms()
            first, text = server.first_bytes_ms()
            if index >= WARM_UP:
                for kind, took in zip(kinds.values(), (models, first, text), strict=True):
                    kind[side].append(took)
    return kinds


def main():
    """Starts both, measures, compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, help="folder of the binaries")
    parser.add_argument("--python", type=pathlib.Path, help="a Python that has mlx-lm")
    parser.add_argument("--cache-dir", type=pathlib.Path,
                        default=pathlib.Path.home() / ".cache" / "ingle")
    parser.add_argument("--requests", type=int, default=200)
    arguments = parser.parse_args()
    python = arguments.python or mlx_lm_compare.prepare_venv(arguments.cache_dir)
    with tempfile.TemporaryDirectory(prefix="ingle-") as folder:
        model = pathlib.Path(folder) / "model"
        model.mkdir()
        source = harness.ROOT / "tests" / "goldens" / "llama"
        made = subprocess.run([python, "-c", MAKE_MODEL, source, model], check=True,
                              capture_output=True, text=True).stdout
        process, theirs = start_mlx_lm(python, model, pathlib.Path(folder) / "hf")
        daemon = harness.Daemon(arguments.bin or harness.default_bin(), {"sim": {}},
                                '[http]\nlisten = "127.0.0.1:0"\n')
        try:
            port = int(daemon.call("status")["http"]["url"].split(":")[2].split("/")[0])
            home = pathlib.Path(daemon.folder.name)
            token = (home / "http.token").read_text(encoding="utf-8").strip()
            ours = Server(port, {"authorization": f"Bearer {token}"}, "sim")
            kinds = measure(ours, theirs, arguments.requests)
        finally:
            daemon.stop()
            process.terminate()
            process.wait()
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
          f"{arguments.requests} requests of each kind, alternating; the small model's pass over "
          f"the prompt takes {float(made.split()[-1]):.2f} ms")
    print(f"{'milliseconds':16} {'ingle p50':>10} {'p95':>8} {'mlx_lm p50':>11} {'p95':>8} {'ratio':>7}")
    bad = False
    for kind, sides in kinds.items():
        (mine, mine_p95), (other, other_p95) = (
            (statistics.median(side), sorted(side)[len(side) * 95 // 100]) for side in sides)
        print(f"{kind:16} {mine:10.2f} {mine_p95:8.2f} {other:11.2f} {other_p95:8.2f} "
              f"{mine / other:7.2f}")
        bad |= kind != "first text" and mine / other > ACCEPTED
    if bad:
        sys.exit(f"a ratio is above {ACCEPTED}")


if __name__ == "__main__":
    main()
