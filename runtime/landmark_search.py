"""Faces that come without a detection: asks the detector within the box."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from runtime.box_edges import box_edges
from runtime.detection import (
    FACE,
    MAX_OVERLAP,
    AnyWayUp,
    Detection,
    Detector,
    area,
    enlarged,
    finds_landmarks,
    moved_landmarks,
    overlap,
    shared_area,
)
from runtime.geometry import Pixels
from runtime.resizing import Scale, reduced, sampled
from runtime.results import Box, Landmarks

SEARCH_MARGIN = 0.5
"""Of the box, on each side, within which the detector is asked; a share of its width or height."""

SEARCH_SIDE = 192
"""Longest side, in pixels, to which this region, or a whole picture, is reduced: a face fills it,
and a stranger may give 64 of them in which there is no face. Of 449 faces of three sources, all
were found in it, in their box and in the whole picture."""

SEARCH_READ = 3 * SEARCH_SIDE
"""Pixels, at most twice as many, that are read of a region's longest side, evenly spaced: to read
all of 64 large regions would take longer than to search them."""

SEARCH_TURNED_SIDE = 112
"""Longest side of its turned views, in pixels; a face is still half as wide, enough to tell which
way is up."""

NO_LANDMARKS = "aligned by the average landmarks of a face, because "
"""Beginning of the note of a face for which none were given or found."""

MIN_BOX_OVERLAP = 0.5
"""Intersection over union of a given box and the found face's from which on the box is the face's.
Looser or shifted boxes change the age: with the whole picture as box, half of the people of 10 to
17 were estimated 25 or older."""

OTHER_BOX = "the given box is not that of the face which the detector finds in it"
"""The note of a face whose box overlaps the found one less."""

DetectorSource = Detector | Callable[[], Detector]
"""A detector, or a function that returns one and is called when it is needed."""


@dataclass(frozen=True, slots=True)
class Sought:
    """What the detector says of a face."""

    face: Detection | None = None
    """In pixels of the whole picture; None if none was found."""
    reason: str = ""
    """Why there are no landmarks; empty if there are."""
    face_found: bool | None = None
    """Whether a face is there; None if no detector was asked that could tell."""

    @property
    def landmarks(self) -> Landmarks | None:
        """The face's landmarks, if there are any."""
        return None if self.face is None else self.face.landmarks

    def notes_on(self, box: Box | None) -> tuple[str, ...]:
        """Returns the note of a given box that is not about the found face's."""
        if box is None or self.face is None or overlap(box, self.face.box) >= MIN_BOX_OVERLAP:
            return ()
        return (OTHER_BOX,)


NOT_SOUGHT = Sought()
_NO_DETECTOR = Sought(reason="none were given and there is no detector")
_FINDS_NONE = "none were given and the detector finds none"


class LandmarkSearch:
    """Finds faces, and their landmarks, in their boxes. Safe to use from several threads."""

    def __init__(self, detector: DetectorSource | None) -> None:
        """Stores the detector; None: there is none to ask."""
        self._detector = detector

    def find(self, image: Pixels, box: Box | None) -> Sought:
        """Returns the detection of a face, or the reason why there is none.

        The detector is asked in the box with a margin, and the detection that overlaps the box most
        is taken; in a whole picture, the largest. Only a detector that finds landmarks is asked:
        others miss too many faces to say that there is none.

        Args:
            image: uint8 RGB (H, W, 3).
            box: of the face; None means that the whole picture is the face.

        Raises:
            BoxError: the box is invalid.
        """
        height, width = image.shape[:2]
        edges = (0, 0, width, height) if box is None else box_edges(box, image)
        try:
            return self._found(image, edges)
        except Exception as error:  # noqa: BLE001 - a failing detector must not cost the age
            return Sought(reason=f"the detector failed ({type(error).__name__}: {error})")

    def _found(self, image: Pixels, edges: tuple[int, int, int, int]) -> Sought:
        """Asks the detector within the edges of a box."""
        if self._detector is None:
            return _NO_DETECTOR
        detector = self._detector() if callable(self._detector) else self._detector
        if not finds_landmarks(detector):
            return Sought(reason=_FINDS_NONE)
        left, top, right, bottom = edges
        x, y = max(left - _margin(left, right), 0), max(top - _margin(top, bottom), 0)
        region = image[y : bottom + _margin(top, bottom), x : right + _margin(left, right)]
        box = (float(left - x), float(top - y), float(right - left), float(bottom - top))
        small, scale = _reduced(region)
        found = [enlarged(face, scale) for face in _quick(detector).detect(small)]
        best = _best((face for face in found if face.kind == FACE), box)
        if best is None:
            return Sought(reason="the detector finds no face there", face_found=False)
        return Sought(_moved(best, x, y), "" if best.landmarks else _FINDS_NONE, face_found=True)


def _quick(detector: Detector) -> Detector:
    """Returns a detector that looks for the way up in small views."""
    if isinstance(detector, AnyWayUp):
        return replace(detector, turned_side=SEARCH_TURNED_SIDE)
    return detector


def _reduced(region: Pixels) -> tuple[Pixels, Scale]:
    """Returns a region as the detector gets it, and the factors back to its pixels."""
    step = max(max(region.shape[:2]) // SEARCH_READ, 1)
    if step > 1:
        region = sampled(region[step // 2 :, step // 2 :], step, step)  # of each block, its middle
    small, (across, down) = reduced(region, SEARCH_SIDE)
    return small, (across * step, down * step)


def _moved(face: Detection, x: int, y: int) -> Detection:
    """Returns a detection in a region as one in the picture."""
    points = face.landmarks and moved_landmarks(face.landmarks, lambda a, b: (x + a, y + b))
    return replace(face, box=(face.box[0] + x, face.box[1] + y, *face.box[2:]), landmarks=points)


def _margin(low: int, high: int) -> int:
    return round((high - low) * SEARCH_MARGIN)


def _best(faces: Iterable[Detection], box: Box) -> Detection | None:
    """Returns the detection with the largest intersection over union; None if none is this face."""
    same = [
        face
        for face in faces
        if shared_area(face.box, box) > MAX_OVERLAP * min(area(face.box), area(box)) > 0.0
    ]
    return max(same, key=lambda face: overlap(face.box, box), default=None)
