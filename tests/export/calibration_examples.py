"""Simulated experts for the calibration tests, each with a different systematic error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from export.calibration.labeled_predictions import LabeledPredictions, write_predictions
from runtime.fusion import Floats

NAMES = ("early", "late", "flat")


def made_up(count: int, seed: int = 0, per_person: int = 1) -> LabeledPredictions:
    """Faces of ages 2 to 85; one expert is good at young ages, one at old ages, one saturates."""
    rng = np.random.default_rng(seed)
    ages = np.round(rng.uniform(2.0, 85.0, count))
    noise = rng.normal(size=(count, 3))
    years = np.stack(
        [
            1.1 * ages + 2.0 + noise[:, 0] * (1.0 + 0.15 * ages),
            0.9 * ages - 3.0 + noise[:, 1] * (10.0 - 0.08 * ages),
            np.clip(20.0 + 0.6 * ages + 6.0 * noise[:, 2], 20.0, 60.0),
        ],
        axis=1,
    )
    people = np.char.add("person", (np.arange(count) // per_person).astype(np.str_))
    sides = np.where(rng.random(count) < 0.5, "left", "right")
    return LabeledPredictions(
        ages, NAMES, years, people if per_person > 1 else None, {"side": sides}
    )


@contextmanager
def fewer_splits() -> Iterator[None]:
    """Cross-validation with a tenth of the fits, for tests that do not depend on its figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.calibration.fit._OUTER_FOLDS", 5)
        patch.setattr("export.calibration.forms.INNER_FOLDS", 2)
        patch.setattr("export.calibration.forms._REPEATS", 1)
        yield


def write_csv(path: Path, faces: LabeledPredictions) -> Path:
    """Writes faces in the format of `--predictions`."""
    write_predictions(path, [f"face{index}" for index in range(len(faces))], faces)
    return path


def mean_error(estimates: Floats, ages: Floats) -> float:
    """Mean absolute error in years."""
    return float(np.abs(estimates - ages).mean())
