#!/usr/bin/env python3
"""Random JSON schemas at a high temperature: is what comes out valid, and what does it cost?

Makes schemas of bounded size from a seed, has a model answer each at temperature 1.5 with the schema
enforced, and validates every text that came to its end with `jsonschema`. Each answer is followed by
one of as many tokens from the same prompt without a schema, so that both rates are of one run.

Usage:
    cargo build --release --bins
    json_schemas.py --model MODEL [--engine gguf|mlx] [--schemas N] [--seed N] [--show]

Needs the package `jsonschema`. Prints one JSON object; exits with 1 if a finished text is not valid,
or a schema is refused.
"""

import argparse
import json
import pathlib
import random
import sys

import jsonschema

from harness import Daemon, default_bin, prefer

TEMPERATURE = 1.5
MAX_TOKENS = 300
# It does not name the schema: that is for the mask to see to, and the prompt is read once.
PROMPT = "Make up some data about a hearth and its family, as JSON."
WORDS = ["ash", "birch", "coal", "ember", "flame", "hearth", "iron", "kindle", "oak", "smoke"]
PATTERNS = [
    r"^[A-Z][a-z]{2,6}$",
    r"^\d{4}-(0[1-9]|1[0-2])$",
    r"^(red|green|blue)( (light|dark))?$",
    r"^[a-f0-9]{8}$",
    r"^[^@ ]{1,8}@[a-z]{2,8}\.(org|com)$",
    r"^\+?[1-9][0-9]{3,8}$",
    r"^v\d+\.\d+(-rc[1-9])?$",
]
FORMATS = ["date", "date-time", "time", "uuid", "ipv4", "email"]


class Schemas:
    """Random schemas. Each has a value, and hardly any is without an end."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.definitions = {}

    def one(self):
        """A whole schema."""
        self.definitions = {}
        if self.random.random() < 0.25:
            leaf = self.scalar()
            child = {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}
            self.definitions["node"] = {
                "type": "object",
                "properties": {"value": leaf, "children": child},
                "required": ["value"],
                "additionalProperties": False,
            }
        if self.random.random() < 0.25:
            self.definitions["shared"] = self.scalar()
        kinds = [self.object] * 7 + [self.array] * 2 + [self.any_of]
        schema = dict(self.random.choice(kinds)(3))
        if self.definitions:
            schema["$defs"] = self.definitions
        return schema

    def schema(self, depth):
        """A schema that nests `depth` deep at most."""
        draw = self.random.random()
        if self.definitions and draw < 0.15:
            return {"$ref": "#/$defs/" + self.random.choice(sorted(self.definitions))}
        if depth <= 0 or draw < 0.6:
            return self.scalar()
        return self.random.choice([self.object, self.object, self.array, self.any_of])(depth - 1)

    def scalar(self):
        """A schema of something without parts."""
        kinds = [self.string] * 4 + [self.integer] * 2 + [self.number] * 2 + [self.enum] * 2
        schema = self.random.choice([*kinds, self.constant, lambda: {"type": "boolean"}])()
        if isinstance(schema.get("type"), str) and self.random.random() < 0.15:
            schema["type"] = [schema["type"], "null"]
        return schema

    def string(self):
        """Texts by pattern, by format, by length, or any."""
        draw = self.random.random()
        if draw < 0.25:
            return {"type": "string", "pattern": self.random.choice(PATTERNS)}
        if draw < 0.4:
            return {"type": "string", "format": self.random.choice(FORMATS)}
        if draw < 0.95:
            least = self.random.randint(0, 6)
            most = least + self.random.randint(1, 20)
            return {"type": "string", "minLength": least, "maxLength": most}
        return {"type": "string"}

    def integer(self):
        """Whole numbers with and without bounds."""
        schema = {"type": "integer"}
        least = self.random.randint(-1_000, 1_000)
        if self.random.random() < 0.8:
            schema[self.random.choice(["minimum", "exclusiveMinimum"])] = least
        if self.random.random() < 0.8:
            most = least + self.random.randint(2, 100_000)
            schema[self.random.choice(["maximum", "exclusiveMaximum"])] = most
        if self.random.random() < 0.15:
            schema = {"type": "integer", "multipleOf": self.random.choice([2, 5, 7, 10])}
        return schema

    def number(self):
        """Numbers with and without bounds."""
        schema = {"type": "number"}
        least = round(self.random.uniform(-100, 100), self.random.randint(0, 3))
        if self.random.random() < 0.8:
            schema["minimum"] = least
        if self.random.random() < 0.8:
            schema["maximum"] = least + round(self.random.uniform(1, 1_000), 2)
        return schema

    def enum(self):
        """One of several constants of any kind."""
        pool = [*self.random.sample(WORDS, 4), 7, -1.5, None, True, {"a": [1]}, "ä\"\\\n"]
        return {"enum": self.random.sample(pool, self.random.randint(1, 5))}

    def constant(self):
        """One constant."""
        return {"const": self.random.choice([*WORDS, 12, None, False, ["x", 1]])}

    def array(self, depth):
        """Lists, some of which begin with items of their own kinds."""
        schema = {"type": "array", "items": self.schema(depth)}
        least = self.random.randint(0, 2)
        schema["minItems"] = least
        schema["maxItems"] = least + self.random.randint(0, 3)
        if self.random.random() < 0.2:
            count = self.random.randint(1, 2)
            schema["prefixItems"] = [self.schema(depth - 1) for _ in range(count)]
            schema["maxItems"] = max(schema["maxItems"], count)
        return schema

    def any_of(self, depth):
        """One of a few kinds."""
        return {"anyOf": [self.schema(depth) for _ in range(self.random.randint(2, 3))]}

    def object(self, depth):
        """Objects, closed or open, with some of their members required."""
        names = self.random.sample(WORDS, self.random.randint(1, 5))
        properties = {name: self.schema(depth) for name in names}
        schema = {"type": "object", "properties": properties}
        schema["required"] = [name for name in names if self.random.random() < 0.7]
        draw = self.random.random()
        if draw < 0.75:
            schema["additionalProperties"] = False
        elif draw < 0.9:
            schema["additionalProperties"] = self.scalar()
        return schema


class Rates:
    """Tokens and the time they took."""

    def __init__(self):
        self.tokens = 0
        self.decode_ms = 0.0
        self.mask_ms = 0.0
        self.mask_wait_ms = 0.0

    def add(self, result):
        """One answer's figures; the first token is the prompt's."""
        timings = result["timings"]
        tokens = result["usage"]["completion_tokens"] - 1
        if tokens <= 0 or timings["decode_tokens_per_s"] <= 0:
            return
        self.tokens += tokens
        self.decode_ms += tokens / timings["decode_tokens_per_s"] * 1e3
        self.mask_ms += timings.get("mask_ms", 0.0)
        self.mask_wait_ms += timings.get("mask_wait_ms", 0.0)

    def per_second(self):
        """Tokens a second."""
        return self.tokens / self.decode_ms * 1e3 if self.decode_ms else 0.0


def parse_arguments():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=pathlib.Path, help="a GGUF file or folder")
    parser.add_argument("--engine", choices=["gguf", "mlx"])
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--bin", type=pathlib.Path, help="the folder of the release binaries")
    parser.add_argument("--show", action="store_true", help="print every schema and text")
    return parser.parse_args()


def ask(connection, **params):
    """One call; the result, or the error's message."""
    connection.start("generate", **params)
    reply = json.loads(connection.stream.readline())
    return reply.get("result"), reply.get("error", {}).get("message")


