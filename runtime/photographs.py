"""Whole photographs: finds the faces, assigns persons to them, predicts all ages in one batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from runtime.assignment import persons_of
from runtime.boxes import MAX_FACE_COVER, check_cover
from runtime.deadline import Deadline
from runtime.detection import (
    FACE,
    PERSON,
    Detector,
    area,
    turned_box,
    turned_image,
    turned_landmarks,
)
from runtime.detectors import default_detector
from runtime.errors import (
    AgeMoEError,
    DeadlineError,
    FaceCountError,
    InputError,
    ManyFacesError,
)
from runtime.geometry import Pixels
from runtime.images import Decode, ImageLimits, load_here
from runtime.results import AgeEstimate, Box, Face, Landmarks

if TYPE_CHECKING:
    from runtime.results import FaceLike, ImageSource

NO_FACE = "No face was found in the picture."
_MOST_OF_LARGEST = 0.5
"""Share of the largest face's area from which on another face makes a picture ambiguous."""


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


@dataclass(frozen=True, slots=True)
class PhotoFace(FoundFace):
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

    def to_dict(self) -> dict[str, Any]:
        """Returns numbers, strings, lists and dicts, ready for JSON."""
        result = {"error": str(self.error)} if self.estimate is None else self.estimate.to_dict()
        return {
            "box": list(self.box),
            "person_box": None if self.person_box is None else list(self.person_box),
            "score": self.score,
            "turn": self.turn,
            "landmarks": self.landmarks and [list(point) for point in self.landmarks],
            **result,
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


def predict_main_faces(
    predictor: Predictor,
    pictures: Sequence[FaceLike],
    *,
    detector: Detector | None = None,
    deadline_ms: float | Deadline | None = None,
    limits: ImageLimits | None = None,
    decoder: Decode | None = None,
) -> list[AgeEstimate | AgeMoEError]:
    """Estimates the age of the person whom each picture shows, all in one call if they are small.

    Args:
        predictor: estimates the ages.
        pictures: photographs with one person each, as in `predict_photo`; a `Face` is taken as it
            is.
        detector: as in `predict_photo`.
        deadline_ms: from now, detection included.
        limits: on each picture; those that wait for the experts have no more than twice
            `max_pixels` together.
        decoder: as in `predict_photo`.

    Returns:
        One entry per picture; a FaceCountError where it does not show one person.

    Raises:
        PredictionError: no expert answered, or the deadline passed.
    """
    deadline, limits = Deadline.of(deadline_ms), limits or ImageLimits()
    results: dict[int, AgeEstimate | AgeMoEError] = {}
    waiting: dict[int, tuple[Face, tuple[str, ...]]] = {}
    held_pixels = 0

    def predict_waiting() -> None:
        faces = [face for face, _ in waiting.values()]
        found = predictor.predict(faces, deadline_ms=deadline) if faces else []
        for (index, (_, notes)), result in zip(waiting.items(), found, strict=True):
            results[index] = _noted(result, notes)
        waiting.clear()

    for index, picture in enumerate(pictures):
        if deadline is not None and deadline.passed:
            raise DeadlineError({"detection": deadline.reason})
        if isinstance(picture, Face):
            waiting[index] = picture, ()
            continue
        try:
            pixels = (decoder or load_here)(picture, limits, deadline)
            main, notes = main_face(find_faces(pixels, detector))
            (face,) = faces_in(pixels, [main], limits)
        except InputError as error:
            results[index] = error
            continue
        waiting[index] = face, notes
        held_pixels += pixels.shape[0] * pixels.shape[1]
        if held_pixels > limits.max_pixels:
            predict_waiting()
            held_pixels = 0
    predict_waiting()
    return [results[index] for index in range(len(pictures))]


def main_face(found: Sequence[FoundFace]) -> tuple[FoundFace, tuple[str, ...]]:
    """Returns the face of the person whom a picture shows, and a note if there are others.

    It is the largest face, unless another one has half its area: then nobody can tell who is meant.

    Raises:
        FaceCountError: there is no face, or there are several large ones.
    """
    if not found:
        raise FaceCountError(NO_FACE)
    largest, *others = sorted(found, key=lambda face: area(face.box), reverse=True)
    if not others:
        return largest, ()
    if area(others[0].box) >= _MOST_OF_LARGEST * area(largest.box):
        raise ManyFacesError(
            f"The picture shows {len(found)} faces, and the largest is not twice as large as the "
            f"next. Send a picture of one person."
        )
    return largest, ("the largest of several faces in the picture was taken",)


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


def _noted(result: AgeEstimate | AgeMoEError, notes: tuple[str, ...]) -> AgeEstimate | AgeMoEError:
    if notes and isinstance(result, AgeEstimate):
        return replace(result, notes=(*result.notes, *notes))
    return result
