"""`PhotoPredictor`: finds faces in photographs, and one person in several pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from runtime.deadline import Deadline
from runtime.detection import Detector
from runtime.errors import AgeMoEError
from runtime.images import Decode, ImageLimits
from runtime.main_faces import predict_main_faces
from runtime.person import PersonEstimate, combine
from runtime.photographs import PhotoFace, predict_photo
from runtime.results import AgeEstimate, Box
from runtime.startup import Contents, DetectorCheck

if TYPE_CHECKING:
    from runtime.results import FaceLike, ImageSource

F = TypeVar("F", bound="FaceLike")


class PhotoPredictor(ABC):
    """What `AgeMoE` does with photographs, built on its `predict` of given faces."""

    _contents: Contents
    _check_detector: DetectorCheck
    _limits: ImageLimits
    _decoder: Decode | None

    @abstractmethod
    def predict(
        self, faces: list[F], *, deadline_ms: float | Deadline | None = None
    ) -> list[AgeEstimate | AgeMoEError]:
        """Estimates the age of each face in a list."""

    @property
    def detector(self) -> Detector:
        """The detector of `predict_photo`; raises `AgeMoEError` if it cannot be opened."""
        return self._check_detector(self._contents.detectors.chosen(None), stacklevel=2)

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
            detector=self._check_detector(self._contents.detectors.chosen(detector), stacklevel=2),
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
