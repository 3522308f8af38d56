#!/usr/bin/env python3
"""Does a load stall another model's stream? The longest gap between two tokens, with and without.

One model streams alone, then again while another one is loaded. Loading one model must not stall
another's stream: accepted is a gap of at most five times the quiet 95th percentile.

Usage:
    load_gap.py [--bin DIR] [--rounds N] [--engine ENGINE] [STREAMING LOADED]

A model is a GGUF file or a model folder; without any, a sim model streams while one of 600 MiB is
loaded. Exits with 1 when the median round is not accepted.
"""

import argparse
import pathlib
import sys
import threading

import harness

MIB = 1 << 20


def gaps(connection, tokens, started=None):
    """Milliseconds between the deltas of one stream, and when each came."""
    connection.start(
        "generate", model="a", prompt="Once upon a time", max_tokens=tokens, stream=True
    )
    times = []
    for now, frame in connection.frames():
        if frame.get("type") == "delta":
            times.append(now)
            if started and len(times) == 8:
                started.set()
    return times


def milliseconds(times):
    """The gaps between times, shortest first."""
    return sorted((later - sooner) * 1e3 for sooner, later in zip(times, times[1:]))


def round_of(daemon, tokens):
    """One round: the quiet 95th percentile, and the longest gap during a load."""
    # The first few gaps hold the prompt.
    quiet = milliseconds(gaps(daemon.connection(), tokens)[2:])
    p95 = quiet[(len(quiet) - 1) * 95 // 100]
    started = threading.Event()
    streamed = []
    stream = threading.Thread(
        target=lambda: streamed.extend(gaps(daemon.connection(), tokens, started))
    )
    stream.start()
    started.wait()
    begin = harness.time.monotonic()
    load = daemon.call("models.load", model="b")
    end = harness.time.monotonic()
    stream.join()
    daemon.call("models.unload", model="b")
    during = [
        (later - sooner) * 1e3
        for sooner, later in zip(streamed, streamed[1:])
        if later >= begin and sooner <= end
    ]
    if streamed[-1] < end:
        print(f"note: the stream ended {(end - streamed[-1]) * 1e3:.0f} ms before the load")
    during.sort()
    return quiet, p95, during, load["load_ms"]


def main():
    """Runs the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--bin", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--engine", help="for GGUF files that more than one engine runs")
    arguments = parser.parse_args()
    if len(arguments.models) not in (0, 2):
        parser.error("name two models, or none")
    models = dict(zip("ab", arguments.models)) or {
        "a": {"token_delay_ms": 20, "reply": "x" * 10_000},
        "b": {"allocate": True, "weight_bytes": 600 * MIB},
    }
    config = 'default_model = "a"\n' + harness.prefer(arguments.engine)
    daemon = harness.Daemon(arguments.bin or harness.default_bin(), models, config)
    ratios = []
    try:
        daemon.call("generate", model="a", prompt="Warm up.", max_tokens=8)
        for number in range(arguments.rounds):
            quiet, p95, during, load_ms = round_of(daemon, arguments.tokens)
            ratios.append(during[-1] / p95)
            print(
                f"round {number + 1}: quiet median {quiet[len(quiet) // 2]:.1f}, p95 {p95:.1f}, "
                f"max {quiet[-1]:.1f} ms; during a load of {load_ms:.0f} ms median "
                f"{during[len(during) // 2]:.1f}, max {during[-1]:.1f} ms: {ratios[-1]:.1f} x"
            )
    finally:
        daemon.stop()
    median = sorted(ratios)[len(ratios) // 2]
    print(f"longest gap / quiet p95: median {median:.1f}, worst {max(ratios):.1f}")
    sys.exit(0 if median <= 5 else 1)


if __name__ == "__main__":
    main()
