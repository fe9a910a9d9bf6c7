"""Bulk labeling: the ages of everybody in many photographs, as one table.

`LabelJob` says what to do and can be sent to other processes; `Labeler` does it; `label` keeps
the journal and writes the table, whoever made the rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from runtime import fusion_file, manifest_file
from runtime.agemoe import AgeMoE
from runtime.cores import usable_cores
from runtime.detection import Detector
from runtime.detectors import detector_named
from runtime.errors import AgeMoEError, InputError
from runtime.images import ImageLimits, load_rgb
from runtime.label_journal import Journal, Labeled, journal_of
from runtime.label_tables import (
    LabelingError,
    Row,
    Value,
    check_output,
    table_columns,
    write_table,
)
from runtime.photographs import FoundFace, Predictor, faces_in, find_faces
from runtime.results import AgeEstimate, Face

PHOTO, WHOLE = "photo", "whole"
FACES = (PHOTO, WHOLE)
"""`photo`: the faces are to be found in each picture; `whole`: each picture is a face."""
NO_FACE = "no face found"
"""In the column `error` of a photograph without faces, which is none."""
TOGETHER = 8
"""Photographs that are in memory, and then on the disk, at a time."""

Stream = Callable[[Sequence[str]], Iterable[Sequence[Labeled]]]
"""Labels photographs: takes paths, gives them back with their rows in batches, in any order."""
Report = Callable[[int, int, int], None]
"""Hears how many photographs are done, of how many, and how many of them by this run."""


@dataclass(frozen=True, slots=True)
class LabelJob:
    """What decides on the rows of a table."""

    engines: str = "engines"
    """The engines folder."""
    faces: str = PHOTO
    """One of `FACES`."""
    detector: str = "haar"
    """As in `detectors.detector_named`."""
    device: str = "auto"
    """As in `AgeMoE`; it may change when a job goes on."""
    precision: str = "auto"
    """As in `AgeMoE`."""

    def __post_init__(self) -> None:
        """Refuses what is no job."""
        if self.faces not in FACES:
            raise ValueError(f"faces must be one of {', '.join(FACES)}, got {self.faces!r}.")

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts, which are columns of the table."""
        return tuple(manifest_file.read_manifest(Path(self.engines)).experts)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Labeler]:
        """What does it, in this process."""
        detector = None if self.faces == WHOLE else detector_named(self.detector)
        fingerprint = engine_fingerprint(Path(self.engines))
        with AgeMoE(self.engines, device=self.device, precision=self.precision) as moe:
            yield Labeler(moe, fingerprint, detector)

    def settings(self) -> dict[str, str]:
        """What has to be the same when a job goes on."""
        detector = "none" if self.faces == WHOLE else detector_named(self.detector).provenance
        return {
            "engine": engine_fingerprint(Path(self.engines)),
            "faces": self.faces,
            "detector": detector,
            "precision": self.precision,
        }


@dataclass(slots=True)
class Summary:
    """What is in a table that was written."""

    photographs: int = 0
    faces: int = 0
    """With an age."""
    without_face: int = 0
    """Photographs in which no face was found."""
    bad: dict[str, str] = field(default_factory=dict)
    """Why a photograph, or a face in it, has no age, by path."""

    def count(self, path: str, rows: Sequence[Row]) -> None:
        """Takes in one photograph."""
        self.photographs += 1
        self.faces += sum(row.get("age") is not None for row in rows)
        errors = [str(row["error"]) for row in rows if row.get("error") is not None]
        if errors == [NO_FACE]:
            self.without_face += 1
        elif errors:
            self.bad[path] = "; ".join(dict.fromkeys(errors))


@dataclass(frozen=True, slots=True)
class Scene:
    """A photograph that was looked at, or why that cannot be done."""

    found: tuple[FoundFace | None, ...] = ()
    """Its faces from left to right; None for a picture that is a face as a whole."""
    faces: tuple[Face, ...] = ()
    """The same, as `predict` takes them."""
    error: str | None = None


