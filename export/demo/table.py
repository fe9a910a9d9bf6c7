"""The demo's table: each expert's age, corrected age and weight; the fused age, the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from export.demo.sheet import Entry, expert_names


def estimates_table(entries: Sequence[Entry]) -> Table:
    """One row per picture."""
    names = expert_names(entries)
    table = Table(
        title="Years: what each expert says → corrected, and its weight", title_justify="left"
    )
    table.add_column("picture", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("fused", justify="right", style="bold")
    table.add_column("90 %", justify="right", no_wrap=True)
    table.add_column("truth", justify="right")
    for entry in entries:
        experts = entry.said["experts"]
        table.add_row(
            entry.path.name,
            *(_said(experts.get(name)) for name in names),
            _shown(entry.said["age_years"]),
            _interval(entry.said),
            _shown(entry.true_years),
        )
    return table


def _said(expert: Mapping[str, float] | None) -> str:
    if expert is None:
        return "-"
    return f"{expert['age_years']:.0f} → {expert['corrected_years']:.0f}, {expert['weight']:.0%}"


def _interval(said: Mapping[str, Any]) -> str:
    if said["low_years"] is None:
        return "-"
    return f"{said['low_years']:.0f}…{said['high_years']:.0f}"


def _shown(years: float | None) -> str:
    return "-" if years is None else f"{years:.1f}"
