"""Tables and code of the pages in docs/."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """Returns what stands below a heading, up to the next one of its level."""
    marks = heading.split(maxsplit=1)[0]
    after = text.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^{marks} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Returns the cells of all tables, without their heads."""
    found: list[list[str]] = []
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if set(line) <= set("|-: ") or (after and set(after) <= set("|-: ")):
            continue
        found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def code(text: str) -> str:
    """Returns the content of the first code span."""
    return str(re.findall(r"`([^`]+)`", text)[0])


def blocks(text: str, language: str) -> list[str]:
    """Returns the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def matches(message: str, pattern: str) -> bool:
    """Returns whether a message begins as a pattern does, in which `…` stands for anything."""
    parts = (re.escape(part.strip()) for part in pattern.split("…"))
    return re.match(r"\s*" + r"[\s\S]*?\s*".join(parts), message) is not None
