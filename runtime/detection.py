"""Where the faces are: what a detector is, and what all of them share.

A detector is anything with `detect` and `provenance`; `detectors` holds those that come with the
runtime. Boxes are x, y, width, height in pixels of the picture given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from runtime.geometry import Pixels
from runtime.results import Box

FACE, PERSON = "face", "person"
MOST_SHARED = 0.5
"""Of the smaller of two boxes that are still two faces: as much of it may lie in the larger."""


@dataclass(frozen=True, slots=True)
class Detection:
    """One face, or one person, that was found in a picture."""

    box: Box
    """In pixels of the picture as it was given to the detector; it may leave the picture."""
    score: float | None = None
    """How sure the detector is, on a scale of its own; None if it does not say."""
    turn: int = 0
    """Quarter turns counter-clockwise, 0..3, that set the face upright."""
    kind: str = FACE
    """`face`, or `person` for a whole body."""


class Detector(Protocol):
    """Finds faces. It has to be safe to use from several threads, and to repeat itself."""

    @property
    def provenance(self) -> str:
        """What decides on the answers: name, version, fingerprint of the model, settings."""
        ...

    def detect(self, image: Pixels) -> Sequence[Detection]:
        """Finds the faces, and maybe the persons, in a picture, uint8 RGB (H, W, 3)."""
        ...


@dataclass(frozen=True, slots=True)
class GivenBoxes:
    """The caller's own boxes in the place of a detector: for one picture."""

    faces: Sequence[Box]
    persons: Sequence[Box] = ()

    @property
    def provenance(self) -> str:
        """That nothing was detected."""
        return "boxes given by the caller"

    def detect(self, image: Pixels) -> list[Detection]:
        """The boxes, as they were given."""
        del image
        persons = [Detection(box, kind=PERSON) for box in self.persons]
        return [*(Detection(box) for box in self.faces), *persons]


@dataclass(frozen=True, slots=True)
class AnyWayUp:
    """Lets a detector that only knows upright faces see pictures that lie on a side.

    A picture in which a face is surely found as it is stays as it is. Otherwise its quarter turns
    are tried, and the one with the surest face is taken, if that one is sure. A picture in which
    nothing is sure stays as it is too: turned noise is no face.
    """

    detector: Detector
    sure: float
    """Score from which a face counts as surely found."""

    @property
    def provenance(self) -> str:
        """The detector's own, and that turns are tried."""
        return f"{self.detector.provenance}, in quarter turns unless sure of {self.sure:g}"

    def detect(self, image: Pixels) -> Sequence[Detection]:
        """Finds faces in the turn of the picture that shows them best."""
        upright = self.detector.detect(image)
        if _best_score(upright) >= self.sure:
            return upright
        turned = [self._in_turn(image, turn) for turn in (1, 2, 3)]
        best = max(turned, key=_best_score)
        return best if _best_score(best) >= self.sure else upright

    def _in_turn(self, image: Pixels, turn: int) -> list[Detection]:
        view = turned_image(image, turn)
        height, width = view.shape[:2]
        return [
            replace(found, box=turned_box(found.box, -turn, width, height), turn=turn)
            for found in self.detector.detect(view)
        ]


def turned_image(image: Pixels, turn: int) -> Pixels:
    """A picture after some quarter turns counter-clockwise; the picture itself after none."""
    return np.ascontiguousarray(np.rot90(image, turn)) if turn % 4 else image


def turned_box(box: Box, turn: int, width: float, height: float) -> Box:
    """Where a box lies after its picture was turned.

    Args:
        box: in pixels of the picture before.
        turn: quarter turns counter-clockwise; negative ones are clockwise.
        width: of the picture before, in pixels.
        height: of the picture before, in pixels.
    """
    x, y, w, h = box
    for _ in range(turn % 4):
        x, y, w, h = y, width - x - w, h, w
        width, height = height, width
    return x, y, w, h


def within(box: Box, width: float, height: float) -> Box:
    """The part of a box that lies in a picture of that size; of no area if none does."""
    left, top = (
        min(max(edge, 0.0), size) for edge, size in zip(box[:2], (width, height), strict=True)
    )
    right = min(max(box[0] + box[2], left), width)
    bottom = min(max(box[1] + box[3], top), height)
    return left, top, right - left, bottom - top


def area(box: Box) -> float:
    """Of a box, in square pixels."""
    return box[2] * box[3]


def shared_area(one: Box, other: Box) -> float:
    """Area that two boxes have in common, in square pixels."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(across, 0.0) * max(down, 0.0)


def without_duplicates(found: Sequence[Detection]) -> list[Detection]:
    """Leaves out every detection that lies mostly in, or around, a surer one.

    Two detections are one face if they share more than half of the smaller one: that takes in the
    small box within a face which cascades like to find, unlike a limit on the intersection over
    the union. Of equally sure ones the larger stays.

    Returns:
        The surest first; the order does not depend on that of `found`.
    """
    kept: list[Detection] = []
    for one in sorted(found, key=lambda d: (-_score(d), -area(d.box), d.box)):
        if not any(_same(one.box, other.box) for other in kept):
            kept.append(one)
    return kept


def _same(one: Box, other: Box) -> bool:
    return shared_area(one, other) > MOST_SHARED * min(area(one), area(other))


def _score(found: Detection) -> float:
    return 0.0 if found.score is None else found.score


def _best_score(found: Sequence[Detection]) -> float:
    return max(map(_score, found), default=0.0)
