"""The report's plots: bias curves, gate weights, error by age, reliability."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from export.calibration.markdown_tables import FEWEST_IN_PART
from runtime.fusion import FusionTables, PivotGate
from runtime.printing import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT, _FUSED = "#2b2b2b", "#b8b8b8", "#111111"
_COLORS = ("#3b6fb6", "#d1742f", "#4c9a6a", "#9a5fb0", "#c2485f", "#7a6a53", "#3aa3a8", "#8a8f2e")
_STYLES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)), (0, (9, 3)))
"""Lines are told apart without color, too: colors and styles have different periods."""
_MARKERS = "osD^vPX"
_LABEL_GAP = 0.055
"""Smallest distance between two labels, as a share of the axis."""
_ALL_WEIGHT = 99.9
"""In percent; with so much of it at every age, one expert has all the weight."""


def plots(tables: FusionTables, report: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the plots of fusion tables and their report as PNG files, by file name."""
    names = report["experts"]
    figures = {
        "bias.png": _bias(tables, names),
    }
    if sum(band["faces"] >= FEWEST_IN_PART for band in report["age_bands"].values()) > 1:
        figures["error_by_age.png"] = _error_by_age(report)
    if isinstance(tables.gate, PivotGate) and (gate := _gate(tables.gate, names)) is not None:
        figures["gate.png"] = gate
    claimed = {t: r for t, r in report["reliability"].items() if r is not None}
    if claimed:
        figures["reliability.png"] = _reliability(claimed)
    return {name: _png(figure) for name, figure in figures.items()}


def _figure(title: str, subtitle: str, x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.8), dpi=130, facecolor="white")
    axes = figure.add_axes((0.085, 0.13, 0.66, 0.68))
    figure.text(0.085, 0.93, title, fontsize=14, fontweight="bold", color=_INK)
    figure.text(0.085, 0.865, subtitle, fontsize=10, color="#666666")
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
        "How many years are added to a raw prediction",
        "Bias correction of each expert; constant beyond the outermost predictions of the fit",
        "raw prediction (years)",
        "correction (years)",
    )
    axes.axhline(0.0, color=_INK, linewidth=0.8)
    grid = tables.age_grid
    for name, color, style in zip(names, cycle(_COLORS), cycle(_STYLES), strict=False):
        expert = tables.experts[name]
        table = np.interp(grid, expert.knots_years, expert.bias_years)
        axes.plot(grid, table, color=color, linestyle=style, linewidth=2.2, label=_shown(name))
    axes.set_xlim(grid[0], grid[-1])
    _legend(axes)
    return figure


def _gate(gate: PivotGate, names: Sequence[str]) -> Figure | None:
    """Returns the weights by pivot age; None where one expert has all the weight."""
    logits = gate.logit[[gate.names.index(name) for name in names]]
    shares = 100.0 * softmax(logits, axis=0)
    if shares.min(axis=1).max() > _ALL_WEIGHT:
        return None
    figure, axes = _figure(
        "How much each expert counts, by age",
        "Weights in the fused age. The pivot age is a first estimate of the face's age",
        "pivot age (years)",
        "weight (%)",
    )
    colors = list(islice(cycle(_COLORS), len(names)))
    axes.stackplot(gate.age_grid, shares, colors=colors, alpha=0.88, edgecolor="white")
    middles = np.cumsum(shares[:, -1]) - shares[:, -1] / 2.0
    axes.set_xlim(gate.age_grid[0], gate.age_grid[-1])
    axes.set_ylim(0.0, 100.0)
    _label_ends(axes, list(zip(middles.tolist(), names, colors, strict=True)))
    return figure


def _error_by_age(report: Mapping[str, Any]) -> Figure:
    """Returns at most three lines: the fused age and what it is compared with."""
    alone, best = len(report["experts"]) == 1, report["gain"]["over"]
    figure, axes = _figure(
        "How the error depends on age",
        f"Band: 95 % confidence interval of the {'corrected' if alone else 'fused'} age's error",
        "labeled age (years), and number of faces",
        "mean absolute error (years)",
    )
    bands = {n: b for n, b in report["age_bands"].items() if b["faces"] >= FEWEST_IN_PART}
    at = np.arange(len(bands))
    kind = "raw" if alone else "corrected"
    others = {f"{_shown(best)}, {kind}": best, **({} if alone else {f"plain mean, {kind}": "mean"})}
    fused = np.array([band["mae"]["fused"] for band in bands.values()])
    limits = np.array([band["mae_interval"]["fused"] for band in bands.values()]).reshape(-1, 2)
    name = "corrected" if alone else "fused"
    axes.fill_between(at, limits[:, 0], limits[:, 1], color=_FUSED, alpha=0.13, linewidth=0.0)
    axes.plot(at, fused, color=_FUSED, linewidth=3.0, marker="o", markersize=6, label=name)
    looks = zip(others.items(), _COLORS, _STYLES[1:], _MARKERS[1:], strict=False)
    for (label, method), color, style, marker in looks:
        years = [band["mae"][method][kind] for band in bands.values()]
        look: dict[str, Any] = {"color": color, "linestyle": style, "marker": marker}
        axes.plot(at, years, linewidth=1.8, markersize=5, label=label, **look)
    axes.set_xticks(at, [f"{band}\n{part['faces']:,}" for band, part in bands.items()])
    axes.set_ylim(bottom=0.0)
    axes.margins(x=0.03)
    _legend(axes)
    return figure


def _reliability(claimed: Mapping[str, Any]) -> Figure:
    figure, axes = _figure(
        "Whether stated probabilities come true",
        "probability_at_least(t): on the gray line they do. Bars: 95 % confidence intervals",
        "stated probability (%)",
        "share of faces of t years or older (%)",
    )
    axes.plot([0, 100], [0, 100], color=_FAINT, linewidth=1.2)
    looks = zip(claimed.items(), cycle(_COLORS), cycle(_STYLES), cycle(_MARKERS), strict=False)
    for (threshold, result), color, style, marker in looks:
        bins = result["bins"]
        x = [100.0 * b["claimed"] for b in bins]
        y = [100.0 * b["came_true"]["rate"] for b in bins]
        limits = 100.0 * np.array([b["came_true"]["interval"] for b in bins])
        axes.vlines(x, limits[:, 0], limits[:, 1], color=color, alpha=0.45, linewidth=2.0)
        label = f"t = {threshold} years"
        look: dict[str, Any] = {"color": color, "linestyle": style, "marker": marker}
        axes.plot(x, y, linewidth=1.8, markersize=5, label=label, **look)
    axes.set_xlim(-2.0, 102.0)
    axes.set_ylim(-2.0, 102.0)
    _legend(axes)
    return figure


def _shown(name: str) -> str:
    """Returns a name as a label; a leading underscore would hide it from the legend."""
    shown = printable(name, 40)
    return f"\u200a{shown}" if shown.startswith("_") else shown


def _legend(axes: Axes) -> None:
    """Names the lines at the right of the axes, from the highest end to the lowest."""
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    lines.sort(key=lambda line: -float(np.asarray(line.get_ydata(), dtype=np.float64)[-1]))
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    legend = axes.legend(handles=lines, frameon=False, fontsize=9.5, handlelength=2.6, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may hold dollars, which would be mathematics


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
    look: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.15}  # long names widen it
    figure.savefig(buffer, format="png", metadata={"Software": None}, **look)
    return buffer.getvalue()
