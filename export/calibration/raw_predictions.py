"""Raw predictions of the experts for labeled pictures; an interrupted run resumes from its log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from export.calibration.csv_tables import LabelsError
from export.calibration.finding import NO_FACE, Finder
from export.calibration.labeled_predictions import (
    MOST_GROUPS,
    LabeledPredictions,
    reserved_problems,
    source_column,
    write_predictions,
)
from export.calibration.labels import LabeledFace
from export.config.fingerprints import fingerprint
from runtime.columns import AGE, ID, SOURCE, SUBJECT
from runtime.cores import usable_cores
from runtime.errors import AgeMoEError
from runtime.files import resolved, sha256_of
from runtime.fusion import Floats
from runtime.progress import Report, unreported
from runtime.quality import QUANTITIES
from runtime.results import AgeEstimate, Face
from runtime.resume_log import ResumeLog

logger = logging.getLogger("agemoe")

PREDICTIONS_NAME = "predictions.csv"
_BATCH, _SEARCHED_BATCH = 32, 8
"""Faces per batch; fewer where the whole photographs are in memory for a detector."""
_NAMED_FACES = 10
_NO_GROUPS = frozenset({ID, AGE, SUBJECT, SOURCE})
MOST_WITHOUT_FACE = 0.2
"""Share of photographs without a face above which the job is refused: what is left is a choice of
the detector's, and the tables would hold for that only."""

REVISION = 3
"""Revision of the logged predictions; raise it when `runtime.face_measures` changes, too."""

Prediction = dict[str, Any] | str
"""`years` by expert, `notes`, `quality` and the `picture`'s SHA-256, or why there are none."""


class Predictor(Protocol):
    """The part of `runtime.AgeMoE` that is used here."""

    @property
    def experts(self) -> tuple[str, ...]:
        """The names of all experts."""

    def predict(self, faces: list[Face], /) -> Sequence[AgeEstimate | AgeMoEError]:
        """Returns one result per face, in order; an error where a picture is unusable."""


def predict_faces(
    predictor: Predictor,
    faces: Sequence[LabeledFace],
    finder: Finder,
    cache: Path,
    settings: Mapping[str, object],
    progress: Report = unreported,
) -> LabeledPredictions:
    """Predicts the age of every face with every expert.

    Predictions are logged in the cache as they come: an interrupted run resumes, and a run with the
    same settings and pictures predicts nothing again. The result is also written to
    `predictions.csv` there. Faces without a prediction of every expert are left out, with a
    warning. A label of the pictures with too many values is no group.

    Args:
        predictor: the experts.
        faces: the labeled pictures.
        finder: finds the faces in them.
        cache: folder of the logs and the CSV; it exists.
        settings: everything else that predictions depend on, ready for JSON.
        progress: progress callback.

    Raises:
        LabelsError: no face has a prediction of every expert, too many photographs have no face, or
            a name is used twice.
    """
    labels = {label for face in faces for label in face.groups} - _NO_GROUPS
    problems = reserved_problems(predictor.experts)
    problems += [
        f"the label {name!r} is also the name of an expert: rename the label"
        for name in sorted(labels.intersection(predictor.experts))
    ]
    if problems:
        raise LabelsError("The labeled data", problems)
    predictions = _predict_missing(predictor, faces, finder, cache, settings, progress)
    pairs = list(zip(faces, predictions, strict=True))
    _warn_of_missing_faces(predictions, finder)
    failed = [
        f"{face.name}: {found}"
        for face, found in pairs
        if isinstance(found, str) and found != NO_FACE
    ]
    if failed:
        shown = "; ".join(failed[:_NAMED_FACES])
        logger.warning("%d of %d faces are left out: %s", len(failed), len(faces), shown)
    usable = [(face, found) for face, found in pairs if not isinstance(found, str)]
    if not usable:
        raise LabelsError("The labeled data", ["no face has a prediction of every expert"])
    _warn_of_notes([found for _, found in usable])
    labeled = _labeled(predictor.experts, usable, sorted(labels))
    write_predictions(cache / PREDICTIONS_NAME, [face.name for face, _ in usable], labeled)
    return labeled


def check_found(without: int, count: int, cure: str) -> None:
    """Warns that some photographs have no face.

    Raises:
        LabelsError: it is more than `MOST_WITHOUT_FACE` of them.
    """
    if without > MOST_WITHOUT_FACE * count:
        problem = (
            f"no face was found in {without} of {count} photographs, more than "
            f"{MOST_WITHOUT_FACE:.0%}. {cure}"
        )
        raise LabelsError("The labeled data", [problem])
    if without:
        logger.warning(
            "No face was found in %d of %d photographs, which are left out.", without, count
        )


def log_name(settings: Mapping[str, object]) -> str:
    """Returns the name of the log of predictions with some settings."""
    return f"raw_predictions-{fingerprint(dict(settings))}.jsonl"


