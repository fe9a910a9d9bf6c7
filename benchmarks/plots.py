"""The benchmarks' pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.figures import LANES, OURS, SEQUENCE
from benchmarks.machine import busy
from runtime.backends import all_on_cpu

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = Mapping[str, Any]

_INK, _GRAY, _FAINT, _FUSED = "#2b2b2b", "#666666", "#b8b8b8", "#111111"
_COLORS = ("#3b6fb6", "#d1742f", "#4c9a6a", "#9a5fb0", "#c2485f", "#7a6a53", "#3aa3a8", "#8a8f2e")
_OWN = "#d9d9d9"
"""Everything that is not an expert."""
_LABELS = {
    SEQUENCE: "AgeMoE\none after the other",
    LANES: "AgeMoE\nall at once",
    "pytorch": "PyTorch eager\none after the other",
    "onnx": "ONNX Runtime\none after the other",
}
_SHORT_LABELS = {
    SEQUENCE: "one by one",
    LANES: "all at once",
    "pytorch": "PyTorch eager",
    "onnx": "ONNX Runtime",
}


def latency_picture(report: Report) -> bytes:
    """A PNG: where the time of one face goes, by way of running, and throughput by batch size."""
    from matplotlib.figure import Figure

    batches = report["batches"]
    several = len(batches) > 1
    figure = Figure(figsize=(9.6, 3.9 if several else 3.5), dpi=150, facecolor="white")
    bars = figure.add_axes((0.155, 0.22, 0.52 if several else 0.80, 0.54))
    first = next(iter(batches.values()))
    _titles(figure, report, first)
    _bars(bars, first, list(report["experts"]))
    if several:
        _throughput(figure.add_axes((0.735, 0.22, 0.155, 0.54)), list(batches.values()))
    return _png(figure)


def load_picture(report: Report) -> bytes:
    """A PNG: latency by request rate, and what many callers get."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.9), dpi=150, facecolor="white")
    names = ", ".join(report["experts"])
    figure.text(0.07, 0.92, "Latency under load", fontsize=14, fontweight="bold", color=_INK)
    figure.text(0.07, 0.855, f"{names} · {_where(report)}", fontsize=9, color=_GRAY)
    _open_loop(figure.add_axes((0.07, 0.15, 0.40, 0.60)), report)
    _closed_loop(figure.add_axes((0.57, 0.15, 0.38, 0.60)), report)
    return _png(figure)


def _titles(figure: Figure, report: Report, batch: Report) -> None:
    what = "One face" if batch["faces"] == 1 else f"{batch['faces']} faces"
    title = f"{what}, from JPEG to age"
    for name, ratios in batch["times_faster"].items():
        # The lower of two figures: others' work slows programs that spin while they wait more.
        best = max(min(ratios[way]["median"], ratios[way]["fastest"]) for way in OURS)
        title += f": {best:.1f} times faster than {_LABELS[name].partition(chr(10))[0]}"
    figure.text(0.02, 0.92, title, fontsize=14, fontweight="bold", color=_INK)
    where = f"{_where(report)} · medians of interleaved rounds"
    figure.text(0.02, 0.855, where, fontsize=9, color=_GRAY)


def _where(report: Report) -> str:
    machine = report["machine"]
    precisions = sorted({expert["precision"] for expert in report["experts"].values()})
    weights = sorted({expert["weights"] for expert in report["experts"].values()})
    on_cpu = all_on_cpu(expert["backend"] for expert in report["experts"].values())
    place = machine["processor"] if on_cpu else machine["gpus"][0].partition(",")[0]
    return (
        f"{place}, {machine['cores']} cores · {', '.join(precisions)} · {', '.join(weights)} "
        f"weights{_disturbed(report)}"
    )


def _disturbed(report: Report) -> str:
    before = report["load_average"]["before"]
    cores = report["machine"]["cores"]
    return f" · busy machine (load {before[0]:.0f})" if busy(before, cores) else ""


