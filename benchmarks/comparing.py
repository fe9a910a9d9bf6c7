"""`--compare`: whether an earlier run of the same benchmark was faster, beyond noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import LANES, SEQUENCE, YARDSTICK
from benchmarks.measuring import Change, Series, change, holm
from runtime.backends import all_on_cpu

SCHEMA_VERSION = 1
"""Of what `latency.py --json` writes."""
TOLERANCE = 0.05
"""Two runs of the same on the same machine differ by so much now and then."""
_LEVEL = 0.01

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of everything that both runs measured."""

    changes: Mapping[str, Change | None]
    """By batch size and way; None where there were too few rounds."""
    slower: frozenset[str]
    faster: frozenset[str]
    notes: Sequence[str]
    """What else differs between the runs."""


def read_report(path: Path) -> Report:
    """Reads what `--json` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(report, dict) or report.get("benchmark") != "latency":
        raise ValueError(f"{path} was not written by latency.py --json.")
    if (version := report.get("schema_version")) != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, this is {SCHEMA_VERSION}. Measure it again."
        )
    return report


def compare(base: Report, new: Report, tolerance: float = TOLERANCE) -> Comparison:
    """Compares two runs.

    Args:
        base: before.
        new: after.
        tolerance: relative change that never counts.

    Raises:
        ValueError: they were made in ways that cannot be compared.
    """
    _check_alike(base, new)
    before, after = _series(base), _series(new)
    common = [name for name in after if name in before]
    if not common:
        raise ValueError("The runs have no batch size in common. Give --batch as before.")
    changes = {name: change(before[name], after[name], tolerance) for name in common}
    known = {name: found for name, found in changes.items() if found is not None}
    return Comparison(
        changes,
        frozenset(holm({name: found.p_slower for name, found in known.items()}, _LEVEL)),
        frozenset(holm({name: found.p_faster for name, found in known.items()}, _LEVEL)),
        _notes(base, new),
    )


def _check_alike(base: Report, new: Report) -> None:
    problems = [
        f"{what}: {was!r} then, {now!r} now"
        for what, was, now in (
            ("processor", base["machine"]["processor"], new["machine"]["processor"]),
            ("cores", base["machine"]["cores"], new["machine"]["cores"]),
            ("GPUs", _gpu_names(base), _gpu_names(new)),
            ("backends", _backends(base), _backends(new)),
            ("input", base["settings"]["input"], new["settings"]["input"]),
        )
        if was != now
    ]
    if problems:
        raise ValueError("The runs cannot be compared:" + "".join(f"\n- {p}" for p in problems))


def _gpu_names(report: Report) -> list[str]:
    return [gpu.partition(",")[0] for gpu in report["machine"]["gpus"]]


def _backends(report: Report) -> dict[str, str]:
    return {name: expert["backend"] for name, expert in report["experts"].items()}


def _series(report: Report) -> dict[str, Series]:
    on_cpu = all_on_cpu(_backends(report).values())
    found = {}
    for size, batch in report["batches"].items():
        samples = batch["samples_seconds"]
        yardstick = samples[YARDSTICK] if on_cpu else None
        for name, seconds in samples.items():
            if name.partition("/")[0] in (SEQUENCE, LANES):
                found[f"batch {size}, {name}"] = Series(seconds, yardstick)
    return found


def _notes(base: Report, new: Report) -> list[str]:
    pairs = [
        *(
            (f"{n}'s file", *_both(base["experts"], new["experts"], n, "sha256"))
            for n in new["experts"]
        ),
        *((what, *_versions(base, new, what)) for what in new["machine"]["versions"]),
        ("threads", base["settings"]["threads"], new["settings"]["threads"]),
    ]
    return [
        f"{what}: {_short(was)} then, {_short(now)} now" for what, was, now in pairs if was != now
    ]


def _both(base: Report, new: Report, name: str, key: str) -> tuple[object, object]:
    return base[name][key], new[name][key]


def _versions(base: Report, new: Report, package: str) -> tuple[object, object]:
    return base["machine"]["versions"].get(package), new["machine"]["versions"].get(package)


def _short(value: object) -> str:
    return str(value)[:12]