def _predict_missing(
    predictor: Predictor,
    faces: Sequence[LabeledFace],
    finder: Finder,
    cache: Path,
    settings: Mapping[str, object],
    progress: Report,
) -> list[Prediction]:
    """Returns the prediction of each face, from the log where it is there."""
    settings = {**settings, "experts": list(predictor.experts), "detector": finder.provenance}
    settings["revision"] = REVISION
    keys = [_key(face) for face in faces]
    with ResumeLog.open(cache / log_name(settings), settings) as log:
        missing = [face for face, key in zip(faces, keys, strict=True) if key not in log]
        done = len(faces) - len(missing)
        progress(done, len(faces))
        for batch, found in _batches(predictor, missing, finder):
            log.add((_key(face), one) for face, one in zip(batch, found, strict=True))
            done += len(batch)
            progress(done, len(faces))
        return [log[key] for key in keys]


def _batches(
    predictor: Predictor, faces: Sequence[LabeledFace], finder: Finder
) -> Iterator[tuple[Sequence[LabeledFace], list[Prediction]]]:
    """Yields batches of faces with their predictions; the faces are found on all cores."""
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="agemoe-faces") as pool:
        size = _BATCH if finder.detector is None else _SEARCHED_BATCH
        for start in range(0, len(faces), size):
            batch = faces[start : start + size]
            found = list(pool.map(finder.face, batch))
            hashes = pool.map(_hash, batch)
            visible = [face for face in found if isinstance(face, Face)]
            results = iter(predictor.predict(visible) if visible else ())
            yield (
                batch,
                [
                    face if isinstance(face, str) else _prediction(next(results), picture)
                    for face, picture in zip(found, hashes, strict=True)
                ],
            )


def _key(face: LabeledFace) -> str:
    """Returns a key that changes with the picture, and with the position of the face in it."""
    found, place = face.path.stat(), face.place
    position = [place.box, place.person_box, place.landmarks, place.turn]
    return f"{resolved(face.path)}|{found.st_size}|{found.st_mtime_ns}|{position}"


def _hash(face: LabeledFace) -> str:
    """Returns the SHA-256 of a picture's file; empty where it cannot be read."""
    try:
        return sha256_of(face.path)
    except OSError:
        return ""


def _prediction(result: AgeEstimate | AgeMoEError, picture: str) -> Prediction:
    if isinstance(result, AgeMoEError):
        return str(result)
    if result.missing:
        return "; ".join(f"{name}: {reason}" for name, reason in result.missing.items())
    years = {name: expert.age_years for name, expert in result.experts.items()}
    quality = result.quality and result.quality.to_dict()
    return {"years": years, "notes": list(result.notes), "quality": quality, "picture": picture}


def _warn_of_missing_faces(predictions: Sequence[Prediction], finder: Finder) -> None:
    without = sum(found == NO_FACE for found in predictions)
    cure = (
        f"The detector was {finder.provenance}. Use another --detector, give boxes in a CSV, or "
        f"--whole where each picture is one face"
    )
    check_found(without, len(predictions), cure)


def _warn_of_notes(predictions: Sequence[Mapping[str, Any]]) -> None:
    for note, count in Counter(note for one in predictions for note in one["notes"]).items():
        logger.warning("%d of %d faces: %s", count, len(predictions), note)


def _labeled(
    experts: tuple[str, ...],
    usable: Sequence[tuple[LabeledFace, Mapping[str, Any]]],
    labels: Sequence[str],
) -> LabeledPredictions:
    faces = [face for face, _ in usable]
    columns = {
        SUBJECT: np.array([face.subject or "" for face in faces], dtype=np.str_),
        SOURCE: np.array([face.source or "" for face in faces], dtype=np.str_),
    }
    groups = {
        label: np.array([face.groups.get(label, "") for face in faces], dtype=np.str_)
        for label in labels
    }
    known = {name: column for name, column in columns.items() if any(column)}
    sources = known[SOURCE] if source_column(known, None, []) else None
    return LabeledPredictions(
        np.array([face.age_years for face in faces]),
        experts,
        np.array([[found["years"][name] for name in experts] for _, found in usable]),
        known.get(SUBJECT),
        {
            **{name: column for name, column in groups.items() if len(set(column)) <= MOST_GROUPS},
            **({} if sources is None else {SOURCE: sources}),
        },
        sources,
        _quality([found["quality"] for _, found in usable]),
        np.array([found["picture"] for _, found in usable], dtype=np.str_),
    )


def _quality(measured: Sequence[Mapping[str, Any] | None]) -> dict[str, Floats]:
    """Returns (N,) quantities by name, NaN where unknown; none that is unknown for every face."""
    columns = {
        name: np.array(
            [np.nan if one is None or one[name] is None else one[name] for one in measured]
        )
        for name in QUANTITIES
    }
    return {name: values for name, values in columns.items() if np.isfinite(values).any()}
