"""schemathesis against the API's own description: no 5xx, and nothing that is not described.

Each operation is one scenario; its checks are the titles of what schemathesis found. One that it
passed over has failed, and so has the run if it knew of other operations than the description has.
"""

import json
import os
import pathlib
import subprocess
import sys
import urllib.request
from xml.etree import ElementTree

from scenario import CONTEXT, log, report

HERE = pathlib.Path(__file__).resolve().parent
HTTP = CONTEXT["http"]

# Requests that schemathesis makes up for each operation, besides those that the schema's own
# boundaries give.
EXAMPLES = 60

# Seconds it may take; about a third of it is usual.
LIMIT_S = 200

# Checks that do not suit this API.
EXCLUDED = [
    # A request that fits the schema can still be refused for what only the model knows.
    "positive_data_acceptance",
    # Members that the schema does not name are ignored, as OpenAI's clients expect.
    "negative_data_rejection",
]


# What a path of the description may hold beside its operations.
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


# schemathesis passes over where the description itself comes from; it reads that, and so does this.
OWN = {"GET /openapi.json"}


def operations(url):
    """The operations of the description, named as schemathesis does."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {HTTP['token']}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        paths = json.load(answer)["paths"]
    return {f"{method.upper()} {path}" for path, item in paths.items() for method in item
            if method in METHODS}


def main():
    """Runs it, and tells of each operation."""
    results = pathlib.Path(CONTEXT["home"]) / "junit.xml"
    base = HTTP["url"].removesuffix("/v1")
    command = [
        sys.executable, "-s", "-S", "-m", "schemathesis.cli", "run", f"{base}/openapi.json",
        "--url", base, "--header", f"Authorization: Bearer {HTTP['token']}",
        "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES),
        "--checks", "all", "--exclude-checks", ",".join(EXCLUDED), "--continue-on-failure",
        "--generation-deterministic", "--no-shrink",
        "--request-timeout", "20", "--report", "junit", "--report-junit-path", str(results),
        "--no-color", "--warnings", "off",
    ]
    environment = dict(os.environ, SCHEMATHESIS_HOOKS="hooks")
    environment["PYTHONPATH"] = f"{HERE}{os.pathsep}{os.environ['PYTHONPATH']}"
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=LIMIT_S, check=False, cwd=CONTEXT["home"])
    if not results.exists():
        log(done.stdout + done.stderr)
        raise RuntimeError(f"schemathesis ended with {done.returncode} and no results")
    ran = set()
    for case in ElementTree.parse(results).iter("testcase"):
        faults = [fault for kind in ("failure", "error") for fault in case.iter(kind)]
        checks = {check for fault in faults for check in fault.get("message", "").split(", ")}
        words = "\n".join(fault.text or "" for fault in faults).strip()
        for skipped in case.iter("skipped"):
            faults.append(skipped)
            checks.add("skipped")
            words = f"{words}\nskipped: {skipped.text or skipped.get('message')}".strip()
        report(case.get("name"), words if faults else None, checks - {""})
        ran.add(case.get("name"))
    described = operations(f"{base}/openapi.json")
    odd = sorted(described ^ (ran | OWN))
    fault = f"not both run and described: {odd}" if odd else None
    report("every operation that is described", fault)
    # What the operations do not show, such as a schema that cannot be read.
    if done.returncode not in (0, 1):
        log(done.stdout + done.stderr)
        report("schemathesis itself", f"ended with {done.returncode}")


main()
