"""Seconds until the experts of engines folders are open, each time in a fresh process.

Every round opens each folder in three ways: as it is; without hashing its files; and without
hashing, in lanes, so that no mode is measured. The differences are what these steps cost. The files
are in memory, as when a service is restarted. Processor time, of all threads, is affected less by
other programs than wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a file: python benchmarks/opening.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

if TYPE_CHECKING:
    from runtime.manifest import Manifest

_HERE = Path(__file__).resolve()
_CHILD = "--open"
_SUMMARY = "Measures how long engines folders take to open."
WAYS: Mapping[str, Mapping[str, object]] = {
    "as it is": {},
    "no hashes": {"verify": False},
    "no hashes, no trial": {"verify": False, "concurrency": "lanes"},
}
"""Options of `AgeMoE`, by what they leave out."""
_TITLES = ("engines", "opened", "wall, s", "range", "processor, s", "memory, MB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints a table."""
    from benchmarks.options import exit_status

    options = parser().parse_args(arguments)
    return exit_status(partial(_measure, options))


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the arguments."""
    from runtime.commands import Parser, count
    from runtime.manifest import PRECISIONS

    parser = Parser(
        prog="python benchmarks/opening.py",
        description=_SUMMARY,
        examples=("--engines engines", "--engines build/full --precision bf16 --rounds 9"),
    )
    add = parser.add_argument
    folders = "folders to compare (default: engines)"
    add("--engines", type=Path, nargs="+", metavar="FOLDER", help=folders)
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="as of AgeMoE")
    add("--rounds", type=count, default=5, metavar="N", help="rounds of all")
    return parser


def _measure(options: argparse.Namespace) -> int:
    from benchmarks.measuring import interleaved
    from benchmarks.reports import markdown_table
    from runtime.manifest_file import read_manifest

    engines = options.engines or [Path("engines")]
    for folder in engines:  # an error in a process says less, and a warning nothing
        _check_precision(folder, read_manifest(folder), options.precision)
    runs = {
        f"{folder} | {way}": partial(
            opening, {"engines": str(folder), "precision": options.precision, **chosen}
        )
        for folder in engines
        for way, chosen in WAYS.items()
    }
    found = interleaved(runs, seconds=0.0, min_rounds=options.rounds, warm_up=1)
    print(f"load of the last five minutes {os.getloadavg()[1]:.1f}, medians, import included\n")
    rows = [[name, *_cells(own)] for name, own in found.items()]
    print(markdown_table(_TITLES, rows, ("---", "---", *["---:"] * 4)))
    return 0


def _check_precision(folder: Path, manifest: Manifest, precision: str) -> None:
    """Raises `ValueError` if an expert would be measured in another precision."""
    for name, expert in manifest.experts.items():
        if precision not in ("auto", *(artifact.precision for artifact in expert.artifacts)):
            raise ValueError(
                f"{folder}: {name} has no {precision} variant, and FP32 would be measured. Build "
                f"it with --{precision}, if its architecture has one, or leave --precision out."
            )


def _cells(runs: Sequence[Mapping[str, float]]) -> list[str]:
    wall, processor, peak = ([run[k] for run in runs] for k in ("wall", "processor", "peak_bytes"))
    spread = f"{min(wall):.2f}…{max(wall):.2f}"
    return [
        f"{median(wall):.2f}",
        spread,
        f"{median(processor):.2f}",
        f"{median(peak) / 1e6:.0f}",
    ]


def opening(arguments: Mapping[str, object]) -> Mapping[str, float]:
    """Opens an `AgeMoE` of these arguments in a fresh process.

    Returns:
        `wall` and `processor` seconds, the import of the runtime included, and `peak_bytes`.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-W", "ignore", str(_HERE), _CHILD, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"A fresh process cannot open the engines:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _opened(arguments: Mapping[str, object]) -> Mapping[str, float]:
    wall, processor = time.perf_counter(), time.process_time()
    from runtime import AgeMoE

    with AgeMoE(**arguments):  # type: ignore[arg-type]
        return {
            "wall": time.perf_counter() - wall,
            "processor": time.process_time() - processor,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        }


if __name__ == "__main__":
    if sys.argv[1:2] == [_CHILD]:
        print(json.dumps(_opened(json.loads(sys.argv[2]))))
    else:
        sys.exit(main())
