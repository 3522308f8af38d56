#!/usr/bin/env python3
"""Runs the code blocks of the documents, as a reader would.

Owns which blocks run and their surroundings. Knows no command of Ingle but `stop`.

    python3 tests/docs_commands.py --bin target/debug --models DIR [DOCUMENT]...

DIR holds the models `smollm2` and `minilm`. The documents are README.md and docs/*.md, or those that
are named. In each document, in order:

- a block `sh` runs with bash; it fails with its first command that fails;
- a block `sh no-run` does not run: it needs a network, a terminal or another program;
- blocks `json` and `toml` are parsed;
- a block `toml apply` also becomes config.toml, with every port replaced by 0, so that documents may
  show a fixed one.

Each document has an Ingle folder, a home and a working folder of its own, and its daemon is stopped
at the end, whatever happens.
"""

import argparse
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ("ingle", "ingled")
# Variables that pass to the commands. None of Ingle's own: a reader starts without them.
PASSED = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")


class Failure(Exception):
    """A block that does not do what the document promises."""


def main():
    """The command."""
    signal.signal(signal.SIGTERM, end)
    arguments = parse()
    bin_dir = arguments.bin.resolve()
    for program in PROGRAMS:
        if not (bin_dir / program).is_file():
            sys.exit(f"error: `{bin_dir / program}` is not built\nhint: run cargo build --bins")
    failures, ran = [], 0
    for path in arguments.documents or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        started = time.monotonic()
        count, failure = run_document(path.resolve(), bin_dir, arguments)
        ran += count
        seconds = time.monotonic() - started
        print(f"{path.name}: {failure or f'{count} blocks'} ({seconds:.0f} s)", flush=True)
        if failure:
            failures.append(path.name)
    if failures:
        sys.exit(f"error: the code of {', '.join(failures)} does not work")
    print(f"{ran} blocks of the documents work")


def end(_signal, _frame):
    """Ends the run as an exception does, so that daemons and folders go."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit("error: ended by SIGTERM")


def parse():
    """The command line."""
    parser = argparse.ArgumentParser(description="Runs the code blocks of the documents.")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target" / "debug",
                        help="folder of ingle and ingled (default: target/debug)")
    parser.add_argument("--models", type=pathlib.Path, required=True,
                        help="folder with the models smollm2 and minilm")
    parser.add_argument("--timeout", type=float, default=480.0,
                        help="seconds that one block may take (default: 480)")
    parser.add_argument("documents", nargs="*", type=pathlib.Path, metavar="DOCUMENT")
    return parser.parse_args()


def run_document(path, bin_dir, arguments):
    """Runs one document. Gives the number of blocks that worked, and the failure if there is one."""
    # A short path: a socket's path has some hundred bytes at most.
    home = pathlib.Path(tempfile.mkdtemp(prefix="ingle-docs-"))
    environment = {name: os.environ[name] for name in PASSED if name in os.environ}
    environment |= {
        "HOME": str(home),
        "INGLE_HOME": str(home / "ingle"),
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
    }
    count = 0
    try:
        models = home / "ingle" / "models"
        models.mkdir(parents=True)
        models.parent.chmod(0o700)
        for model in sorted(arguments.models.resolve().iterdir()):
            (models / model.name).symlink_to(model)
        (home / "work").mkdir()
        for line, kind, text in blocks(path.read_text(encoding="utf-8")):
            try:
                count += run_block(kind, text, home, environment, arguments.timeout)
            except Failure as failure:
                return count, f"line {line}: {failure}"
    finally:
        stop(home / "ingle", bin_dir, environment)
        shutil.rmtree(home, ignore_errors=True)
    return count, None


def blocks(text):
    """Yields line, kind and text of every fenced code block."""
    pattern = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for block in pattern.finditer(text):
        yield text.count("\n", 0, block.start()) + 1, block.group(1).strip(), block.group(2)


def run_block(kind, text, home, environment, timeout):
    """Runs or parses one block. Gives 1 for a block that was checked, otherwise 0."""
    match kind:
        case "sh":
            run_shell(text, home / "work", environment, timeout)
        case "json":
            try:
                json.loads(text)
            except ValueError as error:
                raise Failure(f"no JSON: {error}") from error
        case "toml" | "toml apply":
            try:
                tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                raise Failure(f"no TOML: {error}") from error
            if kind == "toml apply":
                text = re.sub(r'^(listen = "[^"]*):\d+"', r'\1:0"', text, flags=re.MULTILINE)
                (home / "ingle" / "config.toml").write_text(text, encoding="utf-8")
        case "sh no-run" | "text" | "yaml":
            return 0
        case other:
            raise Failure(f"a block of the unknown kind `{other}`")
    return 1


def run_shell(text, folder, environment, timeout):
    """Runs one block with bash."""
    # A file and not a pipe: a program left behind must not keep this waiting.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            status = process.wait(timeout)
            outcome = f"exit code {status}"
        except subprocess.TimeoutExpired:
            status, outcome = None, f"not finished after {timeout:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status != 0:
            output.seek(0)
            shown = output.read().decode("utf-8", "replace")[-2_000:]
            raise Failure(f"{outcome}\n{text}---\n{shown}")


def stop(ingle_home, bin_dir, environment):
    """Ends the daemon of this folder, if there is one: asked first, then by a signal."""
    if not (ingle_home / "run" / "ingled.lock").exists():
        return
    try:
        subprocess.run([bin_dir / "ingle", "stop", "--now"], env=environment, timeout=20, check=False,
                       stdin=subprocess.DEVNULL, capture_output=True)
    except (OSError, subprocess.TimeoutExpired):
        pass
    try:
        with open(ingle_home / "run" / "ingled.lock", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # The daemon holds its lock for life, and the file has its process id.
                os.kill(int(lock.read()), signal.SIGKILL)
    except (OSError, ValueError):
        pass


if __name__ == "__main__":
    main()