def problem_of(text, schema):
    """What is wrong with a text, or None."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"no JSON: {error}"
    try:
        jsonschema.Draft202012Validator(schema).validate(value)
    except jsonschema.ValidationError as error:
        return error.message
    return None


def misses_format(text, schema):
    """Whether a valid text has a `format` that the checker doubts, as the 31st of April. The standard
    has formats for an annotation."""
    kind = jsonschema.Draft202012Validator
    return not kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(json.loads(text))


def main():
    """Runs all schemas and prints the figures."""
    arguments = parse_arguments()
    schemas = Schemas(arguments.seed)
    bin_dir = arguments.bin or default_bin()
    daemon = Daemon(bin_dir, {"bench": arguments.model}, prefer(arguments.engine))
    held, free = Rates(), Rates()
    counts = {"finished": 0, "valid": 0, "cut": 0, "refused": 0, "doubtful_formats": 0}
    problems, compile_ms = [], []
    try:
        connection = daemon.connection()
        ask(connection, model="bench", prompt="Warm up.", max_tokens=8)
        ask(connection, model="bench", prompt="Warm up.", format={"type": "json_object"})
        for number in range(arguments.schemas):
            schema = schemas.one()
            jsonschema.Draft202012Validator.check_schema(schema)
            common = {
                "model": "bench",
                "messages": [{"role": "user", "content": PROMPT}],
                "temperature": TEMPERATURE,
                "seed": number,
            }
            form = {"type": "json_schema", "schema": schema}
            result, error = ask(connection, **common, max_tokens=MAX_TOKENS, format=form)
            if arguments.show:
                print(json.dumps(schema), "\n ", error or result["choices"][0]["text"], file=sys.stderr)
            if error:
                counts["refused"] += 1
                problems.append({"schema": schema, "refused": error})
                continue
            held.add(result)
            compile_ms.append(result["timings"]["queue_ms"])
            choice = result["choices"][0]
            if choice["finish_reason"] == "stop":
                counts["finished"] += 1
                text = choice["text"]
                problem = problem_of(text, schema)
                if problem is None:
                    counts["valid"] += 1
                    counts["doubtful_formats"] += misses_format(text, schema)
                else:
                    problems.append({"schema": schema, "text": text, "problem": problem})
            else:
                counts["cut"] += 1
            tokens = result["usage"]["completion_tokens"]
            other, error = ask(connection, **common, max_tokens=tokens, ignore_eos=True)
            if error:
                sys.exit(f"error: {error}")
            free.add(other)
        peak = daemon.peak_bytes()
    finally:
        daemon.stop()
    compile_ms.sort()
    print(
        json.dumps(
            {
                "engine": arguments.engine,
                "schemas": arguments.schemas,
                **counts,
                "tokens": held.tokens,
                "decode_tokens_per_second": {
                    "free": round(free.per_second(), 1),
                    "held_to_schema": round(held.per_second(), 1),
                    "ratio": round(held.per_second() / free.per_second(), 4),
                },
                "mask_microseconds_per_token": round(held.mask_ms / held.tokens * 1e3, 1),
                "mask_share_of_decode": round(held.mask_ms / held.decode_ms, 4),
                "mask_wait_share_of_decode": round(held.mask_wait_ms / held.decode_ms, 4),
                "prepare_ms_median": round(compile_ms[len(compile_ms) // 2], 2),
                "prepare_ms_largest": round(compile_ms[-1], 2),
                "peak_rss_bytes": peak,
                "problems": problems,
            },
            indent=2,
        )
    )
    if counts["refused"] or counts["valid"] < counts["finished"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
