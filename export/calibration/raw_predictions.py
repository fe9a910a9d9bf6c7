"""The experts' readings of labeled faces: asked for once, kept, and picked up after a stop."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from export.calibration.labeled_predictions import MOST_GROUPS, LabelsError
from export.calibration.labels import LabeledFace
from runtime.errors import AgeMoEError
from runtime.files import write_whole
from runtime.results import AgeEstimate, Face

logger = logging.getLogger("agemoe")

CACHE_NAME = "readings.jsonl"
PREDICTIONS_NAME = "predictions.csv"
_BATCH = 32
_NAMED_FACES = 10

Reading = dict[str, float] | str
"""Years by expert, or why there are none."""


class Predictor(Protocol):
    """What is needed of `runtime.AgeMoE`."""

    @property
    def experts(self) -> tuple[str, ...]:
        """The names of all experts."""

    @property
    def sources(self) -> Mapping[str, str | None]:
        """SHA-256 of each expert's checkpoint, None when unknown."""

    def predict(self, faces: list[Face], /) -> Sequence[AgeEstimate | AgeMoEError]:
        """One result per face, in order; an unusable picture is an error in its place."""


def write_predictions(
    predictor: Predictor,
    faces: Sequence[LabeledFace],
    folder: Path,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    *,
    run_as: str = "",
) -> Path:
    """Asks the experts about every face and writes `predictions.csv`.

    Readings are kept in `readings.jsonl` beside it as they come, so that a run that was stopped
    goes on where it was, and one with the same experts and pictures asks nothing again. Faces
    without a reading of every expert are left out, with a warning.

    Args:
        predictor: the experts.
        faces: what to ask about.
        folder: where the files go; it exists.
        progress: told how many of how many faces are done.
        run_as: device and precision; readings of another one are asked for again.

    Returns:
        The path of predictions.csv.

    Raises:
        LabelsError: no face could be read by all experts.
    """
    readings = _read_all(predictor, faces, folder / CACHE_NAME, progress, run_as)
    failed = {n: reading for n, reading in readings.items() if isinstance(reading, str)}
    if failed:
        shown = "; ".join(f"{n}: {why}" for n, why in list(failed.items())[:_NAMED_FACES])
        logger.warning("%d of %d faces are left out: %s", len(failed), len(faces), shown)
    if len(failed) == len(readings):
        raise LabelsError("The labeled data", ["no face could be read by all experts"])
    path = folder / PREDICTIONS_NAME
    write_whole(path, _table(predictor.experts, faces, readings).encode())
    return path


def _read_all(
    predictor: Predictor,
    faces: Sequence[LabeledFace],
    cache: Path,
    progress: Callable[[int, int], None],
    run_as: str,
) -> dict[str, Reading]:
    """The reading of each face, by its name."""
    header = {
        "experts": list(predictor.experts),
        "sources": dict(predictor.sources),
        "run_as": run_as,
    }
    known = _cached(cache, header)
    stamps = {face.name: _stamp(face.path) for face in faces}
    readings = {name: known[stamp] for name, stamp in stamps.items() if stamp in known}
    waiting = [face for face in faces if face.name not in readings]
    if not known:
        write_whole(cache, f"{json.dumps(header)}\n".encode())
    with cache.open("a", encoding="utf-8") as file:
        for start in range(0, len(waiting), _BATCH):
            progress(len(readings), len(faces))
            batch = waiting[start : start + _BATCH]
            results = predictor.predict([Face(face.path) for face in batch])
            for face, result in zip(batch, results, strict=True):
                readings[face.name] = _reading(result)
                _keep(file, stamps[face.name], readings[face.name])
    progress(len(faces), len(faces))
    return readings


def _stamp(path: Path) -> str:
    """Changes when the picture does."""
    found = path.stat()
    return f"{path.resolve()}|{found.st_size}|{found.st_mtime_ns}"


def _reading(result: AgeEstimate | AgeMoEError) -> Reading:
    if isinstance(result, AgeMoEError):
        return str(result)
    if result.missing:
        return "; ".join(f"{name}: {why}" for name, why in result.missing.items())
    return {name: expert.age_years for name, expert in result.experts.items()}


def _keep(file: IO[str], stamp: str, reading: Reading) -> None:
    file.write(f"{json.dumps([stamp, reading])}\n")
    file.flush()


def _cached(cache: Path, header: Mapping[str, Any]) -> dict[str, Reading]:
    """Readings by stamp; none when the file is of other experts. A torn last line is dropped."""
    if not cache.exists():
        return {}
    lines = cache.read_text(encoding="utf-8").split("\n")
    complete = lines[:-1]
    if not complete or json.loads(complete[0]) != header:
        return {}
    if lines[-1]:
        write_whole(cache, "".join(f"{line}\n" for line in complete).encode())
    return dict(json.loads(line) for line in complete[1:])


def _table(
    experts: Sequence[str], faces: Sequence[LabeledFace], readings: Mapping[str, Reading]
) -> str:
    subjects = all(face.subject for face in faces)
    columns = sorted({column for face in faces for column in face.groups})
    groups = [c for c in columns if len({f.groups.get(c, "") for f in faces}) <= MOST_GROUPS]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["id", "age", *(["subject"] if subjects else []), *groups, *experts])
    for face in faces:
        reading = readings[face.name]
        if isinstance(reading, str):
            continue
        who = [face.subject] if subjects else []
        values = [face.groups.get(column, "") for column in groups]
        years = [repr(reading[name]) for name in experts]
        writer.writerow([face.name, f"{face.age_years:g}", *who, *values, *years])
    return buffer.getvalue()
