"""Whole photographs: finds the faces, assigns persons to them, predicts all ages in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from runtime.assignment import persons_of
from runtime.boxes import MAX_FACE_COVER, check_cover
from runtime.deadline import Deadline
from runtime.detection import (
    FACE,
    PERSON,
    Detector,
    turned_box,
    turned_image,
    turned_landmarks,
)
from runtime.detectors import default_detector
from runtime.errors import (
    AgeMoEError,
    DeadlineError,
)
from runtime.geometry import Pixels
from runtime.images import Decode, ImageLimits, load_here
from runtime.printing import Readable
from runtime.results import (
    AgeEstimate,
    Box,
    Face,
    Landmarks,
    box_text,
    result_dict,
    result_text,
)

if TYPE_CHECKING:
    from runtime.results import ImageSource

NO_FACE = "No face was found in the picture."


@dataclass(frozen=True, slots=True)
class FoundFace:
    """The position of a face in a photograph."""

    box: Box
    """In pixels of the upright photograph (EXIF orientation applied)."""
    person_box: Box | None = None
    """The whole person; None if not found."""
    score: float | None = None
    """Confidence of the detector, on a scale of its own; None if it has none."""
    turn: int = 0
    """Quarter turns counter-clockwise, 0..3, that turn the face upright."""
    landmarks: Landmarks | None = None
    """In pixels of the upright photograph; None if the detector has none."""


@dataclass(frozen=True, slots=True, repr=False)
class PhotoFace(Readable, FoundFace):
    """A face in a photograph, with its age."""

    result: AgeEstimate | AgeMoEError = field(kw_only=True)
    """The estimate, or the error instead of it."""

    @property
    def estimate(self) -> AgeEstimate | None:
        """The estimate; None if there is none."""
        return self.result if isinstance(self.result, AgeEstimate) else None

    @property
    def error(self) -> AgeMoEError | None:
        """The error; None if there is an estimate."""
        return self.result if isinstance(self.result, AgeMoEError) else None

    def __str__(self) -> str:
        """Returns the place and the age, or the error instead of it, in one line."""
        return f"{box_text(self.box)}: {result_text(self.result)}"

    def to_dict(self, *, gender: bool = False) -> dict[str, Any]:
        """Returns numbers, strings, lists and dicts, ready for JSON.

        Args:
            gender: include the perceived gender, if an expert predicts one.
        """
        return {
            "box": list(self.box),
            "person_box": None if self.person_box is None else list(self.person_box),
            "score": self.score,
            "turn": self.turn,
            "landmarks": self.landmarks and [list(point) for point in self.landmarks],
            **result_dict(self.result, gender=gender),
        }


@dataclass(frozen=True, slots=True)
class Scene:
    """The faces of one photograph."""

    found: tuple[FoundFace | None, ...] = ()
    """Their positions, from left to right; None for a picture that is a face as a whole."""
    faces: tuple[Face, ...] = ()
    """The same faces, as `predict` takes them."""
    error: str | None = None
    """Why the photograph cannot be used."""


class Predictor(Protocol):
    """An `AgeMoE`, or a replacement for one."""

    def predict(
        self, faces: list[Face], *, deadline_ms: float | Deadline | None = None
    ) -> list[AgeEstimate | AgeMoEError]:
        """Returns one estimate, or error, per face, in the same order."""
        ...


def predict_photo(
    predictor: Predictor,
    image: ImageSource,
    *,
    detector: Detector | None = None,
    person_boxes: Sequence[Box] = (),
    deadline_ms: float | Deadline | None = None,
    limits: ImageLimits | None = None,
    decoder: Decode | None = None,
) -> list[PhotoFace]:
    """Estimates the age of every face in a photograph.

    Args:
        predictor: estimates the ages, all in one call.
        image: a path, encoded bytes, a binary file, a PIL image or uint8 RGB (H, W, 3).
        detector: finds the faces; None uses OpenCV's Haar cascade. Wrap your own boxes in
            `GivenBoxes`.
        person_boxes: whole persons, in addition to those that the detector finds.
        deadline_ms: from now, detection included.
        limits: on the picture's bytes and pixels.
        decoder: of the picture; None decodes it in this thread.

    Returns:
        The faces from left to right; empty if there are none.

    Raises:
        InputError: the photograph cannot be read, or its faces cover too many pixels.
        DeadlineError: the deadline passed before the prediction.
    """
    deadline = Deadline.of(deadline_ms)
    limits = limits or ImageLimits()
    pixels = (decoder or load_here)(image, limits, deadline)
    found = find_faces(pixels, detector, person_boxes)
    if not found:
        return []
    if deadline is not None and deadline.passed:
        raise DeadlineError({"detection": deadline.reason})
    faces = faces_in(pixels, found, limits)
    results = predictor.predict(faces, deadline_ms=deadline)
    return [with_result(face, result) for face, result in zip(found, results, strict=True)]


def scene_in(
    image: Pixels,
    detector: Detector | None = None,
    person_boxes: Sequence[Box] = (),
    limits: ImageLimits | None = None,
) -> Scene:
    """Finds the faces in a picture, uint8 RGB (H, W, 3), and prepares them for `predict`.

    Raises:
        BoxesTooLargeError: the faces and persons together cover too many pixels.
    """
    found = find_faces(image, detector, person_boxes)
    return Scene(tuple(found), tuple(faces_in(image, found, limits)))


def find_faces(
    image: Pixels, detector: Detector | None = None, person_boxes: Sequence[Box] = ()
) -> list[FoundFace]:
    """Finds the faces in a picture, uint8 RGB (H, W, 3), and assigns each its person.

    Returns:
        The faces from left to right, by the center of their boxes.
    """
    found = (detector or default_detector()).detect(image)
    faces = sorted((d for d in found if d.kind == FACE), key=lambda d: _reading_order(d.box))
    persons = [*(d.box for d in found if d.kind == PERSON), *person_boxes]
    return [
        FoundFace(
            face.box,
            None if owner is None else persons[owner],
            face.score,
            face.turn,
            face.landmarks,
        )
        for face, owner in zip(faces, persons_of([d.box for d in faces], persons), strict=True)
    ]


def faces_in(
    image: Pixels, found: Iterable[FoundFace], limits: ImageLimits | None = None
) -> list[Face]:
    """Returns the found faces as `predict` takes them: upright, in uint8 RGB (H, W, 3).

    Faces of the same turn share one turned picture.

    Raises:
        BoxesTooLargeError: the faces and persons, and the turned pictures, together cover too many
            pixels for these limits.
    """
    height, width = image.shape[:2]
    found = list(found)
    turns = {face.turn for face in found}
    boxes = [box for face in found for box in (face.box, face.person_box) if box is not None]
    max_pixels = (limits or ImageLimits()).max_pixels
    check_cover(boxes, height, width, max_pixels, copies=len(turns - {0}))
    check_cover([face.box for face in found], height, width, max_pixels, most=MAX_FACE_COVER)
    views = {turn: turned_image(image, turn) for turn in turns}

    def turned(box: Box | None, turn: int) -> Box | None:
        return None if box is None else turned_box(box, turn, width, height)

    return [
        Face(
            views[face.turn],
            turned(face.box, face.turn),
            turned(face.person_box, face.turn),
            face.landmarks and turned_landmarks(face.landmarks, face.turn, width, height),
            face.score,
        )
        for face in found
    ]


def with_result(found: FoundFace, result: AgeEstimate | AgeMoEError) -> PhotoFace:
    """Returns a found face together with its result."""
    return PhotoFace(
        found.box, found.person_box, found.score, found.turn, found.landmarks, result=result
    )


def _reading_order(box: Box) -> tuple[float, float, Box]:
    return box[0] + box[2] / 2.0, box[1] + box[3] / 2.0, box
