"""MCP's own conformance suite, against `ingle mcp` behind supergateway, which makes HTTP of stdio.

The suite is written for a reference server of its own: most of its scenarios call a tool, prompt or
resource that only that server has. All are run all the same, for both revisions that it scores and
for the extensions that it does not, and `expected.json` says why which does not apply.

A scenario has passed if one of its own checks succeeded and none failed or warned; what only found
nothing to check is no success. One that a revision's requirements name and that did not run has
failed.
"""

import json
import os
import pathlib
import re
import socket
import subprocess
import threading

from scenario import CONTEXT, log, report

BIN = pathlib.Path(CONTEXT["modules"]) / ".bin"
REQUIREMENTS = (pathlib.Path(CONTEXT["modules"]) / "@modelcontextprotocol" / "conformance" /
                "requirements")
RESULTS = pathlib.Path(CONTEXT["home"]) / "conformance"

# Each revision with requirements of its own.
REVISIONS = ("2025-11-25", "2026-07-28")

# Scenarios that no revision's requirements name.
EXTENSIONS = ("sep-2640-skills-directory", "sep-2640-skills-enumeration",
              "sep-2640-skills-manifest")

# Seconds one revision may take; it is done in five.
LIMIT_S = 120

# The suite's check of every message on the wire, which runs beside each scenario's own.
WIRE = "wire-schema-valid"

# A folder of results: `server-NAME-TIME`.
FOLDER = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


def free_port():
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_gateway(port):
    """supergateway, once it says that it listens."""
    command = [BIN / "supergateway", "--stdio", f"{CONTEXT['ingle']} mcp", "--outputTransport",
               "streamableHttp", "--stateful", "--port", str(port)]
    gateway = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    said = []
    for line in gateway.stdout:
        said.append(line)
        if "Listening on port" in line:
            break
    else:
        raise RuntimeError(f"supergateway did not start: {''.join(said)}")
    return gateway


def conform(port, where, *options):
    """Runs the suite; its exit code says nothing that its files do not."""
    command = [BIN / "conformance", "server", "--url", f"http://localhost:{port}/mcp",
               "--output-dir", where, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False,
                          stdin=subprocess.DEVNULL)
    folders = sorted(where.glob("server-*"))
    if not folders:
        log(done.stdout + done.stderr)
        raise RuntimeError(f"no results for {where.name}")
    return folders


def judge(revision, folder):
    """Tells of one scenario."""
    name = FOLDER.fullmatch(folder.name)[1]
    checks = json.loads((folder / "checks.json").read_text(encoding="utf-8"))
    bad = [check for check in checks if check["status"] in ("FAILURE", "WARNING")]
    good = any(check["status"] == "SUCCESS" and check["id"] != WIRE for check in checks)
    if bad:
        words = "; ".join(f"{check['id']}: {check.get('errorMessage', '')}" for check in bad)
        report(f"{revision}/{name}", words, {check["id"] for check in bad})
    elif not good:
        report(f"{revision}/{name}", "found nothing to check", {"nothing checked"})
    else:
        report(f"{revision}/{name}")


def required(revision):
    """The scenarios for servers that a revision's requirements name, scored or not."""
    file = REQUIREMENTS / f"{revision}.yaml"
    text = file.read_text(encoding="utf-8")
    scored = re.search(r"^server:\n((?:  - .+\n|\s*#.*\n|\n)+)", text, re.MULTILINE)
    names = set(re.findall(r"^  - (\S+)", scored[1], re.MULTILINE))
    return names | set(re.findall(r"^  - scenario: (\S+)\n    leg: server$", text, re.MULTILINE))


def drain(gateway):
    """Reads what the gateway says, so that it is never held up; nobody needs it."""
    while os.read(gateway.stdout.fileno(), 65536):
        pass


def main():
    """Every scenario of each revision, then the extensions."""
    port = free_port()
    gateway = start_gateway(port)
    reader = threading.Thread(target=drain, args=(gateway,))
    reader.start()
    try:
        for revision in REVISIONS:
            folders = conform(port, RESULTS / revision, "--requirements", revision)
            for folder in folders:
                judge(revision, folder)
            ran = {FOLDER.fullmatch(folder.name)[1] for folder in folders}
            for name in sorted(required(revision) - ran):
                report(f"{revision}/{name}", "did not run", {"did not run"})
        for name in EXTENSIONS:
            for folder in conform(port, RESULTS / name, "--scenario", name):
                judge("extension", folder)
    finally:
        gateway.terminate()
        gateway.wait(30)
        reader.join()


main()
