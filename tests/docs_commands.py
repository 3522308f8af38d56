#!/usr/bin/env python3
"""Runs the code blocks of README and docs, so that they stay true.

Owns the extraction of fenced code blocks, a private home for each document, and the end of the
daemon in it. Does not know the commands: a block passes if its exit status is 0.

    python3 tests/docs_commands.py --bin target/debug --models DIR [DOCUMENT]...

The info string of a block decides:

- `sh` runs in bash, in the order of the document. Blocks of one document share a home, a working
  folder and their exported variables.
- `sh no-run` is not run: installers, services, downloads, interactive sessions.
- `json` and `toml` are parsed.
- `toml apply` also becomes the `config.toml` of the document's home, with port 0 in place of a
  fixed port, so that two runs do not collide.
- Any other block is only text.

DIR holds `smollm2` and `minilm` (INGLE_TEST_MODELS). The home has links to both. Python 3.11 or
later; standard library only.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/*.md", "examples/README.md")
MODELS = ("smollm2", "minilm")

# Seconds that one block may take, and that a daemon may take to stop.
BLOCK_LIMIT_S = 480
STOP_LIMIT_S = 20
# Lines of output that a failed block shows.
SHOWN_LINES = 30

FENCE = re.compile(r"^( {0,3})(`{3,})[ \t]*([^`]*)$")
# A fixed port in a setting; `port 0` takes any free one.
PORT = re.compile(r'^(\s*listen\s*=\s*"[^"]*:)\d+(")', re.MULTILINE)

# The block runs in this shell, so that what it exports reaches the next block. A block that fails
# anywhere, also inside a pipe, fails as a whole.
SCRIPT = """set -eo pipefail
trap 'status=$?; env -0 >"$DOCS_ENVIRONMENT"; exit $status' EXIT
. "$DOCS_BLOCK"
"""


class Block:
    """One fenced code block of a document."""

    def __init__(self, line, info, text):
        self.line = line
        self.words = info.split()
        self.text = text

    @property
    def language(self):
        return self.words[0] if self.words else ""

    @property
    def is_run(self):
        return self.language == "sh" and "no-run" not in self.words


def blocks_of(path):
    """Yields the code blocks of a document."""
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        opening = FENCE.match(line)
        if not opening:
            continue
        indent, fence, info = opening.groups()
        body = []
        for _, inner in lines:
            closing = FENCE.match(inner)
            if closing and not closing.group(3) and len(closing.group(2)) >= len(fence):
                break
            body.append(inner.removeprefix(indent))
        else:
            raise ValueError(f"line {number}: the code block is not closed")
        yield Block(number, info, "\n".join(body) + "\n")


class Home:
    """A private home with links to the models. Its daemon is stopped when it closes."""

    def __init__(self, bin_dir, models):
        # Short, because the path of a socket has about 100 bytes at most.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ingle-docs-"))
        self.ingle = self.folder / ".ingle"
        (self.ingle / "models").mkdir(mode=0o700, parents=True)
        self.ingle.chmod(0o700)
        self.work = self.folder / "work"
        self.work.mkdir()
        for name in MODELS:
            (self.ingle / "models" / name).symlink_to(models / name)
        self.bin_dir = bin_dir
        path = os.environ.get("PATH", "/usr/bin:/bin")
        self.environment = {
            "HOME": str(self.folder),
            "INGLE_HOME": str(self.ingle),
            "LANG": "C.UTF-8",
            "PATH": f"{bin_dir}:{path}",
            "TMPDIR": str(self.work),
        }

    def run(self, block):
        """Runs a block. Returns None, or the reason why it failed."""
        state = self.folder / "environment"
        state.unlink(missing_ok=True)
        script = self.folder / "block.sh"
        script.write_text(block.text, encoding="utf-8")
        output = self.folder / "output"
        environment = dict(
            self.environment, DOCS_ENVIRONMENT=str(state), DOCS_BLOCK=str(script)
        )
        # Output goes to a file: a daemon that a block started may keep a pipe open. The new
        # session lets a block that takes too long be ended with everything it started.
        with open(output, "wb") as sink:
            process = subprocess.Popen(
                ["bash", "-c", SCRIPT], cwd=self.work, env=environment,
                stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(BLOCK_LIMIT_S)
                reason = f"exit status {status}"
            except subprocess.TimeoutExpired:
                status, reason = None, f"not finished after {BLOCK_LIMIT_S} s"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if status == 0:
            self._keep_environment(state)
            return None
        shown = output.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([reason, *(f"  | {line}" for line in shown[-SHOWN_LINES:])])

    def _keep_environment(self, state):
        kept = {}
        for entry in state.read_bytes().split(b"\0"):
            name, equals, value = entry.partition(b"=")
            if equals:
                kept[os.fsdecode(name)] = os.fsdecode(value)
        for name in ("DOCS_ENVIRONMENT", "DOCS_BLOCK", "SHLVL", "OLDPWD", "PWD", "_"):
            kept.pop(name, None)
        self.environment = kept

    def configure(self, text):
        """Writes the settings, which the next daemon reads."""
        (self.ingle / "config.toml").write_text(PORT.sub(r"\g<1>0\2", text), encoding="utf-8")

    def close(self):
        """Stops the daemon, whatever happened, and removes the folder."""
        try:
            pid = self._daemon()
            if pid is None:
                return
            try:
                subprocess.run(
                    [self.bin_dir / "ingle", "stop", "--now"], env=self._plain_environment(),
                    stdin=subprocess.DEVNULL, capture_output=True, timeout=STOP_LIMIT_S,
                )
            except (OSError, subprocess.TimeoutExpired):
                pass
            limit = time.monotonic() + STOP_LIMIT_S
            while self._daemon() == pid:
                if time.monotonic() > limit:
                    os.kill(pid, signal.SIGKILL)
                    break
                time.sleep(0.1)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _plain_environment(self):
        return {
            "HOME": str(self.folder), "INGLE_HOME": str(self.ingle),
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        }

    def _daemon(self):
        """The process id of the daemon in this home, or None. Asks the socket itself, so that
        the answer does not depend on the commands under test."""
        request = b'{"jsonrpc":"2.0","id":1,"method":"status"}\n'
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(STOP_LIMIT_S)
                client.connect(str(self.ingle / "run" / "ingled.sock"))
                client.sendall(request)
                with client.makefile("rb") as replies:
                    return json.loads(replies.readline())["result"]["pid"]
        except (OSError, ValueError, KeyError):
            return None


def check(path, bin_dir, models):
    """Runs the blocks of one document. Returns (blocks run, blocks parsed, failures)."""
    ran = parsed = 0
    failures = []
    home = None
    try:
        for block in blocks_of(path):
            reason = None
            try:
                if block.language == "json":
                    json.loads(block.text)
                    parsed += 1
                elif block.language == "toml":
                    tomllib.loads(block.text)
                    parsed += 1
            except ValueError as error:
                reason = f"not valid {block.language}: {error}"
            applies = block.language == "toml" and "apply" in block.words
            if reason is None and (block.is_run or applies):
                home = home or Home(bin_dir, models)
                if applies:
                    home.configure(block.text)
                else:
                    ran += 1
                    reason = home.run(block)
            if reason is not None:
                failures.append(f"{path.relative_to(ROOT)}:{block.line}: {reason}")
    except ValueError as error:
        failures.append(f"{path.relative_to(ROOT)}: {error}")
    finally:
        if home is not None:
            home.close()
    return ran, parsed, failures


def main():
    parser = argparse.ArgumentParser(description="Runs the code blocks of README and docs.")
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of the binaries")
    parser.add_argument(
        "--models", type=pathlib.Path, default=os.environ.get("INGLE_TEST_MODELS"),
        help="folder with smollm2 and minilm; default: INGLE_TEST_MODELS",
    )
    parser.add_argument("documents", nargs="*", type=pathlib.Path, help="default: all")
    arguments = parser.parse_args()
    bin_dir = arguments.bin.resolve()
    for name in ("ingle", "ingled"):
        if not (bin_dir / name).is_file():
            sys.exit(f"{bin_dir} has no {name}; build it with `cargo build --bins`")
    if arguments.models is None:
        sys.exit("no models: use --models DIR or set INGLE_TEST_MODELS; ./test fetches them")
    models = pathlib.Path(arguments.models).resolve()
    for name in MODELS:
        if not (models / name).is_dir():
            sys.exit(f"{models} has no {name}; `./test` fetches it")
    documents = [path.resolve() for path in arguments.documents]
    if not documents:
        documents = sorted(path for pattern in DOCUMENTS for path in ROOT.glob(pattern))

    # A signal becomes an exception, so that the daemon is stopped then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    total = 0
    failures = []
    for path in documents:
        begun = time.monotonic()
        ran, parsed, failed = check(path, bin_dir, models)
        total += ran + parsed
        failures += failed
        print(
            f"{path.relative_to(ROOT)}: {ran} run, {parsed} parsed, {len(failed)} failed,"
            f" {time.monotonic() - begun:.1f} s", flush=True,
        )
    if failures:
        print("\n".join(failures))
        sys.exit(f"{len(failures)} code blocks failed")
    print(f"{total} code blocks are sound")


if __name__ == "__main__":
    main()
