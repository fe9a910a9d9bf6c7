"""The demo's table: predictions and weight of each expert, fused age, interval and truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from export.demo.chart import Entry, expert_names, truth_text


def estimates_table(entries: Sequence[Entry]) -> Table:
    """Returns a table with one row per face."""
    names = expert_names(entries)
    table = Table(title="Ages in years: raw → corrected prediction, weight", title_justify="left")
    table.add_column("picture", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("fused", justify="right", style="bold")
    table.add_column("90 %", justify="right", no_wrap=True)
    table.add_column("truth", justify="right")
    for entry in entries:
        experts = entry.estimate["experts"]
        table.add_row(
            entry.path.name,
            *(_prediction(experts.get(name)) for name in names),
            f"{entry.estimate['age_years']:.1f}",
            _interval(entry.estimate),
            truth_text(entry, digits=1) or "-",
        )
    return table


def _prediction(expert: Mapping[str, float] | None) -> str:
    if expert is None:
        return "-"
    return f"{expert['age_years']:.0f} → {expert['corrected_years']:.0f}, {expert['weight']:.0%}"


def _interval(estimate: Mapping[str, Any]) -> str:
    if estimate["low_years"] is None:
        return "-"
    return f"{estimate['low_years']:.0f}…{estimate['high_years']:.0f}"
