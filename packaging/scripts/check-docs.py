#!/usr/bin/env python3
"""Checks the documents: links, anchors, line length, and words to avoid.

Owns what a reader of the Markdown files relies on and no compiler sees. Does not run the code
blocks: tests/docs_commands.py does. Run it from anywhere; it prints every problem and exits with 1.
"""

import pathlib
import re
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DOCUMENTS = ("*.md", "docs/*.md", "examples/*.md")
COLUMNS = 100
# Words that hide who acts; docs/STYLE.md has the rule.
AVOIDED = re.compile(r"\b(no|some|any)body\b", re.IGNORECASE)
LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^()\s]+(?:\([^()\s]*\))?)\)")
CODE_SPAN = re.compile(r"`[^`]*`")


def main():
    """Checks all documents."""
    documents = sorted(path for pattern in DOCUMENTS for path in ROOT.glob(pattern))
    problems = [problem for path in documents for problem in check(path)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"{len(documents)} documents are sound")


def check(path):
    """Yields the problems of one document."""
    name = path.relative_to(ROOT)
    prose = without_code(path.read_text(encoding="utf-8"))
    for number, line in prose:
        where = f"{name}:{number}"
        if len(line) > COLUMNS and not line.lstrip().startswith("|"):
            yield f"{where}: {len(line)} columns, and the limit is {COLUMNS}"
        if word := AVOIDED.search(line):
            yield f"{where}: the word `{word.group()}`; see docs/STYLE.md"
    # A link may be broken over two lines.
    text = "\n".join(CODE_SPAN.sub("", line) for _, line in prose)
    for link in LINK.findall(text):
        if problem := broken(path, link):
            yield f"{name}: link `{link}`: {problem}"


def without_code(text):
    """The lines outside fenced code blocks, with their numbers from 1."""
    fence, lines = None, []
    for number, line in enumerate(text.splitlines(), start=1):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if fence is None and mark:
            fence = mark.group(1)
        elif fence is None:
            lines.append((number, line))
        elif line.strip() == fence:
            fence = None
    return lines


def broken(path, link):
    """Says what is wrong with a link, or nothing. Addresses of other hosts are not fetched."""
    if re.match(r"[a-z][a-z0-9+.-]*:", link):
        return None
    target, _, anchor = link.partition("#")
    file = path if target == "" else path.parent / urllib.parse.unquote(target)
    if not file.exists():
        return "there is no such file"
    if not file.resolve().is_relative_to(ROOT):
        return "it leaves the repository"
    if anchor and file.suffix == ".md" and anchor not in anchors(file):
        return "there is no such heading"
    return None


def anchors(path):
    """The anchors that GitHub gives the headings of a document."""
    found = set()
    for _, line in without_code(path.read_text(encoding="utf-8")):
        heading = re.match(r"#{1,6}\s+(.*?)\s*#*$", line)
        if heading is None:
            continue
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(1)).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        anchor, count = slug, 0
        while anchor in found:
            count += 1
            anchor = f"{slug}-{count}"
        found.add(anchor)
    return found


if __name__ == "__main__":
    main()
