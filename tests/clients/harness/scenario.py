"""What a suite tells the run that started it: each scenario by name, and how it went.

Imported by every suite, in every client's own environment: only the standard library is used.
A suite finds its surroundings in `CONTEXT` (see `main.py`).
"""

import asyncio
import json
import os
import sys
import traceback

CONTEXT = json.loads(os.environ["INGLE_CLIENTS_CONTEXT"])

# Seconds that a scenario may take when it does not say.
LIMIT_S = 30.0

# Characters of a detail that are kept.
DETAIL_CHARS = 2000


def expect(condition, what):
    """Fails the scenario unless the condition holds; `what` says what was expected and found."""
    if not condition:
        raise AssertionError(what)


def equal(found, wanted, what):
    """Fails the scenario unless both are the same."""
    expect(found == wanted, f"{what}: {found!r} instead of {wanted!r}")


class Raised:
    """What `raises` caught."""

    error = None


class raises:
    """A block that must raise one of these exceptions; `as` gives what holds it afterwards."""

    def __init__(self, *kinds):
        self.kinds = kinds
        self.caught = Raised()

    def __enter__(self):
        return self.caught

    def __exit__(self, kind, error, trace):
        names = " or ".join(kind.__name__ for kind in self.kinds)
        expect(error is not None, f"nothing was raised instead of {names}")
        if isinstance(error, self.kinds):
            self.caught.error = error
            return True
        return False


def report(name, error=None, checks=()):
    """Tells of one scenario that ran: `error` is why it failed, `checks` which parts of it did."""
    line = {"scenario": name, "failed": error is not None}
    if error is not None:
        line["detail"] = str(error)[:DETAIL_CHARS]
        line["checks"] = sorted(checks)
    with open(CONTEXT["report"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _words(error):
    """An exception as one line, the innermost of a group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    place = traceback.extract_tb(error.__traceback__)
    where = next((f" ({frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})"
                  for frame in reversed(place) if frame.filename.endswith("suite.py")), "")
    return f"{type(error).__name__}: {error}{where}"


def scenario(name, function, *arguments):
    """Runs one scenario. What it raises is its failure, and the next one runs all the same."""
    try:
        function(*arguments)
    except Exception as error:
        report(name, _words(error))
    else:
        report(name)


async def scenario_async(name, function, *arguments, limit_s=LIMIT_S):
    """The same for a coroutine function, within a limit."""
    try:
        await asyncio.wait_for(function(*arguments), limit_s)
    except asyncio.TimeoutError:
        report(name, f"not done after {limit_s:g} s")
    except Exception as error:
        report(name, _words(error))
    else:
        report(name)


def log(text):
    """A line for whoever reads the run's log."""
    print(text, file=sys.stderr, flush=True)
