"""The main face of a picture: of one person whom several pictures show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from runtime.deadline import Deadline
from runtime.detection import Detector, area
from runtime.errors import (
    AgeMoEError,
    DeadlineError,
    FaceCountError,
    InputError,
    ManyFacesError,
)
from runtime.images import Decode, ImageLimits, load_here
from runtime.photographs import NO_FACE, FoundFace, Predictor, faces_in, find_faces
from runtime.results import AgeEstimate, Face

if TYPE_CHECKING:
    from runtime.results import FaceLike

_MOST_OF_LARGEST = 0.5
"""Share of the largest face's area from which on another face makes a picture ambiguous."""


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

    It is the largest face; if another one has half its area, it is unclear who is meant.

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


def _noted(result: AgeEstimate | AgeMoEError, notes: tuple[str, ...]) -> AgeEstimate | AgeMoEError:
    if notes and isinstance(result, AgeEstimate):
        return replace(result, notes=(*result.notes, *notes))
    return result
