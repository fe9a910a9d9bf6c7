"""The report's plots: bias curves, gate weights, error by age, reliability."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from runtime.fusion import FusionTables, PivotGate
from runtime.printing import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT, _FUSED = "#2b2b2b", "#b8b8b8", "#111111"
_COLORS = ("#3b6fb6", "#d1742f", "#4c9a6a", "#9a5fb0", "#c2485f", "#7a6a53", "#3aa3a8", "#8a8f2e")
_LABEL_GAP = 0.055
"""Smallest distance between two labels, as a share of the axis."""


def plots(tables: FusionTables, report: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the plots of fusion tables and their report as PNG files, by file name."""
    names = report["experts"]
    figures = {
        "bias.png": _bias(tables, names),
        "error_by_age.png": _error_by_age(names, report["age_bands"]),
    }
    if isinstance(tables.gate, PivotGate):
        figures["gate.png"] = _gate(tables.gate, names)
    claimed = {t: r for t, r in report["reliability"].items() if r is not None}
    if claimed:
        figures["reliability.png"] = _reliability(claimed)
    return {name: _png(figure) for name, figure in figures.items()}


def _figure(title: str, subtitle: str, x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.8), dpi=130, facecolor="white")
    axes = figure.add_axes((0.09, 0.13, 0.73, 0.68))
    figure.text(0.09, 0.93, title, fontsize=14, fontweight="bold", color=_INK)
    figure.text(0.09, 0.865, subtitle, fontsize=10, color="#666666")
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors="#555555", length=3)
    axes.grid(axis="y", color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _bias(tables: FusionTables, names: Sequence[str]) -> Figure:
    figure, axes = _figure(
        "Bias correction of each expert",
        "Flat beyond the outermost predictions of the data",
        "raw prediction (years)",
        "correction (years)",
    )
    axes.axhline(0.0, color=_INK, linewidth=0.8)
    grid, ends = tables.age_grid, []
    for name, color in zip(names, cycle(_COLORS), strict=False):
        expert = tables.experts[name]
        table = np.interp(grid, expert.knots_years, expert.bias_years)
        axes.plot(grid, table, color=color, linewidth=2.2)
        ends.append((float(table[-1]), name, color))
    axes.set_xlim(grid[0], grid[-1])
    _label_ends(axes, ends)
    return figure


def _gate(gate: PivotGate, names: Sequence[str]) -> Figure:
    figure, axes = _figure(
        "Weight of each expert by age",
        "Shares of the fused age; they add up to 100 %",
        "pivot age (years)",
        "weight (%)",
    )
    logits = gate.logit[[gate.names.index(name) for name in names]]
    shares = 100.0 * softmax(logits, axis=0)
    colors = list(islice(cycle(_COLORS), len(names)))
    axes.stackplot(gate.age_grid, shares, colors=colors, alpha=0.88, linewidth=0.0)
    middles = np.cumsum(shares[:, -1]) - shares[:, -1] / 2.0
    axes.set_xlim(gate.age_grid[0], gate.age_grid[-1])
    axes.set_ylim(0.0, 100.0)
    _label_ends(axes, list(zip(middles.tolist(), names, colors, strict=True)))
    return figure


def _error_by_age(names: Sequence[str], bands: Mapping[str, Any]) -> Figure:
    figure, axes = _figure(
        "Mean absolute error by age",
        "Dotted: raw predictions. Thin: corrected. Black: fused, with its 95 % interval",
        "labeled age (years); below, the number of faces",
        "mean absolute error (years)",
    )
    at = np.arange(len(bands))
    ends = []
    for name, color in zip(names, cycle(_COLORS), strict=False):
        raw = [band["mae"][name]["raw"] for band in bands.values()]
        after = [band["mae"][name]["corrected"] for band in bands.values()]
        axes.plot(at, raw, color=color, linewidth=1.3, linestyle=":", marker="o", markersize=2.5)
        axes.plot(at, after, color=color, linewidth=1.5)
        ends.append((after[-1], name, color))
    fused = np.array([band["mae"]["fused"] for band in bands.values()])
    limits = np.array([band["mae_interval"]["fused"] for band in bands.values()])
    axes.fill_between(at, limits[:, 0], limits[:, 1], color=_FUSED, alpha=0.12, linewidth=0.0)
    axes.plot(at, fused, color=_FUSED, linewidth=2.8)
    ends.append((float(fused[-1]), "fused", _FUSED))
    axes.set_xticks(at, [f"{name}\n{band['faces']}" for name, band in bands.items()])
    axes.set_ylim(bottom=0.0)
    axes.margins(x=0.0)
    _label_ends(axes, ends)
    return figure


def _reliability(claimed: Mapping[str, Any]) -> Figure:
    figure, axes = _figure(
        "Does probability_at_least(t) come true?",
        "On the diagonal it does. Bars are 95 % intervals",
        "claimed probability (%)",
        "share of faces that were t or older (%)",
    )
    axes.plot([0, 100], [0, 100], color=_FAINT, linewidth=1.2)
    ends = []
    for (threshold, result), color in zip(claimed.items(), cycle(_COLORS), strict=False):
        bins = result["bins"]
        x = [100.0 * b["claimed"] for b in bins]
        y = [100.0 * b["came_true"]["rate"] for b in bins]
        limits = 100.0 * np.array([b["came_true"]["interval"] for b in bins])
        axes.vlines(x, limits[:, 0], limits[:, 1], color=color, alpha=0.45, linewidth=2.0)
        axes.plot(x, y, color=color, linewidth=1.8, marker="o", markersize=5)
        ends.append((y[-1], f"t = {threshold} years", color))
    axes.set_xlim(-2.0, 102.0)
    axes.set_ylim(-2.0, 102.0)
    _label_ends(axes, ends)
    return figure


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Labels lines at the right of the axes, far enough apart to be legible."""
    low, high = axes.get_ylim()
    ordered = sorted(ends)
    heights = np.array([(value - low) / (high - low) for value, _, _ in ordered])
    gaps = _LABEL_GAP * np.arange(len(heights))
    # Up until all gaps are kept, then down until the last label is within the axes.
    heights = np.minimum(np.maximum.accumulate(heights - gaps) + gaps, 1.0 - gaps[::-1])
    for height, (_, name, color) in zip(heights, ordered, strict=True):
        # A name may hold dollars, which would be mathematics.
        label = axes.text(1.015, height, printable(name, 40), color=color, parse_math=False)
        label.set(transform=axes.transAxes, va="center", fontsize=10.5)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the version of matplotlib in its metadata, a figure always gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
