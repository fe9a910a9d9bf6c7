"""Plots of latency and load reports."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.breakdown import LANES, MODES, SEQUENCE
from benchmarks.environment import busy
from runtime.backends import all_on_cpu

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = Mapping[str, Any]

_INK, _GRAY, _FAINT, _FUSED = "#2b2b2b", "#666666", "#b8b8b8", "#111111"
_COLORS = ("#3b6fb6", "#d1742f", "#4c9a6a", "#9a5fb0", "#c2485f", "#7a6a53", "#3aa3a8", "#8a8f2e")
_REST = "#d9d9d9"
"""Everything but the experts."""
_LABELS = {
    SEQUENCE: ("AgeMoE\none after the other", "one by one"),
    LANES: ("AgeMoE\nall at once", "all at once"),
    "pytorch": ("PyTorch eager\none after the other", "PyTorch eager"),
    "onnx": ("ONNX Runtime\none after the other", "ONNX Runtime"),
}
"""By configuration: of a bar, and of a line."""


def latency_plot(report: Report) -> bytes:
    """Returns a PNG: time of one face by stage and configuration, and throughput by batch size."""
    batches = list(report["batches"].values())
    several = len(batches) > 1
    what = "One face" if batches[0]["faces"] == 1 else f"{batches[0]['faces']} faces"
    title = f"{what}, from JPEG to age"
    for name, ratios in batches[0]["times_faster"].items():
        # The lower of two figures: other programs slow down PyTorch's spinning threads more.
        best = max(min(ratios[mode]["median"], ratios[mode]["fastest"]) for mode in MODES)
        title += f": {best:.1f} times faster than {_LABELS[name][0].partition(chr(10))[0]}"
    subtitle = f"{_where(report)} · medians of interleaved rounds"
    figure = _figure(3.9 if several else 3.5, title, subtitle, left=0.02)
    bars = figure.add_axes((0.155, 0.22, 0.52 if several else 0.80, 0.54))
    _bars(bars, batches[0], list(report["experts"]))
    if several:
        _throughput(figure.add_axes((0.735, 0.22, 0.155, 0.54)), batches)
    return _png(figure)


def load_plot(report: Report) -> bytes:
    """Returns a PNG: latency by request rate, and throughput by number of callers."""
    subtitle = f"{', '.join(report['experts'])} · {_where(report)}"
    figure = _figure(3.9, "Latency under load", subtitle, left=0.07)
    _open_loop(figure.add_axes((0.07, 0.15, 0.40, 0.60)), report)
    _closed_loop(figure.add_axes((0.57, 0.15, 0.38, 0.60)), report)
    return _png(figure)


def _figure(height: float, title: str, subtitle: str, *, left: float) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, height), dpi=150, facecolor="white")
    figure.text(left, 0.92, title, fontsize=14, fontweight="bold", color=_INK)
    figure.text(left, 0.855, subtitle, fontsize=9, color=_GRAY)
    return figure


def _where(report: Report) -> str:
    machine, before = report["machine"], report["load_average"]["before"]
    experts = report["experts"].values()
    precisions, weights = (sorted({e[key] for e in experts}) for key in ("precision", "weights"))
    on_cpu = all_on_cpu(expert["backend"] for expert in experts)
    device = machine["processor"] if on_cpu else machine["gpus"][0].partition(",")[0]
    disturbed = f" · busy machine (load {before[0]:.0f})" if busy(before, machine["cores"]) else ""
    return (
        f"{device}, {machine['cores']} cores · {', '.join(precisions)} · {', '.join(weights)} "
        f"weights{disturbed}"
    )


def _bars(axes: Axes, batch: Report, names: Sequence[str]) -> None:
    """Draws one bar per configuration, with a segment per expert where they run one by one."""
    rows = [*MODES[::-1], *(name for name in batch["ways"] if name not in MODES)]
    longest = max(1e3 * batch["ways"][name]["p50_seconds"] for name in rows)
    colors = dict(zip(names, _COLORS * len(names), strict=False))
    for height, name in enumerate(rows):
        found = batch["ways"][name]
        total, left = 1e3 * found["p50_seconds"], 0.0
        for expert, seconds in found["typical_execute_seconds"].items() if name != LANES else ():
            width = 1e3 * seconds
            axes.barh(height, width, left=left, height=0.62, color=colors[expert], lw=0)
            if width > 0.075 * longest:
                label, middle = f"{expert}\n{_ms(width)}", left + width / 2
                text = axes.text(middle, height, label, color="white", fontsize=7.5)
                text.set(horizontalalignment="center", verticalalignment="center")
            left += width
        rest = _FUSED if name == LANES else _REST
        axes.barh(height, total - left, left=left, height=0.62, color=rest, lw=0)
        end = total + 0.012 * longest
        axes.text(end, height, f"{_ms(total)} ms", va="center", fontsize=10.5, color=_INK)
    axes.set_yticks(range(len(rows)), [_label(name, 0) for name in rows])
    axes.set_xlim(0.0, 1.17 * longest)
    _style(axes, "milliseconds; light gray: decoding, cropping and everything else")


def _throughput(axes: Axes, batches: Sequence[Report]) -> None:
    sizes = [batch["faces"] for batch in batches]
    colors = {SEQUENCE: _GRAY, LANES: _FUSED}
    ends: dict[str, float] = {}
    for name in batches[0]["ways"]:
        rates = [batch["ways"][name]["faces_per_second"] for batch in batches]
        _line(axes, zip(sizes, rates, strict=True), color=colors.get(name, _COLORS[0]))
        ends[name] = rates[-1]
    _powers_of_two(axes, sizes)
    axes.margins(y=0.2)
    axes.set_ylim(bottom=0.0)
    for name, height in _apart(ends, 0.085 * axes.get_ylim()[1]).items():
        color = colors.get(name, _COLORS[0])
        label = f" {_label(name, 1)}"
        axes.text(1.06 * sizes[-1], height, label, color=color, va="center", fontsize=7.5)
    _style(axes, "batch size", "faces per second")


def _apart(heights: Mapping[str, float], least: float) -> dict[str, float]:
    """Returns the heights of labels, raised where necessary so that none overlap."""
    found: dict[str, float] = {}
    floor = -math.inf
    for name in sorted(heights, key=lambda name: heights[name]):
        found[name] = max(heights[name], floor)
        floor = found[name] + least
    return found


def _open_loop(axes: Axes, report: Report) -> None:
    batched = report.get("micro_batching", [])
    series = [("", report["open_loop"], "-")] if not batched else []
    for limit in sorted({point["max_batch"] for point in batched}):
        label = "one by one, " if limit == 1 else f"batches up to {limit}, "
        points = [point for point in batched if point["max_batch"] == limit]
        series.append((label, points, ":" if limit == 1 else "-"))
    for label, points, dashes in series:
        answered = [point for point in points if point["latency"]]
        answered.sort(key=lambda point: float(point["rate"]))
        for key, color in (("p50", _COLORS[0]), ("p95", _COLORS[1]), ("p99", _COLORS[4])):
            times = [(point["rate"], point["latency"][f"{key}_seconds"]) for point in answered]
            known = [(rate, 1e3 * seconds) for rate, seconds in times if seconds is not None]
            if known:
                _line(axes, known, color=color, label=label + key, linestyle=dashes)
    if report["saturation"]["rate"]:
        axes.axvline(report["saturation"]["rate"], color=_FAINT, linewidth=1.2, linestyle="--")
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0.0)
    axes.legend(frameon=False, fontsize=8)
    title = "milliseconds to the answer; dashed: the highest rate sustained"
    _style(axes, "requests per second, arriving at random", title)


def _closed_loop(axes: Axes, report: Report) -> None:
    points = sorted(report["closed_loop"], key=lambda point: point["callers"])
    throughput = [(point["callers"], point["answers_per_second"]) for point in points]
    _line(axes, throughput, color=_FUSED)
    _powers_of_two(axes, [callers for callers, _ in throughput])
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0.0)
    _style(axes, "callers, each waiting for its answer", "answers per second")


def _line(axes: Axes, points: Iterable[tuple[float, float]], **style: str) -> None:
    x, y = zip(*points, strict=True)
    axes.plot(x, y, marker="o", markersize=3.5, linewidth=1.6, **style)  # type: ignore[arg-type]


def _powers_of_two(axes: Axes, ticks: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])


def _style(axes: Axes, x: str, title: str = "") -> None:
    axes.set_title(title, fontsize=9, color=_INK, loc="left")
    axes.set_xlabel(x, fontsize=8.5, color=_GRAY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, length=2.5, labelsize=8.5)
    axes.tick_params(which="minor", length=0)


def _label(name: str, kind: int) -> str:
    return _LABELS[name][kind] if name in _LABELS else name


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
