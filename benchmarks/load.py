"""What many callers of one `AgeMoE` get: latency by request rate, saturation, and no mix-ups.

python benchmarks/load.py
python benchmarks/load.py --callers 1 8 32 --rate 5 10 --deadline-ms 500 --json load.json
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script: the repository's root must be on the path, benchmarks/ must not.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks import text
from benchmarks.arguments import INTERRUPTED, count, new_file, positive
from benchmarks.callers import Target, closed_loop, open_loop
from benchmarks.machine import load_average, machine, peak_bytes
from benchmarks.pictures import HEIGHT, WIDTH, faces
from benchmarks.subjects import described_experts
from benchmarks.tally import Tally
from runtime import AgeMoE, AgeMoEError, PlaceholderWeightsWarning
from runtime.cores import usable_cores
from runtime.files import write_json, write_whole

SCHEMA_VERSION = 1
WRONG, REFUSED = 1, 2
_DIFFERENT_FACES = 16
_SHARES = (0.25, 0.5, 0.75, 0.9, 1.0, 1.15)
"""Of what a closed loop reaches: the rates that are tried where none were given."""
_HALVINGS = 3
"""Steps of the search for saturation."""

Figures = dict[str, object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status.

    0: every answer was that of a serial run. 1: one was not. 2: refused. 130: interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PlaceholderWeightsWarning)  # the table says it
            report, wrong = measure(options)
        print(text.load(report))
        if options.json:
            write_json(options.json, report)
        if options.plot:
            from benchmarks.plots import load_picture

            write_whole(options.plot, load_picture(report))
    except (AgeMoEError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("Interrupted; nothing was written.", file=sys.stderr)
        return INTERRUPTED
    return WRONG if wrong else 0


def measure(options: argparse.Namespace) -> tuple[Figures, int]:
    """Measures everything that was asked for; also says how many answers were wrong."""
    before = load_average()
    with AgeMoE(
        options.engines,
        device=options.device,
        precision=options.precision,
        experts=options.experts,
        threads=options.threads,
        concurrency=options.concurrency,
    ) as moe:
        target = Target(moe, faces(_DIFFERENT_FACES), options.deadline_ms)
        closed = _there_and_back(
            options.callers, options.seconds, lambda n, s: closed_loop(target, int(n), s)
        )
        capacity = max(tally.answers_per_second for tally in closed.values())
        if not capacity:
            raise ValueError("No request was answered in time. Give a longer --deadline-ms.")
        opened, saturation = _open(options, target, capacity)
        described = described_experts(moe, options.engines, options.precision)
        concurrency = moe.concurrency
    report: Figures = {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "load",
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load_average": {"before": before, "after": load_average()},
        "settings": {
            "device": options.device,
            "threads": options.threads or usable_cores(),
            "concurrency": concurrency,
            "seconds": options.seconds,
            "deadline_ms": options.deadline_ms,
            "input": f"{_DIFFERENT_FACES} drawn people in JPEGs of {WIDTH}×{HEIGHT}, in turn",
        },
        "experts": described,
        "peak_bytes": peak_bytes(),
        "closed_loop": [{"callers": int(n), **tally.as_json()} for n, tally in closed.items()],
        "open_loop": [{"rate": rate, **tally.as_json()} for rate, tally in opened.items()],
        "saturation": saturation,
    }
    return report, sum(tally.wrong for tally in (*closed.values(), *opened.values()))


def _open(
    options: argparse.Namespace, target: Target, capacity: float
) -> tuple[dict[float, Tally], Figures]:
    """Requests at the rates asked for, and between the last that was kept up with and the next."""
    rates = options.rate or [round(share * capacity, 2) for share in _SHARES]

    seeds = itertools.count()

    def run(rate: float, seconds: float) -> Tally:
        return open_loop(target, rate, seconds, seed=next(seeds))

    found = _there_and_back(rates, options.seconds, run)
    kept, lost = _bounds(found)
    for _ in range(_HALVINGS):
        if kept is None or lost is None:
            break
        rate = round((kept + lost) / 2, 2)
        found |= _there_and_back([rate], options.seconds, run)
        kept, lost = _bounds(found)
    return found, {"rate": kept, "lost_rate": lost, "closed_loop_per_second": capacity}


def _bounds(found: dict[float, Tally]) -> tuple[float | None, float | None]:
    """The highest rate below all that were too high, and the lowest of these."""
    lost = min((rate for rate, tally in found.items() if not tally.kept_up), default=None)
    kept = [r for r, tally in found.items() if tally.kept_up and (lost is None or r < lost)]
    return max(kept, default=None), lost


def _there_and_back(
    points: Sequence[float], seconds: float, run: Callable[[float, float], Tally]
) -> dict[float, Tally]:
    """Each point for half the time up and half the time down, so that drift hits all alike."""
    tallies = {point: run(point, seconds / 2) for point in points}
    for point in reversed(points):
        tallies[point] += run(point, seconds / 2)
    return tallies


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/load.py",
        description="Measures what many callers of one AgeMoE get.",
    )
    add = parser.add_argument
    add("--engines", type=Path, default=Path("engines"), metavar="DIR", help="default: engines")
    add("--device", default="auto", help="as AgeMoE takes it; default: auto")
    add("--precision", default="auto", help="as AgeMoE takes it; default: auto")
    add("--experts", nargs="+", metavar="NAME", help="only these; default: all")
    add("--threads", type=count, metavar="N", help="as AgeMoE takes it; default: all cores")
    add("--concurrency", default="auto", help="as AgeMoE takes it; default: auto")
    callers = [1, 2, 4, 8]
    add("--callers", type=count, nargs="+", default=callers, metavar="N", help="default: 1 2 4 8")
    add("--rate", type=positive, nargs="+", metavar="R", help="per second; default: by capacity")
    add("--seconds", type=positive, default=10.0, help="per number of callers or rate; default: 10")
    add("--deadline-ms", type=positive, metavar="MS", help="of every request; default: none")
    add("--json", type=new_file, metavar="PATH", help="write everything there")
    add("--plot", type=new_file, metavar="PATH", help="write a picture (PNG) there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
