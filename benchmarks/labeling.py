"""Bulk labeling from photographs to the table, starting included, beside the sum of its parts.

Every round runs `label` once on each folder in a fresh process; with `--against`, also as another
checkout of this project has it. Processor time is that of all its processes: other programs affect
it less than wall time. The parts are timed one after the other, in one thread, so their sum over
the cores is the least that `label` can take.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

if __package__ in (None, ""):  # run as a file: python benchmarks/labeling.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.measuring import interleaved
from benchmarks.options import exit_status
from benchmarks.reports import markdown_table
from runtime.agemoe import AgeMoE
from runtime.cores import usable_cores
from runtime.decoding import DecoderPool
from runtime.images import ImageLimits
from runtime.label_lists import photographs_in
from runtime.labeler import BATCH_SIZE
from runtime.labeling import LabelJob
from runtime.manifest_file import read_manifest
from runtime.photographs import scene_in
from runtime.shared_options import add_engines

_HERE = Path(__file__).resolve().parent.parent
_SUMMARY = "Measures bulk labeling of photographs, starting included, beside the sum of its parts."
_TITLES = (
    *("photographs", "checkout", "wall, s", "range", "processor, s", "memory, MB"),
    *("wall, times", "processor, times", "table"),
)
_STARTS = 3
START, DECODE, FIND, CROP, PREDICT = "start", "decode", "find faces", "crop", "experts, fusion"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of `label`."""

    wall: float
    """Seconds."""
    processor: float
    """Seconds of all processes."""
    peak_bytes: float
    """Memory of the largest process."""
    table: str
    """SHA-256 of the table."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints two tables."""
    return exit_status(partial(_measure, parser().parse_args(arguments)))


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the arguments."""
    from runtime.commands import Parser, count

    parser = Parser(
        prog="python benchmarks/labeling.py",
        description=_SUMMARY,
        examples=("photos/ large/ --rounds 9", "photos/ --against ../before"),
    )
    add, photos = parser.add_argument, "folders of photographs, each labeled on its own"
    against = "another checkout of this project, which labels the same photographs"
    add("photos", nargs="+", metavar="DIR", help=photos)
    add_engines(parser)
    add("--against", type=Path, metavar="CHECKOUT", help=against)
    add("--rounds", type=count, default=5, metavar="N", help="rounds, each with every folder")
    return parser


def _measure(options: argparse.Namespace) -> int:
    read_manifest(options.engines)  # an error in a process says less
    engines = options.engines.resolve()
    photographs = {folder: photographs_in([folder]) for folder in options.photos}
    checkouts = {"this": _HERE}
    if options.against is not None:
        if not (options.against / "runtime").is_dir():
            raise ValueError(f"{options.against} is no checkout of this project.")
        checkouts["against"] = options.against.resolve()
    runs = {
        f"{folder} | {name}": partial(labeled, checkout, engines, folder)
        for folder in photographs
        for name, checkout in checkouts.items()
    }
    found = interleaved(runs, seconds=0.0, min_rounds=options.rounds, warm_up=0)
    print(f"load of the last five minutes {os.getloadavg()[1]:.1f}, medians, starting included\n")
    rows = []
    for name, own in found.items():
        folder = name.rpartition(" | ")[0]
        ours = found[f"{folder} | this"]
        rows.append([f"{name} ({len(photographs[folder])})", *_cells(own, ours)])
    titles = (f"{_TITLES[0]} | {_TITLES[1]}", *_TITLES[2:])
    print(markdown_table(titles, rows, ("---", "---", *["---:"] * 6, "---")))
    for folder, paths in photographs.items():
        seconds = parts(str(engines), paths)
        own_seconds = median(run.processor for run in found[f"{folder} | this"])
        print(f"\n{folder}: processor time of the parts in one thread, ms per photograph\n")
        print(_parts_table(seconds, len(paths), own_seconds))
    return 0


def _cells(runs: Sequence[Run], ours: Sequence[Run]) -> list[str]:
    wall = [run.wall for run in runs]
    same = {run.table for run in runs} == {run.table for run in ours}
    pairs = list(zip(runs, ours, strict=True))
    return [
        f"{median(wall):.2f}",
        f"{min(wall):.2f}…{max(wall):.2f}",
        f"{median(run.processor for run in runs):.2f}",
        f"{median(run.peak_bytes for run in runs) / 1e6:.0f}",
        f"{median(other.wall / our.wall for other, our in pairs):.2f}",
        f"{median(other.processor / our.processor for other, our in pairs):.2f}",
        "the same" if same else "another one",
    ]


def _parts_table(seconds: Mapping[str, float], count: int, ours: float) -> str:
    each = {name: own / count * 1e3 for name, own in seconds.items()}
    total = sum(each.values())
    cores = usable_cores()
    rows = [[name, f"{own:.2f}", f"{own / total:.0%}"] for name, own in each.items()]
    rows += [
        ["sum of the parts", f"{total:.2f}", ""],
        ["`label`", f"{ours / count * 1e3:.2f}", f"{ours / count * 1e3 / total:.0%}"],
        [f"least wall time on {cores} cores, s", f"{sum(seconds.values()) / cores:.2f}", ""],
    ]
    return markdown_table(("part", "ms", "of the sum"), rows, ("---", "---:", "---:"))


def labeled(checkout: Path, engines: Path, folder: str) -> Run:
    """Labels a folder in fresh processes of a checkout.

    Raises:
        RuntimeError: `label` failed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        table, errors = Path(temporary) / "ages.csv", Path(temporary) / "errors.txt"
        # Python looks for modules in the working directory first: those of the checkout.
        command = [sys.executable, "-W", "ignore", "-m", "runtime", "label", "--no-progress"]
        command += [str(Path(folder).resolve()), "--engines", str(engines), "--output", str(table)]
        with errors.open("wb") as said:
            started = time.perf_counter()
            process = subprocess.Popen(command, cwd=checkout, stderr=said)
            _, status, used = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        if not table.exists():
            reason = errors.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"{checkout} cannot label {folder}:\n{reason}")
        sha256 = hashlib.sha256(table.read_bytes()).hexdigest()
    return Run(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024.0, sha256)


