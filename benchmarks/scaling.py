"""What a photograph costs, by the number of workers: bulk labeling on a Ray cluster of one node.

    python benchmarks/scaling.py --engines engines --workers 1 2

Every worker has one core and one `AgeMoE`. Rounds are interleaved and the median is told, because
other work on the machine slows them unevenly; the processor time that all processes of a job took,
Ray's own included, suffers less from that. The pictures are noise: labeling takes as long.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file: python benchmarks/scaling.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
from PIL import Image

from runtime.labeling import WHOLE, LabelJob, Stream

_SIDE = 256
"""Of the pictures, in pixels."""
_STORE_BYTES = 100 << 20
_HOUR_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Run:
    """One job."""

    start_seconds: float
    """Until the first rows came: processes started, engines opened."""
    photo_seconds: float
    """Per photograph afterwards."""
    cpu_seconds: float
    """Per photograph: processor time of all processes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table."""
    parsed = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")  # demo engines say at every opening that they are
    job = LabelJob(str(parsed.engines), faces=WHOLE, device="cpu")
    # The workers are other processes, which have to find this checkout.
    os.environ.update(PYTHONPATH=str(Path(__file__).parent.parent), RAY_USAGE_STATS_ENABLED="0")
    runs: dict[int, list[Run]] = {workers: [] for workers in (0, *parsed.workers)}
    with tempfile.TemporaryDirectory() as folder:
        paths = _pictures(Path(folder), parsed.photographs)
        for _ in range(parsed.rounds):
            for workers, of_workers in runs.items():
                of_workers.append(_on_ray(job, workers, paths) if workers else _here(job, paths))
    _print_table(runs, parsed.core_hour)
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
    """Ages per second from the first third on: workers do not all begin at the same time."""
    done = 0
    marks: list[tuple[float, float, int]] = []
    for batch in stream(paths):
        done += len(batch)
        marks.append((time.perf_counter(), _cpu_seconds(), done))
    first, last = next(mark for mark in marks if mark[2] >= len(paths) / 3), marks[-1]
    photographs = last[2] - first[2]
    return Run(
        start_seconds=marks[0][0] - started,
        photo_seconds=(last[0] - first[0]) / photographs,
        cpu_seconds=(last[1] - first[1]) / photographs,
    )


def _cpu_seconds() -> float:
    """Processor time so far of this process and all that descend from it (Linux)."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
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


def _print_table(runs: dict[int, list[Run]], core_hour: float) -> None:
    load = os.getloadavg()[1]
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores, load of the last five minutes {load:.1f}, medians\n")
    print(
        "| workers | until the first rows | photographs/s | processor time each | a million cost |"
    )
    print("|---|---:|---:|---:|---:|")
    for workers, of_workers in runs.items():
        start = statistics.median(run.start_seconds for run in of_workers)
        each = statistics.median(run.photo_seconds for run in of_workers)
        cpu = statistics.median(run.cpu_seconds for run in of_workers)
        cost = cpu * 1e6 / _HOUR_SECONDS * core_hour
        name = workers or f"in this process, {cores} cores"
        print(f"| {name} | {start:.1f} s | {1 / each:.1f} | {cpu * 1e3:.1f} ms | {cost:.2f} |")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/scaling.py", description=__doc__)
    add = parser.add_argument
    add("--engines", type=Path, default=Path("engines"), help="the engines folder")
    add("--workers", type=int, nargs="+", default=[1, 2], metavar="N", help="of one core each")
    add("--photographs", type=int, default=600, metavar="N", help="in each job")
    add("--rounds", type=int, default=3, metavar="N", help="of all numbers of workers in turn")
    add("--core-hour", type=float, default=0.04, metavar="PRICE", help="in your currency")
    return parser


if __name__ == "__main__":
    sys.exit(main())
