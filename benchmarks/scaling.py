"""Cost per photograph by number of workers: bulk labeling on a Ray cluster of one node.

Each worker has one core and one `AgeMoE`. Rounds are interleaved and medians reported, because
other programs slow them down unevenly; processor time, which includes all processes of a job and
Ray's own, is affected less. The pictures are noise, which takes as long to label as photographs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

if __package__ in (None, ""):  # run as a file: python benchmarks/scaling.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
from PIL import Image

from benchmarks.measuring import interleaved
from benchmarks.options import exit_status
from benchmarks.reports import markdown_table
from runtime.commands import Parser, count, not_negative
from runtime.labeling import WHOLE, LabelJob, Stream
from runtime.manifest_file import read_manifest
from runtime.shared_options import add_engines

_SIDE = 256
"""Of the pictures, in pixels."""
_SUMMARY = "Measures bulk labeling on a Ray cluster of one node by number of workers."
_STORE_BYTES = 100 << 20
_HOUR_SECONDS = 3600.0
_TITLES = (
    *("workers", "until the first rows", "photographs/s"),
    *("processor time each", "a million cost"),
)
Run = tuple[float, float, float]
"""Seconds until the first rows (start of processes, opening of engines); afterwards seconds and
processor seconds of all processes, per photograph."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table."""
    options = parser().parse_args(arguments)
    return exit_status(partial(_measure, options))


def _measure(options: argparse.Namespace) -> int:
    read_manifest(options.engines)  # an error in a worker says less
    warnings.simplefilter("ignore")  # demo engines warn each time they are opened
    job = LabelJob(str(options.engines), faces=WHOLE, device="cpu")
    # The workers are other processes, which have to find this checkout.
    os.environ.update(PYTHONPATH=str(Path(__file__).parent.parent), RAY_USAGE_STATS_ENABLED="0")
    with tempfile.TemporaryDirectory() as folder:
        paths = _pictures(Path(folder), options.photographs)
        here = f"in this process, {len(os.sched_getaffinity(0))} cores"
        runs = {here: partial(_here, job, paths)}
        runs |= {str(n): partial(_on_ray, job, n, paths) for n in options.workers}
        found = interleaved(runs, seconds=0.0, min_rounds=options.rounds, warm_up=0)
    print(f"load of the last five minutes {os.getloadavg()[1]:.1f}, medians\n")
    rows = [_row(name, own, options.core_hour) for name, own in found.items()]
    print(markdown_table(_TITLES, rows, ("---", *["---:"] * 4)))
    return 0


def _here(job: LabelJob, paths: Sequence[str]) -> Run:
    started = time.perf_counter()
    with job.opened() as labeler:
        return _timed(labeler.stream, paths, started)


def _on_ray(job: LabelJob, workers: int, paths: Sequence[str]) -> Run:
    from ray.cluster_utils import Cluster

    from runtime.serving.ray_labeling import ray_stream

    head = {"num_cpus": workers, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        started = time.perf_counter()
        with ray_stream(job, cluster.address) as stream:
            return _timed(stream, paths, started)
    finally:
        cluster.shutdown()


def _timed(stream: Stream, paths: Sequence[str], started: float) -> Run:
    """Measures the last two thirds of the job, because workers begin at different times."""
    done = 0
    marks: list[tuple[float, float, int]] = []
    for batch in stream(paths):
        done += len(batch)
        marks.append((time.perf_counter(), _cpu_seconds(), done))
    first, last = next(mark for mark in marks if mark[2] >= len(paths) / 3), marks[-1]
    each, cpu = ((last[i] - first[i]) / (last[2] - first[2]) for i in (0, 1))
    return marks[0][0] - started, each, cpu


def _cpu_seconds() -> float:
    """Returns the processor time so far of this process and all its descendants (Linux)."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            pid = int(stat.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(ticks[pid] for pid in ours) / os.sysconf("SC_CLK_TCK")


def _pictures(folder: Path, count: int) -> list[str]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{number:05}.jpg" for number in range(count)]
    for path in paths:
        pixels = rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return [str(path) for path in paths]


def _row(name: str, runs: Sequence[Run], core_hour: float) -> tuple[str, ...]:
    start, each, cpu = (median(run[i] for run in runs) for i in range(3))
    cost = cpu * 1e6 / _HOUR_SECONDS * core_hour
    return name, f"{start:.1f} s", f"{1 / each:.1f}", f"{cpu * 1e3:.1f} ms", f"{cost:.2f}"


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog="python benchmarks/scaling.py",
        description=_SUMMARY,
        examples=("--engines engines --workers 1 2 4", "--photographs 2000 --core-hour 0.05"),
    )
    add, workers = parser.add_argument, "numbers of Ray workers, of one core each"
    rounds = "rounds, each with every number of workers in turn"
    price = "price of a core per hour, in any currency"
    add_engines(parser)
    add("--workers", type=count, nargs="+", default=[1, 2], metavar="N", help=workers)
    add("--photographs", type=count, default=600, metavar="N", help="photographs in each job")
    add("--rounds", type=count, default=3, metavar="N", help=rounds)
    add("--core-hour", type=not_negative, default=0.04, metavar="PRICE", help=price)
    return parser


if __name__ == "__main__":
    sys.exit(main())