def parts(engines: str, paths: Sequence[str]) -> dict[str, float]:
    """Returns the seconds of processor time of each part, for all photographs together."""
    seconds = {START: _start(engines, paths[0])}
    job, limits = LabelJob(engines), ImageLimits()
    with _processor_time() as idle, DecoderPool(1) as decoders:
        decoders.start()
    with _processor_time() as all_decoding, DecoderPool(1) as decoders:
        for path in paths:
            decoders.decode(path, limits)
    seconds[DECODE] = all_decoding() - idle()
    with DecoderPool(1) as decoders, _alone(job, decoders) as moe:
        detector = moe.detector
        for start in range(0, len(paths), BATCH_SIZE):
            prepared = []
            for path in paths[start : start + BATCH_SIZE]:
                pixels = decoders.decode(path, limits)
                with _counted(seconds, FIND):
                    scene = scene_in(pixels, detector)
                with _counted(seconds, CROP):
                    prepared += moe.prepare(scene.faces, quality=False)
            with _counted(seconds, PREDICT):
                if prepared:
                    moe.predict_prepared(prepared)
    return seconds


def _alone(job: LabelJob, decoders: DecoderPool) -> AgeMoE:
    return job.open_engines(decoders, threads=1, concurrency="sequence")


def _start(engines: str, path: str) -> float:
    """Returns the processor time of labeling one photograph, less that of doing so again."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("once", "twice"):
            (Path(folder) / name).mkdir()
        source = Path(path).resolve()
        (Path(folder) / "once" / source.name).symlink_to(source)
        for name in ("0", "1"):
            (Path(folder) / "twice" / f"{name}{source.name}").symlink_to(source)
        once, twice = (
            min(labeled(_HERE, Path(engines), f"{folder}/{name}").processor for _ in range(_STARTS))
            for name in ("once", "twice")
        )
    return max(2 * once - twice, 0.0)


@contextmanager
def _counted(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.process_time()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.process_time() - started


@contextmanager
def _processor_time() -> Iterator[Callable[[], float]]:
    """Yields a function that returns the time since, of this process and those that have ended."""

    def now() -> float:
        used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(each.ru_utime + each.ru_stime for each in used)

    started, total = now(), 0.0
    yield lambda: total
    total = now() - started


if __name__ == "__main__":
    sys.exit(main())
