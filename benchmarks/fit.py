"""How long fitting takes, and how long the fused arithmetic takes in the runtime.

python benchmarks/fit.py
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    # Run as a script: the repository's root must be on the path, benchmarks/ must not.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    # Thousands of tiny matrices: more threads would only wait for one another.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from export.calibration.fit import fit_fusion
from export.calibration.labeled_predictions import LabeledPredictions
from runtime.fusion import Floats, FusionTables

EXPERTS = ("vgg16", "resnet50", "mivolo", "janus")
_BATCH = 32
_CALLS = 2000


def made_up(faces: int, seed: int = 0) -> LabeledPredictions:
    """Faces of ages 0 to 90 and four experts with errors of their own."""
    rng = np.random.default_rng(seed)
    ages = rng.uniform(0.0, 90.0, faces)
    noise = rng.normal(size=(faces, len(EXPERTS)))
    size = np.stack([4 + 0.1 * ages, 12 - 0.1 * ages, 8 + 0 * ages, 5 + 0.05 * ages], axis=1)
    readings = ages[:, None] * [0.8, 1.1, 0.7, 1.0] + [8.0, -3.0, 15.0, 2.0] + noise * size
    return LabeledPredictions(ages, EXPERTS, readings)


def fit_seconds(faces: LabeledPredictions) -> tuple[float, FusionTables]:
    """Seconds that a whole calibration takes, and what it gives."""
    start = time.perf_counter()
    tables = fit_fusion(faces).tables
    return time.perf_counter() - start, tables


def fuse_microseconds(tables: FusionTables, readings_years: Floats) -> tuple[float, float]:
    """Median and 99th percentile of one call, in microseconds, after a warm-up."""
    times = np.empty(_CALLS)
    for call in range(-100, _CALLS):
        start = time.perf_counter()
        tables.fuse(EXPERTS, readings_years)
        times[max(call, 0)] = time.perf_counter() - start
    return float(1e6 * np.median(times)), float(1e6 * np.quantile(times, 0.99))


def main() -> None:
    """Prints both figures."""
    parser = argparse.ArgumentParser(description="Times fitting and fusing.")
    parser.add_argument("--faces", type=int, default=100_000)
    faces = made_up(parser.parse_args().faces)
    print(f"{os.cpu_count()} cores, numpy {np.__version__}")
    seconds, tables = fit_seconds(faces)
    print(f"fit: {len(faces)} faces, {len(EXPERTS)} experts: {seconds:.1f} s")
    median, worst = fuse_microseconds(tables, faces.predictions_years[:_BATCH])
    print(f"fuse: batch of {_BATCH}: median {median:.1f} us, 99th percentile {worst:.1f} us")


if __name__ == "__main__":
    main()
