"""Two sets of fusion tables on the same faces: differences, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from export.calibration.metrics import Resamples, Rows
from export.calibration.report import Report, ReportOptions, parts_of
from export.calibration.scores import Scores


def comparison(scores: Scores, other: Scores, options: ReportOptions) -> Report:
    """Error of the first tables minus error of the other ones, face by face.

    Args:
        scores: of the first tables.
        other: of the others, on the same faces in the same order.
        options: of the report.

    Returns:
        `mae`, `other_mae` and `difference` (below 0: the first are better) with its 95 %
        interval, for all faces, age bands and groups.
    """
    faces = scores.faces
    resamples = Resamples.draw(len(faces), faces.subjects, options.resamples, options.seed)
    sections = {
        place: {name: _difference(scores, other, resamples, rows) for name, rows in parts.items()}
        for place, parts in parts_of(scores).items()
    }
    whole = np.ones(len(faces), dtype=bool)
    return {**_difference(scores, other, resamples, whole), "parts": sections}


def _difference(scores: Scores, other: Scores, resamples: Resamples, rows: Rows) -> Report:
    ages = scores.faces.age_years
    first, second = np.abs(scores.fused_years - ages), np.abs(other.fused_years - ages)
    changed = first - second
    return {
        "faces": int(rows.sum()),
        "mae": float(first[rows].mean()),
        "other_mae": float(second[rows].mean()),
        "difference": float(changed[rows].mean()),
        "difference_interval": resamples.mean_intervals(changed[:, None], rows)[0].tolist(),
    }


def comparison_text(compared: Mapping[str, Any], name: str, other: str) -> str:
    """The comparison as Markdown."""
    lines = [
        f"## {name} against {other}",
        "",
        "Below 0: the first is better. An interval that holds 0 shows no difference.",
        "",
        "| faces | first MAE | other MAE | difference |",
        "| --- | ---: | ---: | ---: |",
        _line("all", compared),
    ]
    for place, parts in compared["parts"].items():
        lines += [_line(f"{place} {part}", found) for part, found in parts.items()]
    return "\n".join(lines) + "\n"


def _line(name: str, found: Mapping[str, Any]) -> str:
    low, high = found["difference_interval"]
    return (
        f"| {name} ({found['faces']}) | {found['mae']:.2f} | {found['other_mae']:.2f} | "
        f"{found['difference']:+.2f} [{low:+.2f}, {high:+.2f}] |"
    )
