"""`PhotoPredictor`: finds faces in photographs, and one person in several pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from runtime.active_calls import ActiveCalls
from runtime.deadline import Deadline
from runtime.detection import Detector
from runtime.errors import AgeMoEError, InputError
from runtime.images import Decode, ImageLimits
from runtime.main_faces import predict_main_faces
from runtime.person import PersonEstimate, combine
from runtime.photographs import PhotoFace, predict_photo
from runtime.preparation import PreparedFace, Preparer
from runtime.results import AgeEstimate, Box
from runtime.startup import Contents, DetectorCheck

if TYPE_CHECKING:
    from runtime.results import FaceLike, ImageSource

F = TypeVar("F", bound="FaceLike")


class PhotoPredictor(ABC):
    """What `AgeMoE` does with photographs, built on its `predict` of given faces."""

    _calls: ActiveCalls
    _contents: Contents
    _check_detector: DetectorCheck
    _preparer: Preparer
    _limits: ImageLimits
    _decoder: Decode | None

    @abstractmethod
    def predict(
        self, faces: list[F], *, deadline_ms: float | Deadline | None = None
    ) -> list[AgeEstimate | AgeMoEError]:
        """Estimates the age of each face in a list."""

    @abstractmethod
    def _predict_prepared(
        self, prepared: Sequence[PreparedFace | InputError], deadline: Deadline | None
    ) -> list[AgeEstimate | AgeMoEError]:
        """Estimates the ages of faces from `_prepared`."""

    @property
    def detector(self) -> Detector:
        """The detector of `predict_photo`; raises `AgeMoEError` if it cannot be opened."""
        return self._check_detector(self._contents.detectors.chosen(None))

    @property
    def correlation(self) -> float | None:
        """That of the errors on two pictures of a person, as `predict_person` uses it, or None."""
        fitted = self._contents.tables.correlation
        return None if fitted is None else fitted.high

    def predict_photo(
        self,
        image: ImageSource,
        *,
        detector: str | Detector | None = None,
        person_boxes: Sequence[Box] = (),
        deadline_ms: float | Deadline | None = None,
    ) -> list[PhotoFace]:
        """Finds the faces in a photograph and estimates the age of each.

        Args:
            image: as in `predict`.
            detector: or its name, as `AgeMoE` takes it: `centerface`, `yunet:MODEL`, …; None uses
                `self.detector`. Wrap your own boxes in `GivenBoxes`.
            person_boxes: whole persons, in addition to those that the detector finds.
            deadline_ms: as in `predict`, detection included.

        Returns:
            The faces from left to right, each with its estimate or error; empty if there are none.

        Raises:
            InputError: the photograph cannot be read.
            EngineFileError, BackendError: the detector cannot be opened.
            PredictionError: no expert answered for any face, or the deadline passed.
            ClosedError: after `close`, or in a forked process.
        """
        return predict_photo(
            self,
            image,
            detector=self._check_detector(self._contents.detectors.chosen(detector)),
            person_boxes=person_boxes,
            deadline_ms=deadline_ms,
            limits=self._limits,
            decoder=self._decoder,
        )

    def predict_person(
        self,
        frames: Sequence[FaceLike],
        *,
        find: bool = False,
        separate: bool = False,
        deadline_ms: float | Deadline | None = None,
    ) -> PersonEstimate:
        """Estimates the age of one person from several pictures, as of a video or a burst.

        Args:
            frames: pictures of the face, as in `predict`; with `find`, pictures that it is in.
            find: find the face with `self.detector`: the only one, or clearly the largest.
            separate: they are of separate occasions, with another light and pose: the interval
                becomes narrower by the correlation that was fitted for these. Without one, and for
                pictures of one sitting, it stays as wide as that of one picture.
            deadline_ms: as in `predict`, detection included.

        Returns:
            The person's estimate, and that of each picture, or the error in its place.

        Raises:
            PredictionError: no picture gives an age; no expert answered.
            EngineFileError, BackendError: the detector cannot be opened.
            ClosedError: after `close`, or in a forked process.
        """
        deadline = Deadline.of(deadline_ms)
        results = (
            predict_main_faces(
                self,
                frames,
                detector=self.detector,
                deadline_ms=deadline,
                limits=self._limits,
                decoder=self._decoder,
            )
            if find
            else self.predict(list(frames), deadline_ms=deadline)
        )
        return combine(results, self.correlation if separate else None)

    def prepare(
        self, faces: Sequence[FaceLike], *, quality: bool = True
    ) -> list[PreparedFace | InputError]:
        """Crops faces for `predict_prepared`: pictures need not stay in memory for a batch.

        Limits on quality and the liveness check apply here.

        Args:
            faces: as in `predict`, in a list.
            quality: measure the quality of each face. Limits on it do in any case.

        Returns:
            One entry per face in order; the error of a face that cannot be used.

        Raises:
            TypeError: a single face was given.
            ClosedError: after `close`, or in a forked process.
        """
        if isinstance(faces, str | bytes) or not isinstance(faces, Sequence):
            raise TypeError(f"Expected a list of faces, got {type(faces).__name__}.")
        call = object()
        try:
            self._calls.enter(call)
            return self._prepared(faces, None, quality=quality)
        finally:
            self._calls.leave(call)

    def predict_prepared(
        self, faces: Sequence[PreparedFace | InputError]
    ) -> list[AgeEstimate | AgeMoEError]:
        """Estimates the ages of faces from `prepare`; returns and raises as `predict` of a list.

        Raises:
            TypeError: something else was given.
            ValueError: an `AgeMoE` with other inputs prepared a face.
        """
        faces = self._preparer.checked(faces)
        call = object()
        try:
            self._calls.enter(call)
            return self._predict_prepared(faces, None)
        finally:
            self._calls.leave(call)

    def _prepared(
        self, faces: Sequence[FaceLike], deadline: Deadline | None, *, quality: bool = True
    ) -> list[PreparedFace | InputError]:
        self._check_detector.check_boxes(faces)
        prepared = self._preparer.prepare(faces, deadline, quality=quality)
        return [
            face.with_notes(self._check_detector.notes_on(given))
            if isinstance(face, PreparedFace)
            else face
            for given, face in zip(faces, prepared, strict=True)
        ]
