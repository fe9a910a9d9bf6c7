"""The report of gpu_check.py: facts and sections, as JSON and as Markdown."""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from runtime.backends.gpu.cuda_library import cuda_devices
from runtime.files import write_json, write_whole

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Section:
    """One part of the report."""

    title: str
    status: str
    """`ok`, `failed` or `not run`."""
    text: str
    figures: dict[str, Any] = field(default_factory=dict)


def facts(*, device: str, weights: str) -> dict[str, object]:
    """What was checked, on what."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = cuda_devices()
    return {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
        "gpu": "; ".join(f"{f.name}, driver for CUDA {f.driver}" for f in found.devices)
        or (found.reason or "none"),
        "device": device,
        "weights": weights,
        "machine": machine(),
    }


def write_report(folder: Path, facts: Mapping[str, object], sections: Sequence[Section]) -> None:
    """Writes the sections so far, as JSON and as Markdown."""
    report = {"facts": facts, "sections": [asdict(section) for section in sections]}
    write_json(folder / "report.json", report)
    write_whole(folder / "report.md", _markdown(facts, sections).encode())


def _markdown(facts: Mapping[str, object], sections: Sequence[Section]) -> str:
    told = [(k, v if isinstance(v, str) else listed(v)) for k, v in _flat(facts)]
    lines = ["# GPU check", "", table(("fact", ""), told)]
    for section in sections:
        lines += ["", f"## {section.title}: {section.status}", "", section.text]
    return "\n".join(lines) + "\n"


def _flat(facts: Mapping[str, object]) -> Iterator[tuple[str, Any]]:
    for name, fact in facts.items():
        if name == "machine" and isinstance(fact, dict):
            yield from fact.items()
        else:
            yield name, fact


def listed(fact: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    """A fact in one line."""
    if isinstance(fact, Mapping):
        return ", ".join(f"{name} {value}" for name, value in fact.items())
    return ", ".join(map(str, fact)) if isinstance(fact, list) else str(fact)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def fenced(text: str) -> str:
    """A command's output in Markdown."""
    return f"```\n{text}\n```"
