"""Bulk labeling: the ages of all faces in many photographs, as one table.

A `LabelJob` describes the work and can be sent to other processes; its `Labeler` makes the rows;
`label` keeps the journal and writes the table.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from pathlib import Path

from runtime import manifest_file
from runtime.agemoe import AgeMoE
from runtime.columns import AGE_YEARS, ERROR
from runtime.cores import usable_cores
from runtime.decoding import DecoderPool
from runtime.detection import Detection, Detector
from runtime.detectors.names import AUTO, detector_named
from runtime.label_tables import (
    NO_FACE,
    LabelingError,
    Row,
    check_output,
    journal_of,
    table_columns,
    write_table,
)
from runtime.labeler import Labeled, Labeler
from runtime.names import one_expected
from runtime.progress import Report, unreported
from runtime.resume_log import ResumeLog, ResumeLogError

PHOTO, WHOLE = "photo", "whole"
FACES = (PHOTO, WHOLE)
"""`photo`: detect the faces in each picture; `whole`: each picture is a face."""
DECODE_SECONDS = 10.0
"""Of processor time for a photograph: nobody waits for it, and a damaged one must not end a job."""

Stream = Callable[[Sequence[str]], Iterable[Sequence[Labeled]]]
"""Labels photographs: from paths to batches of paths with their rows, in any order."""


@dataclass(frozen=True, slots=True)
class LabelJob:
    """Everything that the rows of a table depend on, apart from the photographs."""

    engines: str = "engines"
    """The engines folder."""
    faces: str = PHOTO
    """One of `FACES`."""
    detector: str = AUTO
    """A name, as in `AgeMoE`."""
    device: str = "auto"
    """As in `AgeMoE`; a resumed job may use another one."""
    precision: str = "auto"
    """As in `AgeMoE`."""
    given: Mapping[str, tuple[Detection, ...]] = field(default_factory=dict)
    """Faces that are known, by path, as from `listed_faces`; those photographs are not searched."""

    def __post_init__(self) -> None:
        """Validates the options."""
        if self.faces not in FACES:
            raise ValueError(one_expected("faces", self.faces, FACES))

    @property
    def engine(self) -> str:
        """The first 16 digits of the engines' fingerprint, a column of the table.

        Raises:
            ManifestError: there is no valid manifest.
        """
        return manifest_file.engines_fingerprint(Path(self.engines))[:16]

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts, which become columns of the table."""
        return tuple(manifest_file.read_manifest(Path(self.engines)).experts)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Labeler]:
        """Opens the engines and yields a labeler in this process."""
        engine, cores = self.engine, usable_cores()
        with (
            DecoderPool(cores, max_seconds=DECODE_SECONDS) as decoders,
            ThreadPoolExecutor(1, thread_name_prefix="agemoe-label") as thread,
        ):
            started = thread.submit(decoders.start)
            # Each core works on its own: threads that share a network wait for one another.
            with self.open_engines(decoders, threads=1, batches=cores, concurrency="lanes") as moe:
                started.result()
                yield self.labeler(moe, decoders, engine)

    def open_engines(
        self, decoders: DecoderPool, *, threads: int, batches: int = 1, concurrency: str
    ) -> AgeMoE:
        """Opens the engines of this job; the parameters are those of `AgeMoE`."""
        return AgeMoE(
            self.engines,
            device=self.device,
            precision=self.precision,
            detector=self.detector,
            decoder=decoders.decode,
            threads=threads,
            batches=batches,
            concurrency=concurrency,
        )

    def labeler(self, moe: AgeMoE, decoders: DecoderPool, engine: str) -> Labeler:
        """Returns a labeler with opened engines, of the given fingerprint."""
        detector = self.detector_of(moe)
        return Labeler(moe, engine, detector, given=self.given, decoder=decoders.decode)

    def detector_of(self, moe: AgeMoE) -> Detector | None:
        """Returns the detector of the opened engines; None takes each picture as one face."""
        return None if self.faces == WHOLE else moe.detector

    def settings(self, detector: Detector | None = None) -> dict[str, str]:
        """Returns the settings that have to be the same when a job is resumed.

        Without the job's detector, it is opened for its provenance.
        """
        if self.faces == WHOLE:
            provenance = "none"
        else:
            opened = detector or detector_named(self.detector, Path(self.engines))
            provenance = opened.provenance
        return {
            "engine": self.engine,
            "faces": self.faces,
            "detector": provenance,
            "precision": self.precision,
            "column of the age": AGE_YEARS,  # earlier versions' rows had another one
            **({"given faces": _fingerprint(self.given)} if self.given else {}),
        }


@dataclass(slots=True)
class Summary:
    """Totals of a table."""

    photographs: int = 0
    faces: int = 0
    """With an age."""
    without_face: int = 0
    """Photographs in which no face was found."""
    bad: dict[str, str] = field(default_factory=dict)
    """The reason for which a photograph, or a face in it, has no age, by path."""

    def count(self, path: str, rows: Sequence[Row]) -> None:
        """Adds one photograph."""
        self.photographs += 1
        self.faces += sum(row.get(AGE_YEARS) is not None for row in rows)
        errors = [str(row[ERROR]) for row in rows if row.get(ERROR) is not None]
        if errors == [NO_FACE]:
            self.without_face += 1
        elif errors:
            self.bad[path] = "; ".join(dict.fromkeys(errors))


def label(
    stream: Stream,
    paths: Sequence[str],
    output: Path,
    job: LabelJob,
    *,
    overwrite: bool = False,
    report: Report = unreported,
    detector: Detector | None = None,
) -> Summary:
    """Labels photographs and writes the table; resumes the job if it was interrupted.

    Args:
        stream: makes the rows: `Labeler.stream`, or a stream of many machines.
        paths: the photographs, without duplicates; the table has this order.
        output: .csv or .parquet; the journal lies beside it until it is written.
        job: what the rows depend on.
        overwrite: replace an existing table.
        report: progress callback; photographs of an earlier run are reported before any other.
        detector: of the job, if it is open already.

    Raises:
        LabelingError: the table exists or cannot be written, or the journal belongs to another
            job.
    """
    check_output(output, overwrite=overwrite)
    summary = Summary()
    try:
        with ResumeLog.open(journal_of(output), job.settings(detector)) as journal:
            _fill(journal, stream, paths, report)
            write_table(output, _counted(journal, paths, summary), table_columns(job.experts))
            journal.discard()
    except ResumeLogError as error:
        raise LabelingError(*error.args) from error
    except OSError as error:
        raise LabelingError(
            f"{output} or its journal cannot be written ({error}). Free some space, or choose "
            f"another output. If a journal exists, the same command resumes the job."
        ) from error
    return summary


def _fingerprint(given: Mapping[str, tuple[Detection, ...]]) -> str:
    faces = {path: [astuple(face) for face in own] for path, own in sorted(given.items())}
    return hashlib.sha256(json.dumps(faces).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _fill(journal: ResumeLog, stream: Stream, paths: Sequence[str], report: Report) -> None:
    """Labels the photographs that the journal does not hold."""
    waiting = [path for path in paths if path not in journal]
    done = len(paths) - len(waiting)
    report(done, len(paths))
    for batch in stream(waiting) if waiting else ():
        journal.add(batch)
        done += len(batch)
        report(done, len(paths))


def _counted(journal: ResumeLog, paths: Sequence[str], summary: Summary) -> Iterator[Row]:
    for path in paths:
        rows: list[Row] = journal[path]
        summary.count(path, rows)
        yield from rows
