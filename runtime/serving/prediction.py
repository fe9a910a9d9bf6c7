"""One picture on its way: decoded, its faces found, their ages said."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.detection import Detector, GivenBoxes
from runtime.errors import AgeMoEError, NotCalibratedError
from runtime.geometry import Pixels
from runtime.images import ImageLimits, load_rgb
from runtime.photographs import FoundFace, faces_in, find_faces
from runtime.results import AgeEstimate, Face
from runtime.serving.decoding import Photo
from runtime.serving.problems import problem_of

Answer = dict[str, Any]


LOOKING = ("decode", "detect")
"""The stages of `look`."""


@dataclass(slots=True)
class Looked:
    """A picture, the faces in it and, in the end, what was said of each."""

    width: int | None = None
    height: int | None = None
    found: list[FoundFace | None] = field(default_factory=list)
    """Where the faces are; None for a picture that is a face."""
    faces: list[Face] = field(default_factory=list)
    results: Sequence[AgeEstimate | BaseException] = ()
    error: AgeMoEError | None = None
    """Why the picture cannot be used; None if it can."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(LOOKING, 0.0))
    """By stage of `look`."""

    @property
    def pixels(self) -> int:
        """How many the picture has; 0 if it was not decoded."""
        return (self.width or 0) * (self.height or 0)


def look(photo: Photo, limits: ImageLimits, detector: Detector | None) -> Looked:
    """Decodes a picture and finds its faces.

    Args:
        photo: as it was sent.
        limits: what is refused.
        detector: for pictures without boxes; None takes such a picture for a face.
    """
    looked, started = Looked(), time.perf_counter()
    try:
        pixels = load_rgb(photo.data, limits)
        looked.height, looked.width = pixels.shape[:2]
        looked.seconds["decode"] = time.perf_counter() - started
        _find(looked, pixels, photo, detector)
    except AgeMoEError as error:
        looked.error = error
    looked.seconds["detect"] = time.perf_counter() - started - looked.seconds["decode"]
    return looked


def _find(looked: Looked, pixels: Pixels, photo: Photo, detector: Detector | None) -> None:
    if photo.boxes is None and detector is None:
        body = photo.person_boxes[0] if photo.person_boxes else None
        looked.found, looked.faces = [None], [Face(pixels, None, body)]
        return
    finder = detector if photo.boxes is None else GivenBoxes(photo.boxes)
    found = find_faces(pixels, finder, photo.person_boxes)
    looked.found, looked.faces = list(found), faces_in(pixels, found)


def sole_problem(photos: Sequence[Looked]) -> BaseException | None:
    """The error of a request that is about one thing only, which then is the request's."""
    if len(photos) != 1:
        return None
    (photo,) = photos
    if photo.error is not None or len(photo.results) != 1:
        return photo.error
    (result,) = photo.results
    return None if isinstance(result, AgeEstimate) else result


def useful(
    result: AgeEstimate | BaseException, threshold: float | None
) -> AgeEstimate | BaseException:
    """The result, or why it cannot say what was asked for: the probability of an age."""
    if threshold is None or not isinstance(result, AgeEstimate):
        return result
    try:
        result.probability_at_least(threshold)
    except NotCalibratedError as error:
        return error
    return result


def image_answer(photo: Looked, threshold: float | None) -> Answer:
    """What is said of a picture, ready for JSON."""
    return {
        "width": photo.width,
        "height": photo.height,
        "faces": [
            _face_answer(found, result, threshold)
            for found, result in zip(photo.found, photo.results, strict=True)
        ],
        "problem": None if photo.error is None else problem_of(photo.error).to_dict(),
    }


def _face_answer(
    found: FoundFace | None, result: AgeEstimate | BaseException, threshold: float | None
) -> Answer:
    estimate = problem = None
    if isinstance(result, AgeEstimate):
        estimate = _estimate_answer(result, threshold)
    else:
        problem = problem_of(result).to_dict()
    return {
        "box": None if found is None else list(found.box),
        "person_box": None if found is None or not found.person_box else list(found.person_box),
        "score": None if found is None else found.score,
        "estimate": estimate,
        "problem": problem,
    }


def _estimate_answer(estimate: AgeEstimate, threshold: float | None) -> Answer:
    said = estimate.to_dict()
    if threshold is not None:
        probability = estimate.probability_at_least(threshold)
        said["at_least"] = {"threshold": threshold, "probability": probability}
    return said
