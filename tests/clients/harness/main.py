"""Runs the suites of real clients, compares with what is expected, and prints a table.

Owns the command line, each suite's surroundings and the verdict. A suite is a folder beside this
one with

- `suite.toml`: its purpose, its limit, the models and settings of its daemon;
- `suite.py`: the scenarios; it reports them through `scenario.py`;
- `requirements.txt` or `package-lock.json`: its client, pinned;
- `expected.json`, where needed: every scenario that does not pass, with the reason, and whether
  that is because it does not apply or because of a fault. Anything else than what is written there
  fails the run, a scenario that begins to pass included.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import tomllib

from environments import EnvironmentFault, Environments
from home import ROOT, Home, HomeFault

SUITES = pathlib.Path(__file__).resolve().parent.parent
HARNESS = pathlib.Path(__file__).resolve().parent

# What a line of the expected table may say.
KINDS = ("not applicable", "fault")


def main():
    """The command."""
    signal.signal(signal.SIGTERM, end)
    arguments = parse()
    folders = {path.parent.name: path.parent for path in sorted(SUITES.glob("*/suite.toml"))}
    unknown = [name for name in arguments.suites if name not in folders]
    if unknown:
        sys.exit(f"error: no suite `{unknown[0]}`\nhint: one of {', '.join(folders)}")
    bin_dir = (arguments.bin or default_bin()).resolve()
    for program in ("ingle", "ingled"):
        if not (bin_dir / program).is_file():
            sys.exit(f"error: `{bin_dir / program}` is not built\n"
                     "hint: run ./test, or name the folder of the binaries with --bin")
    environments = Environments(pathlib.Path(os.environ["INGLE_CACHE_DIR"]) / "clients")
    results = []
    for name in arguments.suites or folders:
        results.append(run_suite(name, folders[name], bin_dir, environments, arguments))
    print_table(results)
    if arguments.json:
        text = json.dumps({"suites": results}, indent=2) + "\n"
        pathlib.Path(arguments.json).write_text(text, encoding="utf-8")
    sys.exit(any(result["unexplained"] for result in results))


def end(_signal, _frame):
    """Ends the run as an exception does: daemons and folders go. Once is enough."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def parse():
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="tests/clients/run",
        description="Runs other people's clients against the binaries that were built: each in "
        "an environment of its own, which is fetched into the cache folder once, and against a "
        "daemon of its own in a private home. Fails if a scenario does anything else than pass or "
        "what the suite's expected.json explains.",
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="suites to run; all by default")
    parser.add_argument("--bin", type=pathlib.Path, metavar="DIR",
                        help="folder of the binaries; by default that of `cargo build`")
    parser.add_argument("--json", metavar="FILE", help="write every scenario's outcome to FILE")
    parser.add_argument("--fetch", action="store_true", help="only fetch the environments")
    parser.add_argument("--verbose", action="store_true", help="name each scenario")
    return parser.parse_args()


