"""What the benchmarks print."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.comparing import Comparison
from benchmarks.figures import LANES, SEQUENCE
from benchmarks.machine import busy
from benchmarks.tally import OUTCOMES

Report = Mapping[str, Any]
_PERCENTILES = ("p50", "p90", "p95", "p99")


def latency(report: Report) -> str:
    """The report of latency.py."""
    lines = [
        *_machine(report),
        *_experts(report),
        *_opening(report),
        *(line for batch in report["batches"].values() for line in _batch(batch)),
        *(f"{name}: {_listed(what)}" for name, what in report["baselines"].items()),
    ]
    return "\n".join(lines)


def load(report: Report) -> str:
    """The report of load.py."""
    saturation, deadline = report["saturation"], report["settings"]["deadline_ms"]
    rows = [
        [f"{kind} {point[key]:g}", *_point(point)]
        for kind, key, points in (
            ("callers", "callers", report["closed_loop"]),
            ("per second", "rate", sorted(report["open_loop"], key=lambda p: float(p["rate"]))),
        )
        for point in points
    ]
    title = ["", "answers/s", *_PERCENTILES, *OUTCOMES, "given up", "kept up"]
    kept = "none of these rates" if saturation["rate"] is None else f"{saturation['rate']:g}/s"
    lost = "" if saturation["lost_rate"] is None else f", not with {saturation['lost_rate']:g}/s"
    lines = [
        *_machine(report),
        *_experts(report),
        "",
        f"milliseconds from arrival to answer; deadline: {deadline or 'none'}",
        *table(title, rows),
        f"saturation: keeps up with {kept}{lost}",
    ]
    return "\n".join(lines)


def _point(point: Report) -> list[str]:
    latency = point["latency"] or dict.fromkeys((f"{p}_seconds" for p in _PERCENTILES), None)
    counts = (str(point[name]) for name in (*OUTCOMES, "abandoned"))
    times = (milliseconds(latency[f"{p}_seconds"]) for p in _PERCENTILES)
    kept_up = "yes" if point["kept_up"] else "no"
    return [f"{point['answers_per_second']:.1f}", *times, *counts, kept_up]


def comparison(found: Comparison) -> str:
    """The result of `--compare`."""
    rows = []
    for name, change in found.changes.items():
        if change is None:
            rows.append([name, "-", "-", "-", "too few rounds to tell"])
            continue
        verdict = "SLOWER" if name in found.slower else "same"
        verdict = "faster" if name in found.faster else verdict
        columns = (change.ratio, change.corrected_ratio)
        rows.append([name, *(f"{c:.3f}" for c in columns), f"{change.noise:.1%}", verdict])
    title = ["new over base", "as measured", "by yardstick", "noise", ""]
    return "\n".join(["", *table(title, rows), *(f"differs: {note}" for note in found.notes)])


def table(title: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    every = [list(title), *map(list, rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(title))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in every
    ]


def milliseconds(seconds: float | None) -> str:
    """Three digits that count; a dash where nothing is known."""
    if seconds is None:
        return "-"
    ms = 1000.0 * seconds
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def _machine_lines(report: Report) -> Iterator[str]:
    """What it ran on."""
    machine, load = report["machine"], report["load_average"]
    yield f"{machine['processor']}, {machine['cores']} cores ({', '.join(machine['instructions'])})"
    for gpu in machine["gpus"]:
        yield f"GPU: {gpu}"
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    yield f"Python {machine['python']}, {versions}"
    yield f"load average {load['before'][0]} before, {load['after'][0]} after"
    if busy(load["before"], machine["cores"]):
        yield "NOTE: other programs were at work before the start; repeat it on a quiet machine."


def _machine(report: Report) -> Iterator[str]:
    settings = report["settings"]
    yield from _machine_lines(report)
    yield (
        f"device {settings['device']}, {settings['threads']} threads, AgeMoE's concurrency: "
        f"{settings['concurrency']}. Input: {settings['input']}"
    )


def _experts(report: Report) -> Iterator[str]:
    rows = []
    for name, expert in report["experts"].items():
        parity = expert["parity_years"]
        years = ["-", "-"] if parity is None else [f"{parity[k]:.1e}" for k in ("mean", "max")]
        size = f"{expert['size_bytes'] / 1e6:.1f} MB"
        told = [expert["weights"], expert["backend"], expert["precision"], expert["sha256"][:12]]
        rows.append([name, *told, size, *years])
    title = ["expert", "weights", "backend", "precision", "sha256", "size"]
    yield ""
    yield from table([*title, "parity mean (years)", "max"], rows)


def _opening(report: Report) -> Iterator[str]:
    opening, gpu = report["opening"], report["gpu_bytes"]
    seconds = opening["median_seconds"]
    yield ""
    yield (
        f"fresh process: {seconds['import']:.2f} s import, {seconds['open']:.2f} s open, "
        f"{milliseconds(seconds['first_answer'])} ms first answer "
        f"(then {milliseconds(seconds['second_answer'])} ms), {seconds['whole']:.2f} s in all; "
        f"memory at most {opening['peak_bytes'] / 1e6:.0f} MB"
        + ("" if gpu is None else f", on the GPU {gpu / 1e6:.0f} MB")
    )


def _batch(batch: Report) -> Iterator[str]:
    faces = batch["faces"]
    yield ""
    yield f"batch of {faces}, {batch['rounds']} interleaved rounds, milliseconds"
    yield from table(
        ["", *_PERCENTILES, "95 % of median", "faces/s"],
        [*_expert_rows(batch), *_way_rows(batch)],
    )
    yield from _stages(batch)
    yield from _concurrency(batch["concurrency"])
    yield from _overhead(batch["overhead"])
    for name, ratios in batch["times_faster"].items():
        yield from _times_faster(name, ratios)
    for pair, years in batch["answers"].items():
        worst = max(years.values(), default=0.0)
        yield f"ages, {pair}: {worst:.1e} years apart at most"


def _expert_rows(batch: Report) -> list[list[str]]:
    faces, way = batch["faces"], batch["ways"][SEQUENCE]
    return [
        [name, *_figures(found), f"{faces / found['p50_seconds']:.1f}"]
        for name, found in way["execute"].items()
    ]


def _way_rows(batch: Report) -> list[list[str]]:
    labels = {SEQUENCE: "AgeMoE, sequence", LANES: "AgeMoE, lanes"}
    return [
        [labels.get(name, name), *_figures(way), f"{way['faces_per_second']:.1f}"]
        for name, way in batch["ways"].items()
    ]


def _figures(found: Report) -> list[str]:
    low, high = map(milliseconds, found["median_interval_seconds"])
    return [*(milliseconds(found[f"{p}_seconds"]) for p in _PERCENTILES), f"{low}…{high}"]


def _stages(batch: Report) -> Iterator[str]:
    for mode in (SEQUENCE, LANES):
        way = batch["ways"][mode]
        stages = {name: found["p50_seconds"] for name, found in way["stages"].items()}
        copied = sum(found["p50_seconds"] for found in way["copy"].values())
        stages |= {"upload and download": copied} if copied else {}
        yield f"{mode}: {_listed({n: milliseconds(s) for n, s in stages.items()})}"


def _concurrency(found: Report) -> Iterator[str]:
    if found["overlap"] is None:
        return
    overlap, ratio = found["overlap"], found["lanes_over_sequence"]
    yield (
        f"experts: sum {milliseconds(found['sum_seconds'])}, slowest "
        f"{milliseconds(found['slowest_seconds'])}, lanes {milliseconds(found['lanes_seconds'])}; "
        f"overlap {overlap['median']:.2f} ({overlap['low']:.2f}…{overlap['high']:.2f})"
    )
    yield f"lanes take {_ratio(ratio)} of a sequence (sign test: p = {ratio['p_value']:.2g})"


def _overhead(found: Report) -> Iterator[str]:
    parts = {name: milliseconds(part["p50_seconds"]) for name, part in found["parts"].items()}
    beside = ""
    if found["share"]:
        share = found["share"]["median"]
        beside = f", {share:.1%} of {' + '.join(found['beside'])}"
    yield (
        f"own overhead: {milliseconds(found['total']['p50_seconds'])} ms{beside} ({_listed(parts)})"
    )


def _times_faster(name: str, ratios: Report) -> Iterator[str]:
    ways = _listed({way: _ratio(ratios[way]) for way in (SEQUENCE, LANES)})
    best = _listed({way: f"{ratios[way]['fastest']:.2f}" for way in (SEQUENCE, LANES)})
    yield f"times faster than {name}: {ways}; fastest rounds: {best}"
    yield f"  by expert: {_listed({n: _ratio(r) for n, r in ratios['experts'].items()})}"


def _ratio(found: Report) -> str:
    return f"{found['median']:.2f} ({found['low']:.2f}…{found['high']:.2f})"


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
