"""Parts of the report as Markdown: tables, figures with their intervals, names from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from export.calibration.markdown_text import plain, table
from export.calibration.report import ENOUGH_IN_GROUP

Report = Mapping[str, Any]


FEWEST_IN_PART = 5
"""Figures of fewer faces are chance and not shown."""


def parts_table(head: str, sections: Report) -> str:
    """Returns the figures of parts of the faces, one row each, under the name of the division.

    Columns that would be the same everywhere are left out: the best of one expert, and coverage
    without intervals.
    """
    first = next(iter(sections.values()))
    experts = [key for key in first["mae"] if key not in ("fused", "mean")]
    heads = [plain(head), "faces", "MAE, years", "bias, years", "spread, years"]
    heads += ["best expert (its MAE, years)"] if len(experts) > 1 else []
    heads += ["covered"] if "90" in first["coverage"] else []
    rows = [_section(name, section, experts) for name, section in sections.items()]
    return table(heads, [[*row, *["–"] * (len(heads) - len(row))] for row in rows])


def _section(name: str, section: Report, experts: Sequence[str]) -> list[str]:
    errors, faces = section["mae"], section["faces"]
    few = " (few)" if faces < ENOUGH_IN_GROUP else ""
    row = [plain(name), f"{faces:,}{few}"]
    if faces < FEWEST_IN_PART:
        return row
    row += [
        f"{errors['fused']:.2f} {interval(section['mae_interval']['fused'], 1, 2)}",
        f"{section['bias']['fused']:+.2f}",
        f"{section['spread']['fused']:.2f}",
    ]
    if len(experts) > 1:
        best = min(experts, key=lambda expert: errors[expert]["corrected"])
        row.append(f"{plain(best)} ({errors[best]['corrected']:.2f})")
    return [*row, coverage(section, 0)] if "90" in section["coverage"] else row


def coverage(section: Report, digits: int) -> str:
    """Returns the share of ages in the 90 % interval, with its confidence interval."""
    limits = section["coverage_interval"]["90"]
    return f"{percent(section['coverage']['90'])} {interval(limits, 100, digits)}"


def rate(found: Report) -> str:
    """Returns a share of the report with its confidence interval."""
    if found["rate"] is None:
        return "no such faces"
    return f"{percent(found['rate'])} {interval(found['interval'], 100, 1)}"


def image(files: Sequence[str], name: str, caption: str) -> str:
    """Returns a link to a plot; empty if its file was not written."""
    return f"![{caption}]({name})" if name in files else ""


def percent(share: float) -> str:
    """Returns a share, 0..1, in percent."""
    return f"{100.0 * share:.1f} %"


def interval(limits: Sequence[float], factor: float, digits: int) -> str:
    """Returns the ends of a confidence interval, times a factor, in brackets."""
    low, high = (factor * limit for limit in limits)
    return f"[{low:.{digits}f}, {high:.{digits}f}]"
