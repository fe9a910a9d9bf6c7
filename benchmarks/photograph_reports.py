"""The text report of `photographs.py`: aligned tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import reports
from benchmarks.photograph_methods import AGEMOE, STAGES

Report = Mapping[str, Any]


def photographs(report: Report) -> str:
    """Returns the report of photographs.py."""
    sources = {**report["sources"], "all": report["all"]}
    if len(report["sources"]) == 1:
        del sources["all"]
    return "\n".join(
        [
            *reports.machine(report),
            *reports.experts(report),
            f"detector: {report['settings']['detector']}",
            *(f"{name}: {reports.listed(what)}" for name, what in report["baselines"].items()),
            *(_photographs(name, counts) for name, counts in report["photographs"].items()),
            *_accuracy("source", sources),
            *_accuracy("age group", report["age_groups"]),
            *_common(sources),
            *_times(sources),
        ]
    )


def _photographs(name: str, counts: Mapping[str, int]) -> str:
    left_out = f", {counts['excluded']} excluded" if counts["excluded"] else ""
    return f"{name}: {counts['measured']} of {counts['labeled']} photographs{left_out}"


def _accuracy(kind: str, sections: Mapping[str, Report]) -> Iterator[str]:
    rows = [
        [name if method == AGEMOE else "", method, *_method_row(section, figures)]
        for name, section in sections.items()
        for method, figures in section["methods"].items()
    ]
    title = [
        *(kind, "method", "photographs", "found", "only a wrong face", "several"),
        *("MAE", "95 %", "bias", "90 % covers", "width"),
    ]
    yield ""
    yield from reports.table(title, rows, left=2)


def _method_row(section: Report, figures: Report) -> Sequence[str]:
    covered = figures.get("coverage")
    return [
        str(section["photographs"]),
        f"{figures['found']['rate']:.1%}",
        str(figures["only_wrong"]),
        str(figures["several"]),
        _years(figures.get("mae")),
        _range(figures.get("mae_interval")),
        "-" if "bias" not in figures else f"{figures['bias']:+.2f}",
        "-" if covered is None else f"{covered['rate']:.1%}",
        _years(figures.get("interval_width_years"), digits=1),
    ]


def _common(sections: Mapping[str, Report]) -> Iterator[str]:
    """Compares the methods on the photographs in which all of them found the face."""
    if not any(section["found_by_all"]["photographs"] for section in sections.values()):
        return
    names = list(sections[next(iter(sections))]["found_by_all"]["methods"])
    others = {n for s in sections.values() for n in s["found_by_all"].get("mae_minus", {})}
    rows = []
    for name, section in sections.items():
        common = section["found_by_all"]
        errors = [_years(common["methods"].get(n, {}).get("mae")) for n in names]
        minus = common.get("mae_minus", {})
        gaps = [f"{m['years']:+.2f} ({_range(m['interval'])})" for m in minus.values()]
        rows.append([name, str(common["photographs"]), *errors, *(gaps or ["-"] * len(others))])
    title = ["MAE where all found it", "photographs", *names, *(f"{AGEMOE} − {n}" for n in others)]
    yield ""
    yield from reports.table(title, rows)


def _times(sections: Mapping[str, Report]) -> Iterator[str]:
    ms, stages = reports.milliseconds, []
    rows = []
    for name, section in sections.items():
        for method, seconds in section["seconds"].items():
            low, high = map(ms, seconds["median_interval_seconds"])
            percentiles = [ms(seconds[f"{p}_seconds"]) for p in ("p50", "p90", "p99")]
            faster = section["times_faster_than"].get(method)
            ratio = "" if faster is None else reports.interval(faster)
            first = name if method == AGEMOE else ""
            rows.append([first, method, *percentiles, f"{low}…{high}", ratio])
        spent = {s: ms(section["stage_seconds"][s]["p50_seconds"]) for s in STAGES}
        stages.append([name, *spent.values()])
    title = ["ms from file to ages", "method", "p50", "p90", "p99", "95 % of median"]
    yield ""
    yield from reports.table([*title, f"times {AGEMOE}'s"], rows, left=2)
    yield ""
    yield from reports.table([f"ms of {AGEMOE}, medians", *STAGES], stages)


def _years(years: float | None, digits: int = 2) -> str:
    return "-" if years is None else f"{years:.{digits}f}"


def _range(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else "{:.2f}…{:.2f}".format(*interval)
