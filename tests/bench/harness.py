"""A daemon in a folder of its own, for measurements: its models, calls, streams and memory."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def default_bin():
    """The folder of the release binaries."""
    command = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    return pathlib.Path(json.loads(output)["target_directory"]) / "release"


def prefer(engine):
    """The lines of a configuration for a preferred engine, if there is one."""
    return f'[engine]\nprefer = "{engine}"\n' if engine else ""


class Daemon:
    """One daemon with the given models: a dictionary is a sim model's settings, anything else the
    path of a GGUF file or model folder."""

    def __init__(self, bin_dir, models, config=""):
        self.folder = tempfile.TemporaryDirectory(prefix="ingle-")
        home = pathlib.Path(self.folder.name)
        home.chmod(0o700)
        (home / "config.toml").write_text(config, encoding="utf-8")
        for name, model in models.items():
            place = home / "models" / name
            if isinstance(model, dict):
                place.mkdir(parents=True)
                settings = dict(model, model_type="sim")
                (place / "config.json").write_text(json.dumps(settings), encoding="utf-8")
            elif pathlib.Path(model).is_dir():
                place.parent.mkdir(exist_ok=True)
                place.symlink_to(pathlib.Path(model).resolve())
            else:
                place.mkdir(parents=True)
                (place / "model.gguf").symlink_to(pathlib.Path(model).resolve())
        self.process = subprocess.Popen(
            [bin_dir / "ingled", "serve", "--launched"],
            env=dict(os.environ, INGLE_HOME=str(home)),
            stdout=subprocess.PIPE,
        )
        report = json.loads(self.process.stdout.readline())
        if report["status"] != "ready":
            sys.exit(f"error: the daemon did not start: {report}")
        self.socket = str(home / "run" / "ingled.sock")
        self.main = Connection(self.socket)

    def call(self, method, **params):
        """One call on the main connection."""
        return self.main.call(method, **params)

    def connection(self):
        """One more connection."""
        return Connection(self.socket)

    def resident_bytes(self):
        """Resident memory now, counted page by page."""
        return self.proc_field("smaps_rollup", "Rss")

    def peak_bytes(self):
        """The most memory that has been resident."""
        return self.proc_field("status", "VmHWM")

    def proc_field(self, name, field):
        """Bytes of a line such as `Rss:  1234 kB`."""
        text = pathlib.Path(f"/proc/{self.process.pid}/{name}").read_text(encoding="utf-8")
        line = next(line for line in text.splitlines() if line.startswith(field + ":"))
        return int(line.split()[1]) * 1024

    def stop(self):
        """Ends the process and its folder."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.folder.cleanup()


class Connection:
    """One connection, one call at a time."""

    def __init__(self, path):
        stream = socket.socket(socket.AF_UNIX)
        stream.connect(path)
        self.stream = stream.makefile("rw", encoding="utf-8")

    def start(self, method, **params):
        """Sends a call."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self.stream.write(json.dumps(request) + "\n")
        self.stream.flush()

    def frames(self):
        """Every event with the time it came, and last the result; an error ends the program."""
        while True:
            frame = json.loads(self.stream.readline())
            now = time.monotonic()
            if "error" in frame:
                sys.exit(f"error: {frame['error']}")
            if "result" in frame:
                yield now, frame["result"]
                return
            yield now, frame["params"]["event"]

    def call(self, method, **params):
        """One call; its result."""
        self.start(method, **params)
        *_, (_, result) = self.frames()
        return result
