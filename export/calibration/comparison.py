"""Comparison of two sets of fusion tables on the same faces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from export.calibration.fitted_faces import Overlap
from export.calibration.markdown_tables import FEWEST_IN_PART
from export.calibration.markdown_text import plain, table
from export.calibration.metrics import Bootstrap, Rows
from export.calibration.report import Report, ReportOptions, all_rows, bootstrap_of, parts_of
from export.calibration.scores import Scores
from runtime.printing import MOST_LINE


def comparison(scores: Scores, other: Scores, options: ReportOptions) -> Report:
    """Compares the errors of two sets of tables on the same faces in the same order.

    Returns `mae`, `other_mae` and `difference` (below 0: the first are better) with its 95 %
    interval, for all faces, age bands and groups.
    """
    bootstrap = bootstrap_of(scores, options)
    sections = {
        place: {name: _difference(scores, other, bootstrap, rows) for name, rows in parts.items()}
        for place, parts in parts_of(scores).items()
    }
    return {**_difference(scores, other, bootstrap, all_rows(scores)), "parts": sections}


def _difference(scores: Scores, other: Scores, bootstrap: Bootstrap, rows: Rows) -> Report:
    ages = scores.faces.age_years
    first, second = np.abs(scores.fused_years - ages), np.abs(other.fused_years - ages)
    difference = first - second
    return {
        "faces": int(rows.sum()),
        "mae": float(first[rows].mean()),
        "other_mae": float(second[rows].mean()),
        "difference": float(difference[rows].mean()),
        "difference_interval": bootstrap.mean_intervals(difference[:, None], rows)[0].tolist(),
    }


def comparison_text(compared: Report, name: str, other: str, seen: Overlap) -> str:
    """Returns the comparison as Markdown.

    Args:
        compared: what `comparison` returned.
        name: of the first tables.
        other: of the second tables.
        seen: how many of the faces the second tables were fitted on.
    """
    rows = [_row("all", compared)]
    for place, parts in compared["parts"].items():
        rows += [_row(f"{place} {part}", found) for part, found in parts.items()]
    lines = [
        f"## {plain(name)} against {plain(other)}",
        "",
        table(
            ["faces (number)", "first MAE, years", "other MAE, years", "difference, years"], rows
        ),
        "",
        (
            "MAE is the mean absolute error of the fused age, first of "
            f"{plain(name)}, then of {plain(other)}. A difference below 0 means that {plain(name)} "
            "is better; where its 95 % confidence interval (bootstrap over people) contains 0, "
            f"neither is shown to be. Figures of fewer than {FEWEST_IN_PART} faces are left out."
        ),
        "",
        plain(seen.sentence(f"The other tables, {other},"), MOST_LINE),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = found["difference_interval"]
    head = f"{plain(name)} ({found['faces']:,})"
    if found["faces"] < FEWEST_IN_PART:
        return head, "–", "–", "–"
    return (
        head,
        f"{found['mae']:.2f}",
        f"{found['other_mae']:.2f}",
        f"{found['difference']:+.2f} [{low:+.2f}, {high:+.2f}]",
    )
