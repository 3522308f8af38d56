#!/usr/bin/env python3
"""Ingle against mlx-lm: the same weights as 32-bit floats, the same BLAS, in one run.

The daemon's half runs the release binaries in a temporary Ingle folder; mlx_lm_compare.py is the
other half, and gets the token ids that Ingle's tokenizer made of the same prompt. The two take
turns, and the best run of each counts, so that a busy moment harms neither.

Usage:
    cargo build --release --bins
    side_by_side.py [--gguf MODEL.gguf] [--cache-dir DIR] [--rounds N]

Prints one JSON object: both sides, and the ratios Ingle / mlx-lm.
"""

import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DECODE_TOKENS = 64
# About 500 tokens that leave the model something to go on about.
PROMPT = (
    "The hearth was the centre of the house. In winter the family sat around it and told stories "
    "of the sea, of ships that never came home, and of the lights that some had seen far out. "
) * 13 + "One evening the youngest asked:"


def parse_arguments():
    """Reads the command line."""
    home = pathlib.Path.home()
    cache = pathlib.Path(os.environ.get("INGLE_CACHE_DIR", home / ".cache" / "ingle"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=pathlib.Path, help="default: the model ./test has fetched")
    parser.add_argument("--cache-dir", type=pathlib.Path, default=cache / "bench")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.gguf is None:
        found = sorted((cache / "test-home" / "models" / "smollm2").glob("*.gguf"))
        if not found:
            sys.exit("error: no model\nhint: run ./test once, or name one with --gguf")
        arguments.gguf = found[0]
    return arguments


def target_dir():
    """The folder that cargo builds into."""
    command = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    return pathlib.Path(json.loads(output)["target_directory"])


class Daemon:
    """A release daemon in a folder of its own, with one model."""

    def __init__(self, folder, gguf):
        model = folder / "models" / "bench"
        model.mkdir(parents=True)
        (model / "model.gguf").symlink_to(gguf.resolve())
        program = target_dir() / "release" / "ingled"
        environment = dict(os.environ, INGLE_HOME=str(folder))
        self.process = subprocess.Popen(
            [program, "serve", "--launched"], env=environment, stdout=subprocess.PIPE
        )
        report = json.loads(self.process.stdout.readline())
        if report["status"] != "ready":
            sys.exit(f"error: the daemon did not start: {report}")
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(str(folder / "run" / "ingled.sock"))
        self.stream = stream.makefile("rw", encoding="utf-8")

    def call(self, method, **params):
        """One call; the result or the end of the program."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self.stream.write(json.dumps(request) + "\n")
        self.stream.flush()
        reply = json.loads(self.stream.readline())
        if "error" in reply:
            sys.exit(f"error: {method}: {reply['error']}")
        return reply["result"]

    def peak_bytes(self):
        """The most memory the process has had resident; 0 where the system does not tell."""
        try:
            text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return 0
        line = next(line for line in text.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def stop(self):
        """Ends the process."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def measure_ingle(gguf):
    """One round of the daemon's half, and the prompt's token ids."""
    with tempfile.TemporaryDirectory(prefix="ingle-") as folder:
        daemon = Daemon(pathlib.Path(folder), gguf)
        try:
            load = daemon.call("models.load", model="bench")
            tokens = daemon.call("tokenize", model="bench", text=PROMPT)["tokens"]
            daemon.call("generate", model="bench", prompt="Warm up.", max_tokens=8)
            result = daemon.call(
                "generate", model="bench", prompt=PROMPT, max_tokens=DECODE_TOKENS
            )
            timings = result["timings"]
            figures = {
                "load_seconds": load["load_ms"] / 1e3,
                "prompt_tokens_per_second": timings["prefill_tokens_per_s"],
                "decode_tokens_per_second": timings["decode_tokens_per_s"],
                "peak_rss_bytes": daemon.peak_bytes(),
            }
        finally:
            daemon.stop()
    return figures, tokens


def measure_mlx_lm(arguments, prompt_file):
    """One round of the reference half."""
    command = [
        sys.executable,
        HERE / "mlx_lm_compare.py",
        "--gguf",
        arguments.gguf,
        "--cache-dir",
        arguments.cache_dir,
        "--prompt-file",
        prompt_file,
        "--decode-tokens",
        str(DECODE_TOKENS),
        "--repeats",
        "1",
    ]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(output)


def best(rounds):
    """The fastest figures of several rounds; the smallest load and memory."""
    result = {}
    for key in ("load_seconds", "peak_rss_bytes"):
        result[key] = min(figures[key] for figures in rounds)
    for key in ("prompt_tokens_per_second", "decode_tokens_per_second"):
        result[key] = max(figures[key] for figures in rounds)
    return result


def main():
    """Lets both sides take turns and prints what came out."""
    arguments = parse_arguments()
    arguments.cache_dir.mkdir(parents=True, exist_ok=True)
    ingle_rounds, mlx_rounds = [], []
    with tempfile.TemporaryDirectory() as folder:
        prompt_file = pathlib.Path(folder) / "prompt.json"
        for _ in range(arguments.rounds):
            figures, tokens = measure_ingle(arguments.gguf)
            ingle_rounds.append(figures)
            prompt_file.write_text(json.dumps(tokens), encoding="utf-8")
            mlx_rounds.append(measure_mlx_lm(arguments, prompt_file))
    ingle, mlx_lm = best(ingle_rounds), best(mlx_rounds)
    ratios = {key: round(ingle[key] / mlx_lm[key], 3) for key in ingle if mlx_lm[key]}
    report = {
        "prompt_tokens": len(tokens),
        "ingle": ingle,
        "mlx_lm": mlx_lm,
        "ingle_over_mlx_lm": ratios,
    }
    json.dump(report, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
