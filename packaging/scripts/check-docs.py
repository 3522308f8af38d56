#!/usr/bin/env python3
"""Checks the documents: links, anchors, line lengths, and words that the style rules out.

Owns the list of documents and the rules that a program can check. Does not know the commands in
them: `tests/docs_commands.py` runs those. Run it from anywhere; it finds the repository itself.
"""

import argparse
import pathlib
import re
import sys
import unicodedata
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Documents, as patterns relative to the root of the repository.
DOCUMENTS = (
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "examples/*.md",
)
MAX_COLUMNS = 100
# The style guide asks for the caller, the host or the thread instead.
FORBIDDEN = re.compile(r"\b(nobody|somebody|anybody)\b", re.IGNORECASE)

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
HTML_ANCHOR = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")
CODE_SPAN = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
# `[text](target)` and `![text](target "title")`, and `[text]: target`.
INLINE_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()\s<>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)")
SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*:")


def lines_of(path):
    """Yields (number, line, in_code) for each line; the fences count as code."""
    fence = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = FENCE.match(line)
        if fence is None:
            if match:
                fence = match.group(1)
            yield number, line, fence is not None
        else:
            # A fence is closed by one of the same character that is at least as long.
            if match and match.group(1).startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
            yield number, line, True
    if fence is not None:
        raise SystemExit(f"{path.relative_to(ROOT)}: a code block is not closed")


def anchor_of(heading):
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    kept = []
    for character in text:
        if character in " -_":
            kept.append("-" if character == " " else character)
        elif unicodedata.category(character)[0] in "LNM":
            kept.append(character)
    return "".join(kept)


class Checker:
    """Collects the complaints about a set of documents."""

    def __init__(self):
        self.complaints = []
        self._anchors = {}

    def check(self, path):
        """Checks one document."""
        for number, line, in_code in lines_of(path):
            for match in FORBIDDEN.finditer(line):
                self._complain(
                    path, number, f'the word "{match.group(0)}"; name the caller, host or client'
                )
            if in_code:
                continue
            if len(line) > MAX_COLUMNS and not line.lstrip().startswith("|"):
                self._complain(path, number, f"{len(line)} columns; the limit is {MAX_COLUMNS}")
            text = CODE_SPAN.sub("", line)
            targets = INLINE_LINK.findall(text)
            if reference := REFERENCE.match(text):
                targets.append(reference.group(1))
            for target in targets:
                self._check_link(path, number, target)

    def _check_link(self, path, number, target):
        if SCHEME.match(target) or target.startswith("//"):
            return
        name, _, anchor = urllib.parse.unquote(target).partition("#")
        if name.startswith("/"):
            self._complain(path, number, f"{target}: use a path relative to this document")
            return
        file = (path.parent / name).resolve() if name else path
        if not file.is_relative_to(ROOT):
            self._complain(path, number, f"{target}: leads out of the repository")
        elif not file.exists():
            self._complain(path, number, f"{target}: there is no such file")
        elif anchor and file.suffix == ".md" and anchor not in self._anchors_of(file):
            self._complain(path, number, f"{target}: there is no such heading")

    def _anchors_of(self, path):
        if path not in self._anchors:
            anchors = set()
            for _, line, in_code in lines_of(path):
                if in_code:
                    continue
                anchors.update(HTML_ANCHOR.findall(line))
                if heading := HEADING.match(line):
                    base = anchor_of(heading.group(2))
                    anchor, count = base, 0
                    # GitHub numbers the headings of a document that have the same text.
                    while anchor in anchors:
                        count += 1
                        anchor = f"{base}-{count}"
                    anchors.add(anchor)
            self._anchors[path] = anchors
        return self._anchors[path]

    def _complain(self, path, number, text):
        self.complaints.append(f"{path.relative_to(ROOT)}:{number}: {text}")


def main():
    parser = argparse.ArgumentParser(description="Checks links, lines and words of the documents.")
    parser.add_argument("files", nargs="*", help="documents to check; default: all")
    arguments = parser.parse_args()
    if arguments.files:
        documents = [pathlib.Path(name).resolve() for name in arguments.files]
    else:
        documents = sorted(path for pattern in DOCUMENTS for path in ROOT.glob(pattern))
        missing = [name for name in DOCUMENTS if "*" not in name and not (ROOT / name).is_file()]
        if missing:
            sys.exit(f"missing documents: {', '.join(missing)}")
    checker = Checker()
    for path in documents:
        checker.check(path)
    if checker.complaints:
        print("\n".join(checker.complaints))
        sys.exit(f"{len(checker.complaints)} complaints about the documents; see docs/STYLE.md")
    print(f"{len(documents)} documents are sound")


if __name__ == "__main__":
    main()
