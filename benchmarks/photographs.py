"""Ages from photograph files, end to end: faces found, errors, intervals and time per photograph.

Every photograph is read by all methods, one after the other and in random order; so all of them
run on the same machine at the same time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script: the repository's root must be on the path, benchmarks/ must not.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    # NumPy's own threads would take the cores that the experts are timed on.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks import environment, photograph_reports
from benchmarks import options as shared
from benchmarks.measuring import PAUSE_SECONDS
from benchmarks.photograph_methods import (
    AGE_AND_GENDER,
    AGEMOE,
    AgeAndGenderMethod,
    AgeMoEMethod,
    Method,
)
from benchmarks.photograph_scores import Figures, Record, figures_of, photograph_rows
from benchmarks.photograph_sets import (
    Exclusion,
    Photograph,
    add_sources,
    counts_of,
    read_exclusion,
    read_sources,
)
from runtime import AgeMoE
from runtime.commands import Parser
from runtime.cores import usable_cores
from runtime.files import write_json
from runtime.shared_options import add_detector

SCHEMA_VERSION = 1
"""Of the files that `--json` writes."""
_WARM_UP = 5
"""Photographs that every method reads before the measurement."""
_PROGRESS = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit status: 0 measured, 2 refused, 130 interrupted."""
    chosen = parser()
    options = chosen.parse_args(arguments)
    if (options.baseline is None) != (options.baseline_python is None):
        chosen.error("--baseline and --baseline-python are given together")

    def run() -> int:
        report = measure(options)
        print(photograph_reports.photographs(report))
        if options.json:
            write_json(options.json, report)
        return 0

    return shared.exit_status(run)


def measure(options: argparse.Namespace) -> Figures:
    """Runs the measurement; returns the report for `--json`."""
    before = environment.load_average()
    exclusion = Exclusion() if options.exclude is None else read_exclusion(options.exclude)
    sources = read_sources(options.sources, exclusion, options.limit, options.seed)
    photographs = [one for source in sources.values() for one in source.photographs]
    with contextlib.ExitStack() as stack:
        chosen = {**shared.agemoe_options(options), "detector": options.detector}
        moe = stack.enter_context(AgeMoE(**chosen))
        methods: dict[str, Method] = {AGEMOE: AgeMoEMethod(moe, moe.detector)}
        baselines: Figures = {}
        if options.baseline is not None:
            other = stack.enter_context(AgeAndGenderMethod(options.baseline_python))
            methods[AGE_AND_GENDER], baselines[AGE_AND_GENDER] = other, other.versions
        records = read_all(photographs, methods, seed=options.seed)
        described = environment.described_experts(moe, options.engines, options.precision)
        concurrency, detector, calibrated = moe.concurrency, moe.detector.provenance, moe.calibrated
    return {
        **environment.report_header("photographs", SCHEMA_VERSION),
        "load_average": {"before": before, "after": environment.load_average()},
        "settings": {
            "device": options.device,
            "precision": options.precision,
            "threads": options.threads or usable_cores(),
            "concurrency": concurrency,
            "detector": detector,
            "calibrated": calibrated,
            "limit": options.limit,
            "seed": options.seed,
            "input": "photograph files, in the page cache",
        },
        "experts": described,
        "baselines": baselines,
        "photographs": counts_of(sources),
        **figures_of(records, options.seed),
        "results": photograph_rows(records),
    }


def read_all(
    photographs: Sequence[Photograph], methods: Mapping[str, Method], *, seed: int = 0
) -> list[Record]:
    """Has every method read every photograph; photographs and methods in random order."""
    generator = random.Random(seed)
    order = generator.sample(photographs, len(photographs))
    for photograph in order[:_WARM_UP]:
        for method in methods.values():
            method.read(photograph.face.path)
    records = []
    for number, photograph in enumerate(order, 1):
        path = photograph.face.path
        path.read_bytes()  # so that no method waits for the disk
        readings = {}
        for name in generator.sample(list(methods), len(methods)):
            readings[name] = methods[name].read(path)
            time.sleep(PAUSE_SECONDS)
        records.append(Record(photograph, {name: readings[name] for name in methods}))
        if number % _PROGRESS == 0 or number == len(order):
            print(f"{number} of {len(order)} photographs", file=sys.stderr, flush=True)
    return records


def parser() -> Parser:
    """Returns the parser of the arguments."""
    parser = Parser(
        prog="python benchmarks/photographs.py",
        description="Measures accuracy and time from photograph files to ages.",
        examples=(
            "--sources fgnet=FGNET utkface=UTKFACE own=labels.csv --limit 500",
            "--sources fgnet=FGNET --exclude fitted.csv --json photographs.json",
            "--sources fgnet=FGNET --baseline age-and-gender --baseline-python other/bin/python",
        ),
    )
    add = parser.add_argument
    baseline = "also read the photographs with this package"
    python = "Python interpreter with the package of --baseline"
    add_sources(parser)
    add_detector(parser)
    add("--baseline", choices=(AGE_AND_GENDER,), help=baseline)
    add("--baseline-python", type=Path, metavar="PYTHON", help=python)
    shared.add_agemoe_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
