#!/usr/bin/env python3
"""What `ingle mcp` takes: there is one for every host and every editor window.

Starts a daemon and, beside it, `ingle mcp` again and again. Measures the file, the memory that is
resident once the handshake is answered, and the time from spawn to the answer's first byte.

Usage:
    cargo build --profile shim -p ingle && cargo build --release -p ingled
    shim_size.py [--shim FILE] [--bin DIR] [--rounds N]

Prints one JSON object; exits with 1 if the file has 8 MiB or 5 MiB are resident. Needs Linux's /proc.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from harness import Daemon, default_bin

FILE_LIMIT_BYTES = 8 << 20
RESIDENT_LIMIT_BYTES = 5 << 20

HANDSHAKE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "shim_size", "version": "1"},
    },
}


def memory(pid):
    """Resident bytes, and how many of them are the process's own."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))


def one(shim, home):
    """One session: seconds to the first byte, and the memory."""
    begun = time.perf_counter()
    process = subprocess.Popen([shim, "mcp"], env=dict(os.environ, INGLE_HOME=home),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(json.dumps(HANDSHAKE).encode() + b"\n")
    process.stdin.flush()
    first = process.stdout.read(1)
    elapsed = time.perf_counter() - begun
    answer = json.loads(first + process.stdout.readline())
    if "result" not in answer:
        sys.exit(f"error: {answer}")
    found = memory(process.pid)
    process.stdin.close()
    process.wait()
    return elapsed, *found


def main():
    """Measures, prints, and compares with the limits."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shim", type=pathlib.Path, help="the `ingle` to measure")
    parser.add_argument("--bin", type=pathlib.Path, help="the folder of `ingled`")
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    bin_dir = arguments.bin or default_bin()
    shim = arguments.shim or default_bin().parent / "shim" / "ingle"
    daemon = Daemon(bin_dir, {})
    try:
        # The first one reads the file from disk.
        one(shim, daemon.folder.name)
        rounds = [one(shim, daemon.folder.name) for _ in range(arguments.rounds)]
    finally:
        daemon.stop()
    seconds, resident, own = zip(*rounds)
    figures = {
        "file_bytes": shim.stat().st_size,
        "resident_bytes": max(resident),
        "own_bytes": max(own),
        "first_byte_ms_median": round(statistics.median(seconds) * 1e3, 2),
    }
    print(json.dumps(figures, indent=2))
    limits = {"file_bytes": FILE_LIMIT_BYTES, "resident_bytes": RESIDENT_LIMIT_BYTES}
    over = [name for name, limit in limits.items() if figures[name] >= limit]
    if over:
        sys.exit(f"error: over the limit: {', '.join(f'{name} {limits[name]}' for name in over)}")


if __name__ == "__main__":
    main()
