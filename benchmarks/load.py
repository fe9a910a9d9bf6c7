"""Latency and throughput of many concurrent callers of one `AgeMoE`, by request rate."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

if __package__ in (None, ""):
    # Run as a script: the repository's root must be on the path, benchmarks/ must not.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks import environment, reports
from benchmarks import options as shared
from benchmarks.load_generator import Tally, Target, closed_loop, open_loop
from benchmarks.plots import load_plot
from runtime import AgeMoE, commands
from runtime.cores import usable_cores
from runtime.serving import Batcher

SCHEMA_VERSION = 1
WRONG = 1
_SHARES = (0.25, 0.5, 0.75, 0.9, 1.0, 1.15)
"""Rates to measure where none are given, relative to the throughput of the closed loop."""
_BISECTIONS = 3
"""Steps of the search for saturation."""

Figures = dict[str, object]
Point = TypeVar("Point")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status.

    0: every answer equals that of a serial run. 1: one does not. 2: refused. 130: interrupted.
    """
    options = parser().parse_args(arguments)

    def run() -> int:
        report, wrong = measure(options)
        print(reports.load(report))
        shared.write_outputs(options, report, load_plot)
        return WRONG if wrong else 0

    return shared.exit_status(run)


def measure(options: argparse.Namespace) -> tuple[Figures, int]:
    """Runs all measurements; returns the report and the number of wrong answers."""
    before = environment.load_average()
    with AgeMoE(**shared.agemoe_options(options), concurrency=options.concurrency) as moe:  # type: ignore[arg-type]
        faces = shared.input_faces(shared.DRAWN_FACES)
        target = Target(moe, faces, deadline_ms=options.deadline_ms)
        closed = _up_and_down(options.callers, options.seconds, partial(closed_loop, target))
        capacity = max(tally.answers_per_second for tally in closed.values())
        if not capacity:
            raise ValueError("No request was answered in time. Give a longer --deadline-ms.")
        rates = options.rate or [round(share * capacity, 2) for share in _SHARES]
        opened, saturation = _open(target, rates, options.seconds)
        batched = _micro_batching(options, target, rates)
        described = environment.described_experts(moe, options.engines, options.precision)
        concurrency = moe.concurrency
    report: Figures = {
        **environment.report_header("load", SCHEMA_VERSION),
        "load_average": {"before": before, "after": environment.load_average()},
        "settings": {
            "device": options.device,
            "threads": options.threads or usable_cores(),
            "concurrency": concurrency,
            "seconds": options.seconds,
            "deadline_ms": options.deadline_ms,
            "input": f"{shared.DRAWN_FACES} {shared.DRAWN}, in turn",
        },
        "experts": described,
        "peak_bytes": environment.peak_bytes(),
        "closed_loop": [{"callers": n, **tally.as_json()} for n, tally in closed.items()],
        "open_loop": [{"rate": rate, **tally.as_json()} for rate, tally in opened.items()],
        "saturation": {**saturation, "closed_loop_per_second": capacity},
    }
    if batched:
        report["micro_batching"] = [
            {
                "rate": rate,
                "max_batch": n,
                "mean_batch": t.answers / max(t.batches, 1),
                **t.as_json(),
            }
            for (rate, n), t in batched.items()
        ]
    tallies = (*closed.values(), *opened.values(), *batched.values())
    return report, sum(tally.wrong for tally in tallies)


def _open(
    target: Target, rates: Sequence[float], seconds: float
) -> tuple[dict[float, Tally], Figures]:
    """Measures the given rates, and bisects between the last that was sustained and the next."""
    seeds = itertools.count()

    def run(rate: float, seconds: float) -> Tally:
        return open_loop(target, rate, seconds, seed=next(seeds))

    found = _up_and_down(rates, seconds, run)
    kept, lost = _bounds(found)
    for _ in range(_BISECTIONS):
        if kept is None or lost is None:
            break
        found |= _up_and_down([round((kept + lost) / 2, 2)], seconds, run)
        kept, lost = _bounds(found)
    return found, {"rate": kept, "lost_rate": lost}


def _micro_batching(
    options: argparse.Namespace, target: Target, rates: Sequence[float]
) -> dict[tuple[float, int], Tally]:
    """Measures each rate through a `Batcher` of single faces and one of `--max-batch` in turn."""
    limits = (1, options.max_batch) if options.max_batch else ()
    runs = itertools.count()

    def run(point: tuple[float, int], seconds: float) -> Tally:
        rate, limit = point
        sizes: list[int] = []
        with Batcher(
            target.moe.predict,
            max_batch=limit,
            max_wait_ms=options.max_wait_ms if limit > 1 else 0.0,
            workers=options.workers,
            queue_limit=options.queue_limit,
            on_batch=lambda size, _: sizes.append(size),
        ) as batcher:
            # Both limits get the same arrivals.
            seed = next(runs) // 2
            tally = open_loop(target, rate, seconds, seed=seed, submit=batcher.submit)
        tally.batches = len(sizes)
        return tally

    return _up_and_down([(r, limit) for r in rates for limit in limits], options.seconds, run)


def _bounds(found: dict[float, Tally]) -> tuple[float | None, float | None]:
    """Returns the highest rate below all that were not sustained, and the lowest of these."""
    lost = min((rate for rate, tally in found.items() if not tally.kept_up), default=None)
    kept = [r for r, tally in found.items() if tally.kept_up and (lost is None or r < lost)]
    return max(kept, default=None), lost


def _up_and_down(
    points: Sequence[Point], seconds: float, run: Callable[[Point, float], Tally]
) -> dict[Point, Tally]:
    """Runs each point for half the time in order and half in reverse, so that drift affects all."""
    tallies = {point: run(point, seconds / 2) for point in points}
    for point in reversed(points):
        tallies[point] += run(point, seconds / 2)
    return tallies


def parser() -> commands.Parser:
    """Returns the parser of the arguments."""
    parser = shared.parser_of(
        "load.py",
        "Measures latency and throughput of many concurrent callers of one AgeMoE.",
        (
            "--callers 1 8 32 --rate 5 10 --deadline-ms 500 --json load.json",
            "--max-batch 8 --plot batching.png",
        ),
        seconds=10.0,
        per="number of callers or rate",
    )
    add, count, positive = parser.add_argument, commands.count, commands.positive
    several, callers = [1, 2, 4, 8], "numbers of concurrent callers"
    concurrency = "how experts run: auto, lanes (at the same time) or sequence"
    rate = "arrival rates in requests per second (default: by the measured capacity)"
    deadline = "deadline of every request in milliseconds (default: none)"
    batch = "also measure micro-batching, up to this number of faces per batch"
    waiting, delay = "maximum faces waiting for a batch", "maximum batching delay in milliseconds"
    add("--concurrency", default="auto", help=concurrency)
    add("--callers", type=count, nargs="+", default=several, metavar="N", help=callers)
    add("--rate", type=positive, nargs="+", metavar="R", help=rate)
    add("--deadline-ms", type=positive, metavar="MS", help=deadline)
    add("--max-batch", type=count, metavar="N", help=batch)
    add("--max-wait-ms", type=positive, default=2.0, metavar="MS", help=delay)
    add("--queue-limit", type=count, default=256, metavar="N", help=waiting)
    add("--workers", type=count, default=2, metavar="N", help="number of concurrent batches")
    return parser


if __name__ == "__main__":
    sys.exit(main())
