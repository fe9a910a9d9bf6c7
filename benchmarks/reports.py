"""Text reports: aligned tables for the terminal, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.breakdown import LANES, MODES, SEQUENCE
from benchmarks.environment import busy
from benchmarks.load_generator import OUTCOMES

if TYPE_CHECKING:
    from benchmarks.comparison import Comparison

Report = Mapping[str, Any]
_PERCENTILES = ("p50", "p90", "p95", "p99")


def latency(report: Report) -> str:
    """Returns the report of latency.py."""
    lines = [
        *machine(report),
        *experts(report),
        *_cold_start(report),
        *(line for batch in report["batches"].values() for line in _batch(batch)),
        *(f"{name}: {listed(what)}" for name, what in report["baselines"].items()),
    ]
    return "\n".join(lines)


def load(report: Report) -> str:
    """Returns the report of load.py."""
    saturation, deadline = report["saturation"], report["settings"]["deadline_ms"]
    opened = sorted(report["open_loop"], key=lambda point: float(point["rate"]))
    batched = report.get("micro_batching", [])
    rows = [
        *([f"callers {point['callers']:g}", *_point(point)] for point in report["closed_loop"]),
        *([f"per second {point['rate']:g}", *_point(point)] for point in opened),
        *([_batch_limit(point), *_point(point)] for point in batched),
    ]
    title = ["", "answers/s", *_PERCENTILES, *OUTCOMES, "abandoned", "kept up"]
    kept = "none of these rates" if saturation["rate"] is None else f"{saturation['rate']:g}/s"
    lost = "" if saturation["lost_rate"] is None else f", not with {saturation['lost_rate']:g}/s"
    lines = [
        *machine(report),
        *experts(report),
        "",
        f"milliseconds from arrival to answer; deadline: {deadline or 'none'}",
        *table(title, rows),
        f"saturation: keeps up with {kept}{lost}",
    ]
    return "\n".join(lines)


def comparison(found: Comparison) -> str:
    """Returns the result of `--compare`."""
    rows = []
    for name, change in found.changes.items():
        if change is None:
            rows.append([name, "-", "-", "-", "too few rounds"])
            continue
        verdict = "SLOWER" if name in found.slower else "same"
        verdict = "faster" if name in found.faster else verdict
        columns = (change.ratio, change.corrected_ratio)
        rows.append([name, *(f"{c:.3f}" for c in columns), f"{change.noise:.1%}", verdict])
    title = ["new over base", "as measured", "machine-corrected", "noise", ""]
    return "\n".join(["", *table(title, rows), *(f"differs: {note}" for note in found.notes)])


def table(title: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Returns the lines of a table: the first `left` columns aligned left, the others right."""
    every = [list(title), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    names, numbers = widths[:left], widths[left:]
    return [
        "  ".join([*map(str.ljust, row, names), *map(str.rjust, row[left:], numbers)]).rstrip()
        for row in every
    ]


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[object]], rule: Sequence[str] = ()
) -> str:
    """Returns a table in Markdown; `rule` is the alignment of each column, `---` or `---:`."""
    lines = [" | ".join(head), " | ".join(rule or ("---" for _ in head))]
    lines += [" | ".join(map(str, row)) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def milliseconds(seconds: float | None) -> str:
    """Returns three significant digits, or a dash for None."""
    if seconds is None:
        return "-"
    ms = 1000.0 * seconds
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def listed(fact: Any) -> str:  # noqa: ANN401 - any JSON value
    """Returns a mapping, a list or a plain value in one line."""
    if isinstance(fact, Mapping):
        return ", ".join(f"{name} {value}" for name, value in fact.items())
    return ", ".join(map(str, fact)) if isinstance(fact, list) else str(fact)


def machine(report: Report) -> Iterator[str]:
    """Yields the lines on machine, load and settings."""
    found, load, settings = report["machine"], report["load_average"], report["settings"]
    yield f"{found['processor']}, {found['cores']} cores ({', '.join(found['instructions'])})"
    for gpu in found["gpus"]:
        yield f"GPU: {gpu}"
    yield f"Python {found['python']}, {listed(found['versions'])}"
    yield f"load average {load['before'][0]} before, {load['after'][0]} after"
    if busy(load["before"], found["cores"]):
        yield "NOTE: other programs were running before the start; repeat it on a quiet machine."
    yield (
        f"device {settings['device']}, {settings['threads']} threads, AgeMoE's concurrency: "
        f"{settings['concurrency']}. Input: {settings['input']}"
    )


def experts(report: Report) -> Iterator[str]:
    """Yields a blank line and the table of the experts."""
    rows = []
    for name, expert in report["experts"].items():
        parity = expert["parity_years"]
        years = ["-", "-"] if parity is None else [f"{parity[k]:.1e}" for k in ("mean", "max")]
        size = f"{expert['size_bytes'] / 1e6:.1f} MB"
        facts = [expert["weights"], expert["backend"], expert["precision"], expert["sha256"][:12]]
        rows.append([name, *facts, size, *years])
    title = ["expert", "weights", "backend", "precision", "sha256", "size"]
    yield ""
    yield from table([*title, "parity mean (years)", "max"], rows)


def _point(point: Report) -> list[str]:
    latency = point["latency"] or dict.fromkeys((f"{p}_seconds" for p in _PERCENTILES), None)
    counts = (str(point[name]) for name in (*OUTCOMES, "abandoned"))
    times = (milliseconds(latency[f"{p}_seconds"]) for p in _PERCENTILES)
    kept_up = "yes" if point["kept_up"] else "no"
    return [f"{point['answers_per_second']:.1f}", *times, *counts, kept_up]


def _batch_limit(point: Report) -> str:
    if point["max_batch"] == 1:
        return f"per second {point['rate']:g}, one by one"
    mean = f"mean {point['mean_batch']:.1f}"
    return f"per second {point['rate']:g}, batches up to {point['max_batch']} ({mean})"


def _cold_start(report: Report) -> Iterator[str]:
    opening, gpu = report["opening"], report["gpu_bytes"]
    seconds = opening["median_seconds"]
    yield ""
    yield (
        f"fresh process: {seconds['import']:.2f} s import, {seconds['open']:.2f} s open, "
        f"{milliseconds(seconds['first_answer'])} ms first prediction "
        f"(then {milliseconds(seconds['second_answer'])} ms), {seconds['whole']:.2f} s in total; "
        f"memory at most {opening['peak_bytes'] / 1e6:.0f} MB"
        + ("" if gpu is None else f", on the GPU {gpu / 1e6:.0f} MB")
    )


def _batch(batch: Report) -> Iterator[str]:
    faces, sequence = batch["faces"], batch["ways"][SEQUENCE]
    labels = {SEQUENCE: "AgeMoE, sequence", LANES: "AgeMoE, lanes"}
    rows = [
        *((name, found) for name, found in sequence["execute"].items()),
        *((labels.get(name, name), found) for name, found in batch["ways"].items()),
    ]
    yield ""
    yield f"batch of {faces}, {batch['rounds']} interleaved rounds, milliseconds"
    yield from table(
        ["", *_PERCENTILES, "95 % of median", "faces/s"],
        [[n, *_durations(found), f"{faces / found['p50_seconds']:.1f}"] for n, found in rows],
    )
    yield from _stages(batch)
    yield from _concurrency(batch["concurrency"])
    yield _overhead(batch["overhead"])
    for name, ratios in batch["times_faster"].items():
        yield from _times_faster(name, ratios)
    for pair, years in batch["answers"].items():
        yield f"ages, {pair}: at most {max(years.values(), default=0.0):.1e} years apart"


def _durations(found: Report) -> list[str]:
    low, high = map(milliseconds, found["median_interval_seconds"])
    return [*(milliseconds(found[f"{p}_seconds"]) for p in _PERCENTILES), f"{low}…{high}"]


def _stages(batch: Report) -> Iterator[str]:
    for mode in MODES:
        found = batch["ways"][mode]
        stages = {name: stage["p50_seconds"] for name, stage in found["stages"].items()}
        copied = sum(copy["p50_seconds"] for copy in found["copy"].values())
        stages |= {"upload and download": copied} if copied else {}
        yield f"{mode}: {_times(stages)}"


def _concurrency(found: Report) -> Iterator[str]:
    if found["overlap"] is None:
        return
    overlap, ratio = found["overlap"], found["lanes_over_sequence"]
    times = {name: found[f"{name}_seconds"] for name in ("sum", "slowest", "lanes")}
    yield f"experts: {_times(times)}; overlap {interval(overlap)}"
    yield f"lanes take {interval(ratio)} of a sequence (sign test: p = {ratio['p_value']:.2g})"


def _overhead(found: Report) -> str:
    parts = _times({name: part["p50_seconds"] for name, part in found["parts"].items()})
    beside = ""
    if found["share"]:
        beside = f", {found['share']['median']:.1%} of {' + '.join(found['beside'])}"
    return f"own overhead: {milliseconds(found['total']['p50_seconds'])} ms{beside} ({parts})"


def _times_faster(name: str, ratios: Report) -> Iterator[str]:
    medians = listed({mode: interval(ratios[mode]) for mode in MODES})
    best = listed({mode: f"{ratios[mode]['fastest']:.2f}" for mode in MODES})
    yield f"times faster than {name}: {medians}; fastest rounds: {best}"
    yield f"  by expert: {listed({n: interval(r) for n, r in ratios['experts'].items()})}"


def interval(found: Mapping[str, float]) -> str:
    """Returns a median with its interval."""
    return f"{found['median']:.2f} ({found['low']:.2f}…{found['high']:.2f})"


def _times(seconds: Mapping[str, float | None]) -> str:
    return listed({name: milliseconds(value) for name, value in seconds.items()})