def default_bin():
    """The folder of the binaries of the development profile."""
    command = ["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    return pathlib.Path(json.loads(output)["target_directory"]) / "debug"


def run_suite(name, folder, bin_dir, environments, arguments):
    """One suite with its daemon: its scenarios, compared with the expected table."""
    settings = tomllib.loads((folder / "suite.toml").read_text(encoding="utf-8"))
    result = {"suite": name, "purpose": settings["purpose"], "seconds": 0.0, "scenarios": [],
              "passed": 0, "explained": 0, "unexplained": []}
    try:
        surroundings = prepare(name, folder, environments)
    except EnvironmentFault as fault:
        result["unexplained"].append(str(fault))
        return result
    if arguments.fetch:
        return result
    begun_at = time.monotonic()
    print(f"==> {name}: {settings['purpose']}", file=sys.stderr, flush=True)
    home = Home(bin_dir, settings.get("models", {}), settings.get("config", ""))
    try:
        home.start(*settings.get("serve", []))
        fault = run_program(folder, home, surroundings, settings["limit_s"])
        if fault:
            result["unexplained"].append(fault)
        if home.daemon.poll() is not None:
            result["unexplained"].append(f"the daemon ended: {home.daemon.returncode}")
        result["scenarios"], faults = read_report(home)
        result["unexplained"] += faults
    except HomeFault as fault:
        result["unexplained"].append(str(fault))
    finally:
        strays = home.close()
    result["unexplained"] += [f"left running: {stray}" for stray in strays]
    judge(result, read_expected(folder), arguments.verbose)
    result["seconds"] = round(time.monotonic() - begun_at, 1)
    return result


def prepare(name, folder, environments):
    """The variables that make a suite find its client."""
    surroundings = {"PYTHONPATH": [str(HARNESS)], "node": None, "modules": None}
    if (folder / "requirements.txt").exists():
        made = environments.python(name, folder / "requirements.txt")
        surroundings["PYTHONPATH"].append(str(made))
    if (folder / "package-lock.json").exists():
        surroundings["node"] = str(environments.node() / "bin")
        surroundings["modules"] = str(environments.npm(name, folder) / "node_modules")
    return surroundings


def run_program(folder, home, surroundings, limit_s):
    """Runs `suite.py` to its end. Returns what went wrong with it as a whole, if anything did."""
    environment = home.environment()
    environment["PYTHONPATH"] = os.pathsep.join(surroundings["PYTHONPATH"])
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    if surroundings["node"]:
        environment["PATH"] = f"{surroundings['node']}:{environment['PATH']}"
    environment["INGLE_CLIENTS_CONTEXT"] = json.dumps({
        "report": str(home.folder / "report"),
        "home": str(home.folder),
        "ingle": str(home.bin_dir / "ingle"),
        "ingled": str(home.bin_dir / "ingled"),
        "path": home.environment()["PATH"],
        "modules": surroundings["modules"],
        "http": home.http(),
    })
    # -S keeps the packages of this machine's own Python out.
    process = subprocess.Popen([sys.executable, "-s", "-S", folder / "suite.py"], env=environment,
                               stdin=subprocess.DEVNULL, cwd=home.folder, start_new_session=True)
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        end_group(process)
        return f"not done after {limit_s} s"
    except BaseException:
        end_group(process)
        raise
    return None if status == 0 else f"suite.py ended with {status}"


def end_group(process):
    """Ends a suite that has not ended, with what it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def read_report(home):
    """What the suite has told, and what is wrong with that: one that was killed may have been in
    the middle of its last line."""
    report = home.folder / "report"
    if not report.exists():
        return [], []
    lines = report.read_text(encoding="utf-8", errors="replace").splitlines()
    told = []
    for number, line in enumerate(lines, 1):
        try:
            told.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise
            return told, [f"the last line of its report is cut off: {line[:200]}"]
    return told, []


def read_expected(folder):
    """The scenarios that are known not to pass."""
    file = folder / "expected.json"
    if not file.exists():
        return {}
    table = json.loads(file.read_text(encoding="utf-8"))
    for name, entry in table.items():
        if entry.get("because") not in KINDS or not entry.get("reason"):
            sys.exit(f"error: {file}: `{name}` has no reason, or is none of {', '.join(KINDS)}")
    return table


def judge(result, expected, verbose):
    """Counts, and notes what nobody explained."""
    if not result["scenarios"]:
        result["unexplained"].append("no scenario ran")
    for line in result["scenarios"]:
        name, entry = line["scenario"], expected.get(line["scenario"])
        if not line["failed"]:
            result["passed"] += 1
            line["outcome"] = "passed"
            if entry:
                result["unexplained"].append(
                    f"{name}: passes now; take it out of expected.json")
        elif entry and entry.get("checks", line["checks"]) == line["checks"]:
            result["explained"] += 1
            line["outcome"], line["reason"] = entry["because"], entry["reason"]
        else:
            line["outcome"] = "failed"
            checks = f" {line['checks']}" if line["checks"] else ""
            result["unexplained"].append(f"{name}{checks}: {line['detail']}")
        if verbose:
            print(f"    {line['outcome']:16} {name}", file=sys.stderr)
    ran = {line["scenario"] for line in result["scenarios"]}
    for name in expected.keys() - ran:
        result["unexplained"].append(f"{name}: is in expected.json and did not run")


def print_table(results):
    """The figures, and then everything that nobody explained."""
    head = ("suite", "run", "passed", "not applicable", "faults", "unexplained", "s")
    rows = [head]
    for result in results:
        outcomes = [line.get("outcome") for line in result["scenarios"]]
        rows.append((result["suite"], len(outcomes), result["passed"],
                     outcomes.count("not applicable"), outcomes.count("fault"),
                     len(result["unexplained"]), result["seconds"]))
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(head))]
    for row in rows:
        cells = [str(cell).rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([str(row[0]).ljust(widths[0]), *cells[1:]]))
    for result in results:
        for line in result["unexplained"]:
            print(f"\n{result['suite']}: {line}")


if __name__ == "__main__":
    main()
