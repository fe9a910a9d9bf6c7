"""Parts of the report as Markdown: tables, figures with their intervals, names from files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from export.calibration.report import ENOUGH_IN_GROUP
from runtime.printing import MOST_NAME, printable

Report = Mapping[str, Any]


def parts_table(head: str, sections: Report) -> str:
    """Returns the figures of parts of the faces, one row each, under the name of the division."""
    heads = [
        plain(head),
        "faces",
        "fused MAE",
        "bias",
        "spread of error",
        "best expert",
        "covered (90 %)",
    ]
    return table(heads, [_section(name, section) for name, section in sections.items()])


def _section(name: str, section: Report) -> list[str]:
    errors = section["mae"]
    experts = [key for key in errors if key not in ("fused", "mean")]
    best = min(experts, key=lambda expert: errors[expert]["corrected"])
    few = " (few)" if section["faces"] < ENOUGH_IN_GROUP else ""
    return [
        plain(name),
        f"{section['faces']}{few}",
        f"{errors['fused']:.2f} {interval(section['mae_interval']['fused'], 1, 2)}",
        f"{section['bias']['fused']:+.2f}",
        f"{section['spread']['fused']:.2f}",
        f"{errors[best]['corrected']:.2f} ({plain(best)})",
        coverage(section, 0) if "90" in section["coverage"] else "–",
    ]


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


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table; the first column is aligned left, the others right."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    lines = [list(map(_cell, heads)), rule, *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(text: str) -> str:
    return printable(text).replace("|", r"\|")


def plain(name: object, most: int = MOST_NAME) -> str:
    """Returns a name from a file as Markdown that shows it and does nothing else.

    Args:
        name: something whose `str` is shown.
        most: characters that are kept.
    """
    return re.sub(r"([\\`*\[\]<>&~])", r"\\\1", printable(name, most))
