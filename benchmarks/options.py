"""Command-line options shared by `latency.py` and `load.py`, and the faces they predict."""

from __future__ import annotations

import argparse
import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from export.faces.drawn import draw_person
from runtime import Face, PlaceholderWeightsWarning
from runtime.commands import Parser, count, positive, print_error, run_command
from runtime.files import check_regular, write_json, write_whole
from runtime.geometry import Pixels
from runtime.printing import printable_lines
from runtime.shared_options import add_backend, add_engines

Plot = Callable[[Mapping[str, Any]], bytes]
"""Draws a report as a PNG."""
REFUSED = 2
"""Exit status after invalid input."""
WIDTH, HEIGHT = 640, 480
DRAWN_FACES = 16
DRAWN = f"drawn people in JPEGs of {WIDTH}×{HEIGHT}"
"""The default input, for reports."""
_QUALITY = 90
_GRAIN = 5.0
"""Standard deviation of sensor noise, of 255: without it, files are a quarter of a photo's size."""


def exit_status(run: Callable[[], int]) -> int:
    """Runs a command and returns its exit status; prints errors instead of raising them."""

    def quiet() -> int:
        with warnings.catch_warnings():
            # The report names the weights.
            warnings.simplefilter("ignore", PlaceholderWeightsWarning)
            return run()

    try:
        return run_command(quiet, REFUSED, interrupted="Interrupted; nothing was written.")
    except (ValueError, RuntimeError) as error:
        print_error(printable_lines(str(error)))
        return REFUSED


def write_outputs(options: argparse.Namespace, report: Mapping[str, Any], plot: Plot) -> None:
    """Writes the files of `--json` and `--plot`."""
    if options.json:
        write_json(options.json, report)
    if options.plot:
        write_whole(options.plot, plot(report))


def parser_of(
    command: str, description: str, examples: Sequence[str], *, seconds: float, per: str
) -> Parser:
    """Returns a parser with the shared options; `per` is the unit of `--seconds` in its help."""
    parser = Parser(prog=f"python benchmarks/{command}", description=description, examples=examples)
    add_agemoe_options(parser)
    add, time = parser.add_argument, f"duration of the measurement in seconds per {per}"
    add("--seconds", type=positive, default=seconds, metavar="S", help=time)
    add("--plot", type=new_file, metavar="PNG", help="write a plot to this file")
    return parser


def add_agemoe_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `AgeMoE` and `--json`."""
    add, experts = parser.add_argument, "use only these experts (default: all)"
    threads = "CPU threads of the experts (default: all cores)"
    add_engines(parser)
    add_backend(parser)
    add("--experts", nargs="+", metavar="NAME", help=experts)
    add("--threads", type=count, metavar="N", help=threads)
    add("--json", type=new_file, metavar="FILE", help="write the full report to this file")


def agemoe_options(options: argparse.Namespace) -> dict[str, object]:
    """Returns the arguments of `AgeMoE` as plain values, which another process can be given."""
    names = ("device", "precision", "experts", "threads")
    return {"engines": str(options.engines)} | {name: getattr(options, name) for name in names}


def new_file(text: str) -> Path:
    """Parses the path of a file to write; raises ArgumentTypeError if its folder is missing."""
    path = Path(text)
    if os.path.isdir(path) or not os.path.isdir(path.parent):  # noqa: PTH112 - as of long names
        raise argparse.ArgumentTypeError(f"must be a file in a folder that exists, got {text!r}")
    return path


def input_faces(number: int, paths: Sequence[Path] = ()) -> list[Face]:
    """Returns faces in pictures of their own, encoded as they arrive at a service.

    The 16 different drawn ones repeat, or those of the given pictures, each a face as a whole.
    """
    for path in paths:
        check_regular(path)
    different = [Face(path.read_bytes()) for path in paths] or [
        drawn_face(seed) for seed in range(min(number, DRAWN_FACES))
    ]
    return [different[index % len(different)] for index in range(number)]


def noise_faces(count: int) -> list[Pixels]:
    """Returns random pictures with structure at several scales, the same each time."""
    rng = np.random.default_rng(0)
    grids = rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return [np.ascontiguousarray(np.kron(g, np.ones((20, 20, 1), np.uint8))) for g in grids]


def drawn_face(seed: int) -> Face:
    """Returns a drawn person as a JPEG with grain, with the boxes that a detector would give."""
    scene = draw_person(float(4 + 5 * seed % 80), seed=seed, width=WIDTH, height=HEIGHT)
    grain = np.random.default_rng(seed).normal(0.0, _GRAIN, scene.image.shape)
    file = io.BytesIO()
    grainy = np.clip(scene.image + grain, 0.0, 255.0).astype(np.uint8)
    Image.fromarray(grainy).save(file, "JPEG", quality=_QUALITY)
    return Face(file.getvalue(), box=scene.face_box, person_box=scene.person_box)
