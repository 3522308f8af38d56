"""A private home with a daemon in it, and what may not be left behind when it goes.

Owns the folder, the daemon's life and the search for stray processes. A process belongs to a home
if its environment says HOME is that folder: everything a suite starts inherits it.
"""

import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]

# Seconds a daemon has to be ready, and processes have to end when they should.
READY_LIMIT_S = 60
END_LIMIT_S = 10


class HomeFault(Exception):
    """A daemon that did not start."""


class Home:
    """A home folder with models and settings; a daemon runs in it from `start` to `close`."""

    def __init__(self, bin_dir, models, config):
        self.bin_dir = pathlib.Path(bin_dir)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ingle-"))
        self.ingle = self.folder / ".ingle"
        self.ingle.mkdir(mode=0o700)
        (self.ingle / "config.toml").write_text(config, encoding="utf-8")
        self.daemon = None
        for name, model in models.items():
            self._add(name, model)

    def _add(self, name, model):
        """A sim model from its settings, whose `template` names a file of the repository with its
        chat template; or a folder of the repository as `{"path": ...}`."""
        place = self.ingle / "models" / name
        if "path" in model:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(ROOT / model["path"])
        else:
            place.mkdir(parents=True)
            settings = dict(model, model_type="sim")
            if template := settings.pop("template", None):
                settings["chat_template"] = (ROOT / template).read_text(encoding="utf-8")
            (place / "config.json").write_text(json.dumps(settings), encoding="utf-8")

    def environment(self):
        """What a host gives the programs it starts: little."""
        path = os.environ.get("PATH", "/usr/bin:/bin")
        return {"HOME": str(self.folder), "PATH": path, "LANG": "C.UTF-8"}

    def start(self, *arguments):
        """Starts the daemon and waits for its report."""
        with open(self.folder / "daemon.log", "wb") as log:
            self.daemon = subprocess.Popen(
                [self.bin_dir / "ingled", "serve", "--launched", *arguments],
                env=self.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=log,
            )
        ready, _, _ = select.select([self.daemon.stdout], [], [], READY_LIMIT_S)
        line = self.daemon.stdout.readline() if ready else b""
        report = json.loads(line) if line.strip() else {}
        if report.get("status") != "ready":
            log = (self.folder / "daemon.log").read_text(encoding="utf-8", errors="replace")
            raise HomeFault(f"the daemon did not start: {report} {log}")

    def status(self):
        """`ingle status --json`."""
        output = subprocess.run(
            [self.bin_dir / "ingle", "status", "--json"], env=self.environment(),
            stdin=subprocess.DEVNULL, capture_output=True, timeout=READY_LIMIT_S, check=True,
        ).stdout
        return json.loads(output)

    def http(self):
        """Base URL, socket and token of HTTP, as the daemon tells them."""
        told = self.status().get("http", {})
        token = told.get("token_file")
        return {
            "socket": told.get("socket"),
            "url": told.get("url"),
            "token": pathlib.Path(token).read_text(encoding="utf-8").strip() if token else None,
        }

    def close(self):
        """Ends the daemon and removes the folder. Returns what else was still running in it."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.send_signal(signal.SIGTERM)
            try:
                self.daemon.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()
        strays = self._strays()
        shutil.rmtree(self.folder, ignore_errors=True)
        return strays

    def _strays(self):
        """Processes of this home that did not end by themselves; they are ended here."""
        give_up_at = time.monotonic() + END_LIMIT_S
        names = []
        for pid in self._processes():
            try:
                process = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                left = max(0, give_up_at - time.monotonic())
                if not select.select([process], [], [], left)[0]:
                    names.append(_name(pid))
                    signal.pidfd_send_signal(process, signal.SIGKILL)
            except OSError:
                pass
            finally:
                os.close(process)
        return names

    def _processes(self):
        """Ids of the processes that have this home. Known on Linux only."""
        marker = f"HOME={self.folder}".encode()
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if marker in environment.split(b"\0"):
                yield int(entry.name)


def _name(pid):
    """A process's command line."""
    try:
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return f"process {pid}"
    return b" ".join(words).decode(errors="replace").strip()