def _bars(axes: Axes, batch: Report, names: Sequence[str]) -> None:
    """One bar per way of running; where experts run one by one, a segment for each."""
    rows = [*OURS[::-1], *(name for name in batch["ways"] if name not in OURS)]
    longest = max(1e3 * batch["ways"][name]["p50_seconds"] for name in rows)
    colors = dict(zip(names, _COLORS * len(names), strict=False))
    for height, name in enumerate(rows):
        way = batch["ways"][name]
        whole = 1e3 * way["p50_seconds"]
        left = 0.0 if name == LANES else _segments(axes, height, way, colors, 0.075 * longest)
        rest = _FUSED if name == LANES else _OWN
        axes.barh(height, whole - left, left=left, height=0.62, color=rest, lw=0)
        end = whole + 0.012 * longest
        axes.text(end, height, f"{_ms(whole)} ms", va="center", fontsize=10.5, color=_INK)
    axes.set_yticks(range(len(rows)), [_LABELS.get(name, name) for name in rows])
    axes.set_xlim(0.0, 1.17 * longest)
    _plain(axes, "milliseconds; light gray: decoding, cropping and everything else")


def _segments(
    axes: Axes, height: float, way: Report, colors: Mapping[str, str], least: float
) -> float:
    """Draws the experts of one bar, with names where there is room; returns where they end."""
    left = 0.0
    for expert, seconds in way["typical_execute_seconds"].items():
        width = 1e3 * seconds
        axes.barh(height, width, left=left, height=0.62, color=colors[expert], lw=0)
        if width > least:
            label, middle = f"{expert}\n{_ms(width)}", left + width / 2
            axes.text(middle, height, label, color="white", ha="center", va="center", fontsize=7.5)
        left += width
    return left


def _throughput(axes: Axes, batches: Sequence[Report]) -> None:
    sizes = [batch["faces"] for batch in batches]
    colors = {SEQUENCE: _GRAY, LANES: _FUSED}
    ends: dict[str, float] = {}
    for name in batches[0]["ways"]:
        rates = [batch["ways"][name]["faces_per_second"] for batch in batches]
        color = colors.get(name, _COLORS[0])
        axes.plot(sizes, rates, color=color, marker="o", markersize=3.5, linewidth=1.6)
        ends[name] = rates[-1]
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.margins(y=0.2)
    axes.set_ylim(bottom=0.0)
    for name, height in _apart(ends, 0.085 * axes.get_ylim()[1]).items():
        label = f" {_SHORT_LABELS.get(name, name)}"
        color = colors.get(name, _COLORS[0])
        axes.text(1.06 * sizes[-1], height, label, color=color, va="center", fontsize=7.5)
    axes.set_title("faces per second", fontsize=9, color=_INK, loc="left")
    _plain(axes, "batch size")


def _apart(heights: Mapping[str, float], least: float) -> dict[str, float]:
    """Heights moved up as far as it takes for labels not to lie on one another."""
    found: dict[str, float] = {}
    floor = -math.inf
    for name in sorted(heights, key=lambda name: heights[name]):
        found[name] = max(heights[name], floor)
        floor = found[name] + least
    return found


def _open_loop(axes: Axes, report: Report) -> None:
    answered = (point for point in report["open_loop"] if point["latency"])
    points = sorted(answered, key=lambda point: float(point["rate"]))
    rates = [point["rate"] for point in points]
    for key, color in (("p50", _COLORS[0]), ("p95", _COLORS[1]), ("p99", _COLORS[4])):
        values = [point["latency"][f"{key}_seconds"] for point in points]
        known = [(rate, 1e3 * v) for rate, v in zip(rates, values, strict=True) if v is not None]
        if known:
            axes.plot(*zip(*known, strict=True), color=color, marker="o", markersize=3.5, label=key)
    if report["saturation"]["rate"]:
        axes.axvline(report["saturation"]["rate"], color=_FAINT, linewidth=1.2, linestyle="--")
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0.0)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title(
        "milliseconds to the answer; dashed: the highest rate kept up with",
        fontsize=9,
        color=_INK,
        loc="left",
    )
    _plain(axes, "requests per second, arriving at random")


def _closed_loop(axes: Axes, report: Report) -> None:
    points = sorted(report["closed_loop"], key=lambda point: point["callers"])
    callers = [point["callers"] for point in points]
    axes.plot(
        callers, [p["answers_per_second"] for p in points], color=_FUSED, marker="o", markersize=3.5
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(callers, [str(count) for count in callers])
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0.0)
    axes.set_title("answers per second", fontsize=9, color=_INK, loc="left")
    _plain(axes, "callers, each waiting for its answer")


def _plain(axes: Axes, x: str) -> None:
    axes.set_xlabel(x, fontsize=8.5, color=_GRAY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, length=2.5, labelsize=8.5)
    axes.tick_params(which="minor", length=0)


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
