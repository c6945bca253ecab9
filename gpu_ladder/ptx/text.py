"""PTX text cut into statements, each with its line.

Nothing is interpreted here beyond what is needed to find where a statement ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpu_ladder.ptx.errors import PtxError

_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_LABEL = re.compile(r"([A-Za-z_$%][\w$]*)\s*:(?!:)")
_SECTION = re.compile(r"\.section\b")
# Directives that end with their line.
_LINE = re.compile(r"\.(loc|file|version|target|address_size|alias)\b[^\n]*")
_HEADER = re.compile(r"(?:\.(?:visible|extern|weak|common)\s+)*\.(?:entry|func)\b", re.DOTALL)


@dataclass(frozen=True)
class Statement:
    """A piece of PTX text.

    Args:
        kind: ``open`` and ``close`` for braces, ``label``, ``line`` for directives of one line,
            ``header`` for what stands before a function's body (or its prototype, ended by a
            semicolon: ``prototype``), ``statement`` for all that ends in a semicolon.
        text: The text without comments and semicolon, blanks collapsed.
        line: Where it begins, counted from 1.
    """

    kind: str
    text: str
    line: int


def _blank(found: re.Match[str]) -> str:
    text = found[0]
    return text if text.startswith('"') else re.sub(r"[^\n]", " ", text)


def statements(text: str) -> list[Statement]:
    """Cuts PTX text into statements.

    Raises:
        PtxError: If the text ends in the middle of a statement.
    """
    text = _COMMENT.sub(_blank, text)
    newlines = [found.start() for found in re.finditer("\n", text)]
    result: list[Statement] = []
    position = 0
    line = 1
    seen = 0
    while True:
        start = re.compile(r"[\s;]*").match(text, position)
        position = start.end() if start else position
        if position >= len(text):
            return result
        while seen < len(newlines) and newlines[seen] < position:
            seen += 1
        line = seen + 1
        if text[position] in "{}":
            kind = "open" if text[position] == "{" else "close"
            result.append(Statement(kind, text[position], line))
            position += 1
        elif found := _SECTION.match(text, position):
            position = _skip_braces(text, found.end(), line)
        elif found := _LINE.match(text, position):
            result.append(Statement("line", found[0].strip(), line))
            position = found.end()
        elif found := _LABEL.match(text, position):
            result.append(Statement("label", found[1], line))
            position = found.end()
        else:
            header = _HEADER.match(text, position)
            end = re.compile(r"[;{]" if header else ";").search(text, position)
            if not end:
                raise PtxError("the text ends in the middle of a statement", line)
            body = " ".join(text[position : end.start()].split())
            kind = "statement"
            if header:
                kind = "header" if end[0] == "{" else "prototype"
            result.append(Statement(kind, body, line))
            position = end.start() if kind == "header" else end.end()


def _skip_braces(text: str, position: int, line: int) -> int:
    depth = 0
    for found in re.compile(r"[{}]").finditer(text, position):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return found.end()
    raise PtxError(".section without its closing brace", line)


def split_operands(text: str) -> list[str]:
    """Splits at the commas outside of braces, brackets and parentheses."""
    parts: list[str] = []
    depth = 0
    begin = 0
    for position, character in enumerate(text):
        if character in "{[(":
            depth += 1
        elif character in "}])":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[begin:position].strip())
            begin = position + 1
    last = text[begin:].strip()
    if last or parts:
        parts.append(last)
    return parts
