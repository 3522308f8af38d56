#!/usr/bin/env python3
"""Does memory come back? Two models in turns, under a budget that fits one of them.

Each round loads and uses the first model, then the second, for which the first is evicted, and
unloads the second. Resident memory after each round is compared with the first round's.

Usage:
    memory_rounds.py [--bin DIR] [--rounds N] [--budget SIZE] [--engine ENGINE] [MODEL MODEL]

A MODEL is a GGUF file or a model folder; without any, two sim models take real memory. Exits with 1
when a round ends more than 3 % above the first.
"""

import argparse
import pathlib
import sys
import time

import harness

MIB = 1 << 20
SIM = {"allocate": True, "kv_bytes_per_token": 64 * 1024, "words": 40}
PROMPT = "The hearth was the centre of the house. " * 8


def main():
    """Runs the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--bin", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--budget", default="800 MiB")
    parser.add_argument("--engine", help="for GGUF files that more than one engine runs")
    arguments = parser.parse_args()
    if len(arguments.models) not in (0, 2):
        parser.error("name two models, or none")
    models = dict(zip("ab", arguments.models)) or {
        "a": dict(SIM, weight_bytes=600 * MIB),
        "b": dict(SIM, weight_bytes=500 * MIB),
    }
    daemon = harness.Daemon(
        arguments.bin or harness.default_bin(),
        models,
        f'default_model = "a"\n[memory]\nbudget = "{arguments.budget}"\n'
        + harness.prefer(arguments.engine),
    )
    try:
        print(f"before: {daemon.resident_bytes() / MIB:.1f} MiB")
        after = []
        for number in range(arguments.rounds):
            used = []
            for name in "ab":
                daemon.call("generate", model=name, prompt=PROMPT, max_tokens=24)
                used.append(daemon.resident_bytes() / MIB)
                loaded = [model["name"] for model in daemon.call("status")["models"]]
                if loaded != [name]:
                    sys.exit(f"error: {loaded} are in memory, and {name} should be")
            daemon.call("models.unload", model="b")
            # The daemon gives memory back once more when it has been idle for a second.
            time.sleep(3)
            after.append(daemon.resident_bytes())
            print(
                f"round {number + 1}: a {used[0]:.1f}, b {used[1]:.1f}, "
                f"unloaded {after[-1] / MIB:.1f} MiB ({after[-1] / after[0] - 1:+.1%})"
            )
        growth = max(after) / after[0] - 1
        print(f"peak {daemon.peak_bytes() / MIB:.1f} MiB, largest growth {growth:+.1%}")
    finally:
        daemon.stop()
    sys.exit(0 if growth <= 0.03 else 1)


if __name__ == "__main__":
    main()
