"""`Labeler`: makes the rows of photographs, many at a time."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from runtime.columns import ENGINE, ERROR, FACE, PATH
from runtime.cores import usable_cores
from runtime.detection import Detection, Detector, Found
from runtime.errors import AgeMoEError, InputError
from runtime.images import Decode, ImageLimits, load_here
from runtime.label_tables import NO_FACE, Row, ages_of, position_of
from runtime.photographs import FoundFace, scene_in
from runtime.preparation import PreparedFace
from runtime.results import AgeEstimate, Face

BATCH_SIZE = 8
"""Photographs whose faces are predicted together, and whose rows are written together."""

Labeled = tuple[str, Sequence[Row]]
"""A photograph's path and its rows."""


class Experts(Protocol):
    """An `AgeMoE`, or a replacement for one."""

    def prepare(
        self, faces: Sequence[Face], *, quality: bool = True
    ) -> Sequence[PreparedFace | InputError]:
        """Crops faces for `predict_prepared`."""

    def predict_prepared(
        self, faces: Sequence[PreparedFace | InputError]
    ) -> Sequence[AgeEstimate | AgeMoEError]:
        """Returns one estimate, or error, per face, in the same order."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What remains of a photograph when its pixels are no longer needed."""

    found: Sequence[FoundFace | None] = ()
    """The faces from left to right; None for a picture that is a face as a whole."""
    faces: Sequence[PreparedFace | InputError] = ()
    """The same faces, as the experts see them."""
    error: str | None = None
    """Why the photograph cannot be used."""


class Labeler:
    """Makes the rows of photographs. Safe to use from several threads."""

    def __init__(
        self,
        experts: Experts,
        engine: str,
        detector: Detector | None,
        limits: ImageLimits | None = None,
        *,
        given: Mapping[str, tuple[Detection, ...]] | None = None,
        decoder: Decode | None = None,
    ) -> None:
        """Stores its parts; without a detector, each picture is a face.

        The fingerprint `engine` is written into every row. Photographs in `given`, by path, are not
        searched: their faces are known.
        """
        self.detector = detector
        """Searches the photographs; None takes each as one face."""
        self._given = given or {}
        self._experts = experts
        self._engine = engine
        self._limits = limits or ImageLimits()
        self._decode = decoder or load_here

    def label(self, paths: Sequence[str]) -> list[Labeled]:
        """Returns the photographs with their rows, in the same order."""
        return self._labeled(paths, [self._prepared(path) for path in paths])

    def stream(self, paths: Sequence[str]) -> Iterator[list[Labeled]]:
        """Yields batches of photographs with their rows, in the same order.

        Each thread takes the next photograph, or the faces of the next batch. There is one more
        than cores, because one that waits for a decoder needs none.
        """
        workers = usable_cores() + 1
        ahead = -(-workers // BATCH_SIZE)
        preparing: deque[tuple[Sequence[str], list[Future[_Prepared]]]] = deque()
        predicting: deque[Future[list[Labeled]]] = deque()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="agemoe-label")

        def predict(batch: Sequence[str], photographs: Sequence[Future[_Prepared]]) -> None:
            ready = [photograph.result() for photograph in photographs]
            predicting.append(pool.submit(self._labeled, batch, ready))

        try:
            for start in range(0, len(paths), BATCH_SIZE):
                batch = paths[start : start + BATCH_SIZE]
                preparing.append((batch, [pool.submit(self._prepared, path) for path in batch]))
                if len(preparing) > ahead:
                    predict(*preparing.popleft())
                if len(predicting) > ahead:
                    yield predicting.popleft().result()
            while preparing:
                predict(*preparing.popleft())
            while predicting:
                yield predicting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _prepared(self, path: str) -> _Prepared:
        given = self._given.get(path)
        detector = self.detector if given is None else Found(given)
        if detector is None:
            return _Prepared((None,), self._experts.prepare([Face(path)], quality=False))
        try:
            pixels = self._decode(path, self._limits, None)
        except InputError as error:
            return _Prepared(error=str(error))
        try:
            scene = scene_in(pixels, detector, limits=self._limits)
        except InputError as error:
            return _Prepared(error=str(error))
        except Exception as error:  # noqa: BLE001 - a failing detector must not end the job
            return _Prepared(error=f"The detector failed ({type(error).__name__}: {error}).")
        return _Prepared(scene.found, self._experts.prepare(scene.faces, quality=False))

    def _labeled(self, paths: Sequence[str], photographs: Sequence[_Prepared]) -> list[Labeled]:
        faces = [face for photograph in photographs for face in photograph.faces]
        results = iter(self._experts.predict_prepared(faces) if faces else [])
        return [
            (path, self._rows(path, one, list(itertools.islice(results, len(one.faces)))))
            for path, one in zip(paths, photographs, strict=True)
        ]

    def _rows(
        self, path: str, one: _Prepared, results: Sequence[AgeEstimate | AgeMoEError]
    ) -> list[Row]:
        if not results:
            return [{PATH: path, ERROR: one.error or NO_FACE, ENGINE: self._engine}]
        return [
            {
                PATH: path,
                FACE: index,
                **({} if found is None else position_of(found)),
                **ages_of(result),
                ENGINE: self._engine,
            }
            for index, (found, result) in enumerate(zip(one.found, results, strict=True))
        ]
