"""Face detection: the detector protocol and its common parts.

A detector is any object with `detect` and `provenance`; module `detectors` holds those of the
runtime. Boxes are x, y, width, height in pixels of the given picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.geometry import Pixels
from runtime.resizing import Scale, reduced
from runtime.results import Box, Landmarks, Point
from runtime.search_limit import SearchLimit, limited

FACE, PERSON = "face", "person"
MAX_OVERLAP = 0.5
"""Two boxes are the same face if they share more than this part of the smaller one."""
TURNED_SIDE = 1280
"""Longest side, in pixels, of a picture that is turned: none of the detectors looks at more."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A face or a person in a picture."""

    box: Box
    """In pixels of the picture given to the detector; may extend beyond it."""
    score: float | None = None
    """Confidence of the detector, on a scale of its own; None if it has none."""
    turn: int = 0
    """Quarter turns counter-clockwise, 0..3, that turn the face upright."""
    kind: str = FACE
    """`face`, or `person` for a whole body."""
    landmarks: Landmarks | None = None
    """In pixels of the picture given to the detector, also outside it; None if the detector has
    none. Their order is that of the face turned upright."""


class Detector(Protocol):
    """A face detector, deterministic and safe to use from several threads."""

    @property
    def provenance(self) -> str:
        """Everything that the detections depend on: name, version, model fingerprint, settings."""

    def detect(self, image: Pixels) -> Sequence[Detection]:
        """Finds the faces, and optionally the persons, in a picture, uint8 RGB (H, W, 3)."""


def finds_landmarks(detector: Detector) -> bool:
    """Returns whether a detector may find landmarks: unless its `finds_landmarks` is false."""
    return bool(getattr(detector, "finds_landmarks", True))


@dataclass(frozen=True, slots=True)
class GivenBoxes:
    """The caller's own boxes for one picture, in place of a detector."""

    faces: Sequence[Box]
    """In pixels of the upright picture."""
    persons: Sequence[Box] = ()
    """Whole persons, matched to the faces by overlap."""
    landmarks: Sequence[Landmarks | None] = ()
    """Of each face, in the same order; None where unknown. Empty if all are unknown."""

    def __post_init__(self) -> None:
        """Validates that there are as many landmarks as faces, if there are any."""
        if len(self.landmarks) not in (0, len(self.faces)):
            raise ValueError(
                f"{len(self.landmarks)} sets of landmarks were given for {len(self.faces)} faces. "
                f"Give one, or None, for each face."
            )

    @property
    def provenance(self) -> str:
        """States that nothing was detected."""
        return "boxes given by the caller"

    def detect(self, image: Pixels) -> list[Detection]:
        """Returns the given boxes."""
        del image
        landmarks = self.landmarks or [None] * len(self.faces)
        faces = [
            Detection(box, landmarks=points)
            for box, points in zip(self.faces, landmarks, strict=True)
        ]
        return [*faces, *(Detection(box, kind=PERSON) for box in self.persons)]


@dataclass(frozen=True, slots=True)
class Found:
    """The faces and persons of one picture, known already, in place of a detector."""

    detections: Sequence[Detection]

    @property
    def provenance(self) -> str:
        """States that nothing was detected."""
        return "detections given by the caller"

    def detect(self, image: Pixels) -> Sequence[Detection]:
        """Returns the given detections."""
        del image
        return self.detections


@dataclass(frozen=True, slots=True)
class AnyWayUp:
    """Tries quarter turns of a picture, for a detector of upright faces.

    A face counts by its score, times how upright its landmarks are: a detector may find faces in
    any turn. If the upright picture has a sure face, it is not turned. Otherwise the best turn is
    used if its best face wins clearly: turned noise is no face.
    """

    detector: Detector
    """Finds upright faces."""
    sure: float
    """Score, times `uprightness`, from which a face counts as sure."""
    lead: float = 1.05
    """Factor by which a turned face has to surpass `sure` and the best face as it is."""
    quick: Detector | None = None
    """Searches the turned views for the best one; None: `detector` does."""
    turned_side: int = TURNED_SIDE
    """Longest side, in pixels, of the views that are compared; in the best, `detector` searches."""

    @property
    def provenance(self) -> str:
        """The detector's provenance and the thresholds for turns."""
        rule = f"in quarter turns unless sure of {self.sure:g}, with a lead of {self.lead:g}"
        return f"{self.detector.provenance}, {rule}"

    @property
    def finds_landmarks(self) -> bool:
        """Whether the detector may find landmarks."""
        return finds_landmarks(self.detector)

    def detect(self, image: Pixels) -> Sequence[Detection]:
        """Finds the faces in the picture as it is, or in the turn that shows a face upright."""
        upright = self.detector.detect(image)
        least = _best_face(upright)
        if least >= self.sure:
            return upright
        search = self.quick or self.detector
        image, scale = reduced(image, TURNED_SIDE)
        small, _ = reduced(image, self.turned_side)
        views = {turn: search.detect(turned_image(small, turn)) for turn in (1, 2, 3)}
        turn = max(views, key=lambda turn: _best_face(views[turn]))
        if _best_face(views[turn]) < self.lead * max(self.sure, least):
            return upright
        if search is not self.detector or small is not image:
            views[turn] = self.detector.detect(turned_image(image, turn))
        return [enlarged(found, scale) for found in _turned_back(views[turn], turn, image)]

    def limited_to(self, limit: SearchLimit) -> AnyWayUp:
        """Returns this detector within a limit on all its pictures together."""
        quick = self.quick and limited(self.quick, limit)
        return replace(self, detector=limited(self.detector, limit), quick=quick)


