"""Whole photographs: find the faces, give each its person, estimate all ages in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from runtime.assignment import persons_of
from runtime.deadline import Deadline
from runtime.detection import FACE, PERSON, Detector, turned_box, turned_image
from runtime.detectors import default_detector
from runtime.errors import AgeMoEError, DeadlineError
from runtime.geometry import Pixels
from runtime.images import ImageLimits, load_rgb
from runtime.results import AgeEstimate, Box, Face

if TYPE_CHECKING:
    from runtime.results import ImageSource


@dataclass(frozen=True, slots=True)
class FoundFace:
    """Where a face is in a photograph."""

    box: Box
    """In pixels of the upright photograph (EXIF orientation applied)."""
    person_box: Box | None = None
    """The whole person; None if not found."""
    score: float | None = None
    """How sure the detector is, on a scale of its own; None if it does not say."""
    turn: int = 0
    """Quarter turns counter-clockwise, 0..3, that set the face upright."""


@dataclass(frozen=True, slots=True)
class PhotoFace(FoundFace):
    """A face in a photograph, and how old it looks."""

    result: AgeEstimate | AgeMoEError = field(kw_only=True)
    """The estimate, or why there is none."""

    @property
    def estimate(self) -> AgeEstimate | None:
        """The estimate; None if there is none."""
        return self.result if isinstance(self.result, AgeEstimate) else None

    @property
    def error(self) -> AgeMoEError | None:
        """Why there is no estimate; None if there is one."""
        return self.result if isinstance(self.result, AgeMoEError) else None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, ready for JSON."""
        said = {"error": str(self.error)} if self.estimate is None else self.estimate.to_dict()
        return {
            "box": list(self.box),
            "person_box": None if self.person_box is None else list(self.person_box),
            "score": self.score,
            "turn": self.turn,
            **said,
        }


class Predictor(Protocol):
    """What estimates ages: an `AgeMoE`, or whatever stands for one."""

    def predict(
        self, faces: list[Face], *, deadline_ms: float | Deadline | None = None
    ) -> list[AgeEstimate | AgeMoEError]:
        """One estimate, or error, for each face, in the same order."""
        ...


def predict_photo(
    predictor: Predictor,
    image: ImageSource,
    *,
    detector: Detector | None = None,
    person_boxes: Sequence[Box] = (),
    deadline_ms: float | Deadline | None = None,
    limits: ImageLimits | None = None,
) -> list[PhotoFace]:
    """Estimates the age of every face in a photograph.

    Args:
        predictor: estimates the ages, all in one call.
        image: a path, encoded bytes, a binary file, a PIL image or uint8 RGB (H, W, 3).
        detector: finds the faces; None takes OpenCV's Haar cascade. `GivenBoxes` are the caller's.
        person_boxes: whole persons, besides those that the detector finds.
        deadline_ms: from now, detection included.
        limits: on the picture's bytes and pixels.

    Returns:
        The faces from left to right; none where none was found.

    Raises:
        InputError: the photograph cannot be read.
        DeadlineError: the faces were not found in time.
    """
    deadline = Deadline.of(deadline_ms)
    pixels = load_rgb(image, limits or ImageLimits())
    found = find_faces(pixels, detector, person_boxes)
    if not found:
        return []
    if deadline is not None and deadline.passed:
        raise DeadlineError({"detection": deadline.reason})
    results = predictor.predict(faces_in(pixels, found), deadline_ms=deadline)
    return [with_result(face, result) for face, result in zip(found, results, strict=True)]


def find_faces(
    image: Pixels, detector: Detector | None = None, person_boxes: Sequence[Box] = ()
) -> list[FoundFace]:
    """Finds the faces in a picture, uint8 RGB (H, W, 3), and gives each the person it belongs to.

    Returns:
        The faces from left to right, by the middle of their boxes.
    """
    found = (detector or default_detector()).detect(image)
    faces = sorted((d for d in found if d.kind == FACE), key=lambda d: _reading_order(d.box))
    persons = [*(d.box for d in found if d.kind == PERSON), *person_boxes]
    return [
        FoundFace(face.box, None if owner is None else persons[owner], face.score, face.turn)
        for face, owner in zip(faces, persons_of([d.box for d in faces], persons), strict=True)
    ]


def faces_in(image: Pixels, found: Iterable[FoundFace]) -> list[Face]:
    """What `predict` takes: each face upright, in the picture, uint8 RGB (H, W, 3), or its turn."""
    height, width = image.shape[:2]
    found = list(found)
    views = {turn: turned_image(image, turn) for turn in {face.turn for face in found}}
    return [
        Face(
            views[face.turn],
            turned_box(face.box, face.turn, width, height),
            None
            if face.person_box is None
            else turned_box(face.person_box, face.turn, width, height),
        )
        for face in found
    ]


def with_result(found: FoundFace, result: AgeEstimate | AgeMoEError) -> PhotoFace:
    """A found face together with what was said of it."""
    return PhotoFace(found.box, found.person_box, found.score, found.turn, result=result)


def _reading_order(box: Box) -> tuple[float, float, Box]:
    return box[0] + box[2] / 2.0, box[1] + box[3] / 2.0, box
