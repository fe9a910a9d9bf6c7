"""Processing of one picture: decoding, face detection, and conversion of the results to JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.boxes import MAX_COVER, MAX_FACE_COVER, check_total, cover
from runtime.detection import Detector, GivenBoxes
from runtime.errors import AgeMoEError, NotCalibratedError
from runtime.geometry import Pixels
from runtime.images import ImageLimits
from runtime.photographs import FoundFace, Scene, scene_in
from runtime.results import AgeEstimate, Face
from runtime.serving.problems import NoFaceError, SeveralFacesError, problem_of
from runtime.serving.request_body import Photo

JsonObject = dict[str, Any]

STAGES = ("decode", "detect")
"""Timed stages before the prediction: `decode_photo` and `detect_faces`."""


@dataclass(slots=True)
class Predictions:
    """A picture, its faces and, after the prediction, their results."""

    width: int | None = None
    height: int | None = None
    scene: Scene = field(default_factory=Scene)
    results: Sequence[AgeEstimate | BaseException] = ()
    error: AgeMoEError | None = None
    """The error of a picture that cannot be used; None otherwise."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Duration of each of `STAGES`."""

    @property
    def pixels(self) -> int:
        """Number of pixels; 0 if the picture was not decoded."""
        return (self.width or 0) * (self.height or 0)


def decode_photo(decode: Callable[[], Pixels]) -> tuple[Predictions, Pixels | None]:
    """Decodes a picture; an error is recorded, not raised, and there are no pixels then."""
    predictions, started = Predictions(), time.perf_counter()
    pixels: Pixels | None = None
    try:
        pixels = decode()
        predictions.height, predictions.width = pixels.shape[:2]
    except AgeMoEError as error:
        predictions.error = error.with_traceback(None)  # its frames hold the picture
    predictions.seconds["decode"] = time.perf_counter() - started
    return predictions, pixels


def detect_faces(
    predictions: Predictions,
    pixels: Pixels,
    photo: Photo,
    detector: Detector | None,
    limits: ImageLimits,
) -> None:
    """Adds the faces in a picture; an error is recorded, not raised.

    Without a detector, a picture without boxes is taken as one face.
    """
    started = time.perf_counter()
    try:
        predictions.scene = _scene(pixels, photo, detector, limits)
    except AgeMoEError as error:
        predictions.error = error.with_traceback(None)
    predictions.seconds["detect"] = time.perf_counter() - started


def _scene(pixels: Pixels, photo: Photo, detector: Detector | None, limits: ImageLimits) -> Scene:
    scene = _all_faces(pixels, photo, detector, limits)
    if not photo.sole_face or len(scene.faces) == 1:
        return scene
    if not scene.faces:
        raise NoFaceError(
            "No face was found in the picture. Use one that shows the whole face, or give its box."
        )
    raise SeveralFacesError(
        f"The picture shows {len(scene.faces)} faces, and the decision is about one person. Use "
        f"a picture of that person alone, or give the box of the face."
    )


def _all_faces(
    pixels: Pixels, photo: Photo, detector: Detector | None, limits: ImageLimits
) -> Scene:
    if photo.boxes is None and detector is None:
        body = photo.person_boxes[0] if photo.person_boxes else None
        return Scene((None,), (Face(pixels, None, body),))
    finder = detector
    if photo.boxes is not None:
        finder = GivenBoxes(photo.boxes, landmarks=photo.landmarks)
    return scene_in(pixels, finder, photo.person_boxes, limits)


def check_request_cover(photos: Sequence[Predictions], max_pixels: int) -> None:
    """Rejects faces and persons that are together too large, in all pictures of a request.

    Raises:
        BoxesTooLargeError: they cover more than the faces, or all boxes, of one picture may.
    """
    faces = persons = 0.0
    for photo in photos:
        size = photo.height or 0, photo.width or 0
        found = photo.scene.found
        faces += cover([None if face is None else face.box for face in found], *size)
        persons += cover([face.person_box for face in found if face and face.person_box], *size)
    check_total(faces, MAX_FACE_COVER * max_pixels, "the pictures of this request")
    check_total(faces + persons, MAX_COVER * max_pixels, "the pictures of this request")


def sole_error(photos: Sequence[Predictions]) -> BaseException | None:
    """Returns the error of a request's only picture or only face, which fails the request."""
    if len(photos) != 1:
        return None
    (photo,) = photos
    if photo.error is not None or len(photo.results) != 1:
        return photo.error
    (result,) = photo.results
    return None if isinstance(result, AgeEstimate) else result


def require_probability(
    result: AgeEstimate | BaseException, threshold: float | None
) -> AgeEstimate | BaseException:
    """Returns the result, or the error if the requested probability is not available."""
    if threshold is None or not isinstance(result, AgeEstimate):
        return result
    try:
        result.probability_at_least(threshold)
    except NotCalibratedError as error:
        return error
    return result


def photo_json(photo: Predictions, threshold: float | None) -> JsonObject:
    """Returns the results of a picture, ready for JSON."""
    return {
        "width": photo.width,
        "height": photo.height,
        "faces": [
            _face_json(found, result, threshold)
            for found, result in zip(photo.scene.found, photo.results, strict=True)
        ],
        "problem": None if photo.error is None else problem_of(photo.error).to_dict(),
    }


def _face_json(
    found: FoundFace | None, result: AgeEstimate | BaseException, threshold: float | None
) -> JsonObject:
    return {
        "box": found and list(found.box),
        "person_box": found and found.person_box and list(found.person_box),
        "score": found and found.score,
        "landmarks": found and found.landmarks and [list(point) for point in found.landmarks],
        "estimate": _estimate_json(result, threshold) if isinstance(result, AgeEstimate) else None,
        "problem": None if isinstance(result, AgeEstimate) else problem_of(result).to_dict(),
    }


def _estimate_json(estimate: AgeEstimate, threshold: float | None) -> JsonObject:
    fields = estimate.to_dict()
    if threshold is not None:
        low, high = estimate.probability_bounds(threshold)
        fields["at_least"] = {
            "threshold": threshold,
            "probability": estimate.probability_at_least(threshold),
            "low": low,
            "high": high,
        }
    return fields