def _turned_back(found: Sequence[Detection], turn: int, image: Pixels) -> list[Detection]:
    """Returns detections in a turned picture as those in the picture itself."""
    sides = image.shape[:2] if turn % 2 else image.shape[1::-1]  # width and height, turned

    def back(one: Detection) -> Detection:
        points = one.landmarks and turned_landmarks(one.landmarks, -turn, *sides)
        box = turned_box(one.box, -turn, *sides)
        return replace(one, box=box, turn=turn, landmarks=points)

    return [back(one) for one in found]


def _best_face(found: Sequence[Detection]) -> float:
    return max((_score(one) * uprightness(one.landmarks) for one in found), default=0.0)


def uprightness(landmarks: Landmarks | None) -> float:
    """Returns how upright a face is: 1 for a frontal face, 0 from a quarter turn on.

    It is the correlation of the landmarks with those of an upright frontal face, after removing
    place and size but not the rotation; 1 if there are no landmarks.
    """
    if landmarks is None:
        return 1.0
    points = np.asarray(landmarks, np.float64)
    points = points - points.mean(0)
    length = float(np.linalg.norm(points))
    return max(float((points * _UPRIGHT).sum()) / length, 0.0) if length > 0.0 else 0.0


def _unit_shape(points: Landmarks) -> NDArray[np.float64]:
    shape = np.asarray(points, np.float64)
    shape = shape - shape.mean(0)
    return np.asarray(shape / np.linalg.norm(shape))


_UPRIGHT = _unit_shape(
    ((18.28, 17.47), (44.61, 17.36), (31.05, 31.43), (20.10, 43.00), (41.79, 42.84))
)
"""Mean of CenterFace's landmarks on frontal faces, measured on photographs of three sources."""


def turned_image(image: Pixels, turn: int) -> Pixels:
    """Returns a picture turned counter-clockwise; the picture itself for no turn."""
    return np.ascontiguousarray(np.rot90(image, turn)) if turn % 4 else image


def turned_box(box: Box, turn: int, width: float, height: float) -> Box:
    """Returns a box after its picture was turned by quarter turns counter-clockwise.

    Box, width and height are those before the turn, in pixels.
    """
    x, y, w, h = box
    for _ in range(turn % 4):
        x, y, w, h = y, width - x - w, h, w
        width, height = height, width
    return x, y, w, h


def turned_landmarks(landmarks: Landmarks, turn: int, width: float, height: float) -> Landmarks:
    """Returns landmarks after their picture was turned, as `turned_box` does for a box.

    0, 0 is the center of the first pixel. Their order stays that of the face, whose left eye is the
    left one where it is upright.
    """

    def turned(x: float, y: float) -> Point:
        return turned_box((x, y, 0.0, 0.0), turn, width - 1.0, height - 1.0)[:2]

    return moved_landmarks(landmarks, turned)


def enlarged(found: Detection, scale: Scale) -> Detection:
    """Returns a detection in a reduced picture as one in the original."""
    (x, y, width, height), (across, down) = found.box, scale
    return replace(
        found,
        box=(x * across, y * down, width * across, height * down),
        landmarks=found.landmarks
        and moved_landmarks(found.landmarks, lambda px, py: (px * across, py * down)),
    )


def moved_landmarks(landmarks: Landmarks, move: Callable[[float, float], Point]) -> Landmarks:
    """Returns landmarks each of which was moved by a function of its x and y."""
    left_eye, right_eye, nose, left_mouth, right_mouth = (move(x, y) for x, y in landmarks)
    return left_eye, right_eye, nose, left_mouth, right_mouth


def within(box: Box, width: float, height: float) -> Box:
    """Returns a box clipped to a picture of that size; of no area if it lies outside."""
    left, top = (
        min(max(edge, 0.0), size) for edge, size in zip(box[:2], (width, height), strict=True)
    )
    right = min(max(box[0] + box[2], left), width)
    bottom = min(max(box[1] + box[3], top), height)
    return left, top, right - left, bottom - top


def area(box: Box) -> float:
    """Returns the area of a box, in square pixels."""
    return box[2] * box[3]


def shared_area(one: Box, other: Box) -> float:
    """Returns the area of the intersection of two boxes, in square pixels."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(across, 0.0) * max(down, 0.0)


def overlap(one: Box, other: Box) -> float:
    """Returns the intersection over union of two boxes, within 0..1."""
    shared = shared_area(one, other)
    union = area(one) + area(other) - shared
    return shared / union if union > 0.0 else 0.0


def without_duplicates(found: Sequence[Detection]) -> list[Detection]:
    """Removes every detection that lies mostly in, or around, one with a higher score.

    Two detections are one face if they share more than half of the smaller one. Unlike a limit on
    the intersection over union, that covers the small boxes within a face which cascades tend to
    find. Of equal scores the larger box is kept.

    Returns:
        The highest score first; independent of the order of `found`.
    """
    kept: list[Detection] = []
    for one in sorted(found, key=lambda d: (-_score(d), -area(d.box), d.box)):
        if not any(
            shared_area(one.box, other.box) > MAX_OVERLAP * min(area(one.box), area(other.box))
            for other in kept
        ):
            kept.append(one)
    return kept


def _score(found: Detection) -> float:
    return 0.0 if found.score is None else found.score
