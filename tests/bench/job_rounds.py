#!/usr/bin/env python3
"""Two hundred jobs at once, with random times, ten times over: does each end as it must, and does
memory stay?

Half of the jobs have all the time they want and must end with their whole text; the others can never
make their limit and must end as timed out, with the text so far.

Usage:
    job_rounds.py [--bin DIR] [--rounds N] [--jobs N] [--seed N]

Exits with 1 when a job ended otherwise. Prints resident memory after each round.
"""

import argparse
import pathlib
import random
import sys

import harness

MIB = 1 << 20
QUICK = "0123456789" * 4


def ended(daemon, job):
    """The job's last word."""
    while True:
        reply = daemon.call("jobs.wait", id=job)
        if reply["status"] != "pending":
            return reply


def is_right(reply, is_quick):
    """Whether the job ended as it must."""
    if is_quick:
        return reply["job"]["status"] == "done" and reply["result"]["choices"][0]["text"] == QUICK
    details = (reply.get("error") or {}).get("details") or {}
    partial = (details.get("partial_result") or {}).get("text", "")
    return reply["job"]["status"] == "timed_out" and partial and set(partial) == {"x"}


def main():
    """Runs the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    models = {
        "quick": {"reply": QUICK, "token_delay_ms": 1},
        "slow": {"reply": "x" * 10_000, "token_delay_ms": 5},
    }
    config = 'default_model = "quick"\n[jobs]\nkeep_count = 500\n'
    daemon = harness.Daemon(arguments.bin or harness.default_bin(), models, config)
    wrong = 0
    try:
        for number in range(arguments.rounds):
            jobs = []
            for _ in range(arguments.jobs):
                is_quick = random.random() < 0.5
                work = {"prompt": "hi", "max_tokens": 100_000}
                work["model"] = "quick" if is_quick else "slow"
                timeout = "none" if is_quick else random.uniform(0.1, 0.4)
                created = daemon.call("jobs.create", work={"generate": work}, timeout_s=timeout)
                jobs.append((created["job"]["id"], is_quick))
            not_right = sum(not is_right(ended(daemon, job), quick) for job, quick in jobs)
            wrong += not_right
            resident = daemon.resident_bytes() / MIB
            print(f"round {number + 1}: {not_right} wrong, resident {resident:.1f} MiB", flush=True)
    finally:
        daemon.stop()
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
