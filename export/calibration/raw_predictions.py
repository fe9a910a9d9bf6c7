"""Raw predictions of the experts for labeled pictures; an interrupted run resumes from its log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from export.calibration.csv_tables import LabelsError
from export.calibration.labeled_predictions import (
    MOST_GROUPS,
    LabeledPredictions,
    reserved_problems,
    write_predictions,
)
from export.calibration.labels import LabeledFace
from runtime.errors import AgeMoEError
from runtime.results import AgeEstimate, Face
from runtime.resume_log import ResumeLog

logger = logging.getLogger("agemoe")

LOG_NAME = "raw_predictions.jsonl"
PREDICTIONS_NAME = "predictions.csv"
_BATCH = 32
_NAMED_FACES = 10
_NO_GROUPS = frozenset({"id", "age", "subject"})

Prediction = dict[str, float] | str
"""Years by expert, or the reason why there are none."""


class Predictor(Protocol):
    """The part of `runtime.AgeMoE` that is used here."""

    @property
    def experts(self) -> tuple[str, ...]:
        """The names of all experts."""

    @property
    def sources(self) -> Mapping[str, str | None]:
        """SHA-256 of each expert's checkpoint, None when unknown."""

    def predict(self, faces: list[Face], /) -> Sequence[AgeEstimate | AgeMoEError]:
        """Returns one result per face, in order; an error where a picture is unusable."""


def predict_faces(
    predictor: Predictor,
    faces: Sequence[LabeledFace],
    folder: Path,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    *,
    run_as: str = "",
) -> LabeledPredictions:
    """Predicts the age of every face with every expert.

    Predictions are logged in `raw_predictions.jsonl` as they come: an interrupted run resumes, and
    a run with the same experts and pictures predicts nothing again. The result is also written to
    `predictions.csv`. Faces without a prediction of every expert are left out, with a warning.
    Every label of a picture is a group, unless it has too many values.

    Args:
        predictor: the experts.
        faces: the pictures.
        folder: of the log and the CSV; it exists.
        progress: called with the number of finished faces and of all faces.
        run_as: device and precision; predictions of other ones are not reused.

    Raises:
        LabelsError: no face has a prediction of every expert, or a name is used twice.
    """
    labels = {label for face in faces for label in face.groups} - _NO_GROUPS
    problems = reserved_problems(predictor.experts)
    problems += [
        f"the label {name!r} is also the name of an expert: rename the label"
        for name in sorted(labels.intersection(predictor.experts))
    ]
    if problems:
        raise LabelsError("The labeled data", problems)
    predictions = _predict_missing(predictor, faces, folder / LOG_NAME, progress, run_as)
    pairs = list(zip(faces, predictions, strict=True))
    failed = [f"{face.name}: {found}" for face, found in pairs if isinstance(found, str)]
    if failed:
        shown = "; ".join(failed[:_NAMED_FACES])
        logger.warning("%d of %d faces are left out: %s", len(failed), len(faces), shown)
    usable = [(face, found) for face, found in pairs if not isinstance(found, str)]
    if not usable:
        raise LabelsError("The labeled data", ["no face has a prediction of every expert"])
    labeled = _labeled(predictor.experts, usable, sorted(labels))
    write_predictions(folder / PREDICTIONS_NAME, [face.name for face, _ in usable], labeled)
    return labeled


def _predict_missing(
    predictor: Predictor,
    faces: Sequence[LabeledFace],
    path: Path,
    progress: Callable[[int, int], None],
    run_as: str,
) -> list[Prediction]:
    """Returns the prediction of each face, from the log where it is there."""
    settings = {
        "experts": list(predictor.experts),
        "sources": dict(predictor.sources),
        "run_as": run_as,
    }
    keys = {face.name: _key(face.path) for face in faces}
    with ResumeLog.open(path, settings, restart=True) as log:
        missing = [face for face in faces if keys[face.name] not in log]
        for start in range(0, len(missing), _BATCH):
            progress(len(faces) - len(missing) + start, len(faces))
            batch = missing[start : start + _BATCH]
            results = predictor.predict([Face(face.path) for face in batch])
            found = zip(batch, results, strict=True)
            log.add((keys[face.name], _prediction(result)) for face, result in found)
        progress(len(faces), len(faces))
        return [log[key] for key in keys.values()]


def _key(path: Path) -> str:
    """Returns a key that changes with the picture."""
    found = path.stat()
    return f"{path.resolve()}|{found.st_size}|{found.st_mtime_ns}"


def _prediction(result: AgeEstimate | AgeMoEError) -> Prediction:
    if isinstance(result, AgeMoEError):
        return str(result)
    if result.missing:
        return "; ".join(f"{name}: {reason}" for name, reason in result.missing.items())
    return {name: expert.age_years for name, expert in result.experts.items()}


def _labeled(
    experts: tuple[str, ...],
    usable: Sequence[tuple[LabeledFace, Mapping[str, float]]],
    labels: Sequence[str],
) -> LabeledPredictions:
    subjects = [face.subject for face, _ in usable if face.subject]
    groups = {
        label: np.array([face.groups.get(label, "") for face, _ in usable], dtype=np.str_)
        for label in labels
    }
    return LabeledPredictions(
        np.array([face.age_years for face, _ in usable]),
        experts,
        np.array([[found[name] for name in experts] for _, found in usable]),
        np.array(subjects, dtype=np.str_) if len(subjects) == len(usable) else None,
        {label: column for label, column in groups.items() if len(set(column)) <= MOST_GROUPS},
    )
