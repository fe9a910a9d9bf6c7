"""Prepares faces as batches for the experts: decodes each picture once, crops once per geometry."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.backends import Views
from runtime.boxes import check_box, check_cover
from runtime.deadline import Deadline
from runtime.errors import InputError
from runtime.geometry import ALIGN, Pixels, align, black, crop, fit, shows_enough
from runtime.images import Decode, ImageLimits, load_here
from runtime.landmark_search import DetectorSource, LandmarkSearch
from runtime.manifest import Expert, InputSpec
from runtime.results import Box, Face, Landmarks
from runtime.stats import Statistics

if TYPE_CHECKING:
    from runtime.results import ImageSource


@dataclass(frozen=True, slots=True)
class PreparedFace:
    """The inputs of all experts for one face."""

    views: Mapping[InputSpec, Pixels]
    """By input: uint8 RGB (height, width, 3)."""
    visible: frozenset[InputSpec]
    """Inputs in which something is visible; the others are black."""
    notes: tuple[str, ...] = ()
    """What was replaced, as in `AgeEstimate`."""


class Preparer:
    """Prepares faces for a set of experts; experts with equal input specs share a view."""

    def __init__(
        self,
        experts: Mapping[str, Expert],
        limits: ImageLimits,
        statistics: Statistics,
        *,
        detector: DetectorSource | None = None,
        decoder: Decode | None = None,
    ) -> None:
        """Stores its parts.

        Args:
            experts: by name.
            limits: on pictures.
            statistics: where durations are recorded.
            detector: asked for the landmarks of faces without, if an expert aligns them; a function
                that returns the detector is called only then.
            decoder: of pictures; None decodes them in the caller's thread.
        """
        self._experts = experts
        self._search = LandmarkSearch(detector)
        self._specs = {spec for expert in experts.values() for spec in expert.inputs}
        self._aligned = [
            name
            for name, expert in experts.items()
            if any(spec.geometry.fit == ALIGN for spec in expert.inputs)
        ]
        """Experts that need landmarks."""
        self._limits = limits
        self._decode = decoder or load_here
        self._statistics = statistics

    def prepare(
        self, faces: Sequence[ImageSource | Face], deadline: Deadline | None = None
    ) -> list[PreparedFace | InputError]:
        """Decodes, crops and fits each face.

        A picture that several faces share, as the same object or the same path, is decoded once.
        Pictures are decoded one after the other, so that only one is in memory at a time.

        Returns:
            One entry per face; the error for a face that cannot be used.

        Raises:
            DeadlineError: the deadline passed, and the decoder heeds it.
        """
        prepared: dict[int, PreparedFace | InputError] = {}
        for by_index in _by_picture([_as_face(face) for face in faces]):
            with self._statistics.timed("decode"):
                image = self._decoded(list(by_index.values()), deadline)
            with self._statistics.timed("geometry"):
                prepared |= {index: self._prepared(image, face) for index, face in by_index.items()}
        return [prepared[index] for index in range(len(faces))]

    def stacked(self, faces: Sequence[PreparedFace]) -> Views:
        """Stacks faces into one batch."""
        with self._statistics.timed("stack"):
            return {spec: np.stack([face.views[spec] for face in faces]) for spec in self._specs}

    def unseen(self, face: PreparedFace) -> dict[str, str]:
        """Returns the experts for which nothing of a face is visible, with the reason."""
        return {
            name: f"needs the {' and '.join(spec.name for spec in expert.inputs)}, not visible here"
            for name, expert in self._experts.items()
            if face.visible.isdisjoint(expert.inputs)
        }

    def black_face(self) -> PreparedFace:
        """Returns a face of which nothing is visible."""
        return PreparedFace({s: black(s.height, s.width) for s in self._specs}, frozenset())

    def _decoded(self, faces: Sequence[Face], deadline: Deadline | None) -> Pixels | InputError:
        """Decodes the picture of some faces, and checks that they do not cover too much of it."""
        try:
            image = self._decode(faces[0].image, self._limits, deadline)
            boxes = [box for face in faces for box in _boxes(face).values()]
            height, width = image.shape[:2]
            check_cover(boxes, height, width, self._limits.max_pixels)
        except InputError as error:
            return error
        return image

    def _prepared(self, image: Pixels | InputError, face: Face) -> PreparedFace | InputError:
        if isinstance(image, InputError):
            return image
        try:
            return self._views(image, face)
        except InputError as error:
            return error

    def _views(self, image: Pixels, face: Face) -> PreparedFace:
        for box in (face.box, face.person_box):
            if box is not None:
                check_box(box, *image.shape[:2])
        boxes = _boxes(face)
        landmarks, note = self._landmarks(image, face, boxes)
        found = {spec: input_view(image, boxes, spec, landmarks) for spec in self._specs}
        seen = {spec: view for spec, view in found.items() if view is not None}
        unseen = {s: black(s.height, s.width) for s in self._specs - seen.keys()}
        return PreparedFace(seen | unseen, frozenset(seen), () if note is None else (note,))

    def _landmarks(
        self, image: Pixels, face: Face, boxes: Mapping[str, Box | None]
    ) -> tuple[Landmarks | None, str | None]:
        """Returns a face's landmarks, searched for if an expert needs them, and a note."""
        if face.landmarks is not None or not self._aligned or "face" not in boxes:
            return face.landmarks, None
        landmarks, note = self._search.landmarks(image, face.box)
        return landmarks, note and f"{', '.join(self._aligned)}: {note}"


def input_view(
    image: Pixels,
    boxes: Mapping[str, Box | None],
    spec: InputSpec,
    landmarks: Landmarks | None = None,
) -> Pixels | None:
    """Crops or aligns, and fits, a picture for an input.

    Args:
        image: uint8 RGB (H, W, 3).
        boxes: by input name; None means the whole picture. Inputs without an entry are missing.
        spec: of the input.
        landmarks: of the face, for an input that is aligned; without them, the average ones of the
            box are used.

    Returns:
        uint8 RGB (height, width, 3); None if the box is missing or too little is visible.

    Raises:
        BoxError: a box is invalid.
        LandmarkError: the landmarks are invalid.
    """
    aligned = spec.geometry.fit == ALIGN
    if spec.name not in boxes and not (aligned and landmarks is not None):
        return None
    if aligned:
        box = boxes.get(spec.name)
        return align(image, box, landmarks, spec.height, spec.width, spec.geometry)
    cut = crop(image, boxes[spec.name], spec.geometry, boxes.get("face"))
    if not shows_enough(cut, spec.geometry):
        return None
    return fit(cut, spec.height, spec.width, spec.geometry)


def _as_face(face: ImageSource | Face) -> Face:
    return face if isinstance(face, Face) else Face(face)


def _boxes(face: Face) -> dict[str, Box | None]:
    """Returns the boxes of a face by input name; None is the whole picture."""
    boxes: dict[str, Box | None] = {}
    if face.box is not None or face.person_box is None:
        boxes["face"] = face.box
    if face.person_box is not None:
        boxes["person"] = face.person_box
    return boxes


def _by_picture(faces: Sequence[Face]) -> Iterable[Mapping[int, Face]]:
    """Returns, for each distinct picture, the faces in it by their index in the sequence."""
    groups: dict[object, dict[int, Face]] = {}
    for index, face in enumerate(faces):
        source = face.image
        key = os.fspath(source) if isinstance(source, str | os.PathLike) else id(source)
        groups.setdefault(key, {})[index] = face
    return groups.values()