class Labeler:
    """Makes the rows of photographs. Safe to use from several threads."""

    def __init__(
        self,
        predictor: Predictor,
        engine: str,
        detector: Detector | None,
        limits: ImageLimits | None = None,
    ) -> None:
        """Takes what estimates ages.

        Args:
            predictor: an `AgeMoE`.
            engine: fingerprint that every row will carry.
            detector: finds the faces; None means that each picture is a face.
            limits: on the pictures' bytes and pixels.
        """
        self._predictor = predictor
        self._engine = engine
        self._detector = detector
        self._limits = limits or ImageLimits()

    def label(self, paths: Sequence[str]) -> list[Labeled]:
        """Photographs with their rows, in the same order."""
        return self._read(paths, [self._look(path) for path in paths])

    def stream(self, paths: Sequence[str]) -> Iterator[list[Labeled]]:
        """Photographs with their rows, in the same order, some at a time.

        While the experts look at some, the next are decoded and searched on all cores.
        """
        ahead: deque[tuple[Sequence[str], list[Future[Scene]]]] = deque()
        pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="agemoe-label")
        try:
            for batch in _batches(paths):
                ahead.append((batch, [pool.submit(self._look, path) for path in batch]))
                if len(ahead) > 1:
                    yield self._awaited(*ahead.popleft())
            while ahead:
                yield self._awaited(*ahead.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _awaited(self, paths: Sequence[str], scenes: Sequence[Future[Scene]]) -> list[Labeled]:
        return self._read(paths, [scene.result() for scene in scenes])

    def _look(self, path: str) -> Scene:
        if self._detector is None:
            return Scene((None,), (Face(path),))
        try:
            image = load_rgb(path, self._limits)
            found = tuple(find_faces(image, self._detector))
        except InputError as error:
            return Scene(error=str(error))
        except Exception as error:  # noqa: BLE001 - whatever a detector raises, the others go on
            return Scene(error=f"The detector failed ({type(error).__name__}: {error}).")
        return Scene(found, tuple(faces_in(image, found)))

    def _read(self, paths: Sequence[str], scenes: Sequence[Scene]) -> list[Labeled]:
        faces = [face for scene in scenes for face in scene.faces]
        results = iter(self._predictor.predict(faces) if faces else [])
        return [
            (path, self._rows(path, scene, list(itertools.islice(results, len(scene.faces)))))
            for path, scene in zip(paths, scenes, strict=True)
        ]

    def _rows(
        self, path: str, scene: Scene, results: Sequence[AgeEstimate | AgeMoEError]
    ) -> list[Row]:
        if not results:
            error = NO_FACE if scene.error is None else scene.error
            return [{"path": path, "error": error, "engine": self._engine}]
        return [
            {
                "path": path,
                "face": index,
                **({} if found is None else _place(found)),
                **_reading(result),
                "engine": self._engine,
            }
            for index, (found, result) in enumerate(zip(scene.found, results, strict=True))
        ]


def label(
    stream: Stream,
    paths: Sequence[str],
    output: Path,
    job: LabelJob,
    *,
    overwrite: bool = False,
    report: Report | None = None,
) -> Summary:
    """Labels photographs and writes the table; goes on where it was once interrupted.

    Args:
        stream: makes the rows: `Labeler.stream`, or its like on many machines.
        paths: the photographs, each once; the table is in this order.
        output: .csv or .parquet; its journal lies beside it until it is written.
        job: what the rows are made with.
        overwrite: replace a table that is there.
        report: hears of progress.

    Raises:
        LabelingError: the table is there already or cannot be written, or its journal is of
            another job.
    """
    check_output(output)
    journal_path = journal_of(output)
    if output.exists() and not overwrite and not journal_path.exists():
        raise LabelingError(f"{output} exists. Choose another output, or overwrite it.")
    summary = Summary()
    try:
        with Journal.opened(journal_path, job.settings()) as journal:
            _fill(journal, stream, paths, report)
            write_table(output, _counted(journal, paths, summary), table_columns(job.experts))
            journal.discard()
    except OSError as error:
        raise LabelingError(
            f"{output} or its journal cannot be written ({error}). Make room, or choose another "
            f"output. Where a journal was begun, the same command goes on from there."
        ) from error
    return summary


def _fill(journal: Journal, stream: Stream, paths: Sequence[str], report: Report | None) -> None:
    """Has the photographs labeled that the journal does not hold."""
    waiting = [path for path in paths if path not in journal]
    fresh = 0
    for batch in stream(waiting) if waiting else ():
        journal.add(batch)
        fresh += len(batch)
        if report is not None:
            report(len(paths) - len(waiting) + fresh, len(paths), fresh)


def engine_fingerprint(engines: Path) -> str:
    """16 hex digits that stand for the manifest and the fusion tables of an engines folder.

    Raises:
        ManifestError: there is no manifest, or it is not in order.
    """
    manifest_file.read_manifest(engines)
    digest = hashlib.sha256()
    for name in (manifest_file.FILE_NAME, fusion_file.FILE_NAME):
        with contextlib.suppress(FileNotFoundError):
            digest.update(hashlib.sha256((engines / name).read_bytes()).digest())
        digest.update(name.encode())
    return digest.hexdigest()[:16]


def _counted(journal: Journal, paths: Sequence[str], summary: Summary) -> Iterator[Row]:
    for path in paths:
        rows = journal.rows(path)
        summary.count(path, rows)
        yield from rows


def _batches(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    return (paths[start : start + TOGETHER] for start in range(0, len(paths), TOGETHER))


def _place(found: FoundFace) -> dict[str, Value]:
    numbers = dict(zip("xywh", found.box, strict=True), score=found.score, turn=found.turn)
    return {name: n for name, n in numbers.items() if n is not None and math.isfinite(n)}


def _reading(result: AgeEstimate | AgeMoEError) -> dict[str, Value]:
    if not isinstance(result, AgeEstimate):
        return {"error": str(result)}
    missing = "; ".join(f"{name}: {why}" for name, why in result.missing.items())
    return {
        "age": result.age_years,
        "low": result.low_years,
        "high": result.high_years,
        **{f"age_{name}": expert.age_years for name, expert in result.experts.items()},
        "missing": missing or None,
    }
