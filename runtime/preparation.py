"""Prepares faces as batches for the experts: decodes each picture once, crops once per geometry."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from runtime.alignment import landmarks_from
from runtime.backends import Views
from runtime.box_edges import finite_box
from runtime.boxes import MAX_COVER, MAX_FACE_COVER, check_box, check_cover
from runtime.deadline import Deadline
from runtime.errors import BoxError, DeadlineError, InputError, LivenessError, QualityError
from runtime.estimates import Origin
from runtime.face_measures import measured
from runtime.geometry import ALIGN, Pixels, align, black, crop, crop_edges, fit, shows_enough
from runtime.images import Decode, ImageLimits, load_here
from runtime.landmark_search import (
    NO_LANDMARKS,
    NOT_SOUGHT,
    DetectorSource,
    LandmarkSearch,
    Sought,
)
from runtime.liveness import LivenessCheck, require_live
from runtime.manifest import Expert, InputSpec
from runtime.quality import FaceQuality, QualityLimits
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
    quality: FaceQuality | None = None
    """Of the face; None if none is visible."""

    def with_notes(self, more: tuple[str, ...]) -> PreparedFace:
        """Returns the same face with further notes."""
        return replace(self, notes=self.notes + more) if more else self

    @property
    def origin(self) -> Origin:
        """Its notes and quality."""
        return self.notes, self.quality


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
        quality: QualityLimits | None = None,
        liveness: LivenessCheck | None = None,
    ) -> None:
        """Stores its parts.

        Args:
            experts: by name.
            limits: on pictures.
            statistics: where durations are recorded.
            detector: asked for the landmarks of faces without, if an expert aligns them, and for
                faces that the limits on quality require; a function that returns the detector is
                called only then.
            decoder: of pictures; None decodes them in the caller's thread.
            quality: limits of faces; None accepts every face.
            liveness: checks every face that the limits apply to; None checks none.
        """
        self._quality, self._liveness = quality, liveness
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
        self,
        faces: Sequence[ImageSource | Face],
        deadline: Deadline | None = None,
        *,
        quality: bool = True,
    ) -> list[PreparedFace | InputError]:
        """Decodes, crops and fits each face; `quality` measures its quality without limits, too.

        A picture that several faces share, as the same object or the same path, is decoded once.
        Pictures are decoded one after the other, so that only one is in memory at a time.

        Returns:
            One entry per face; the error for a face that cannot be used.

        Raises:
            DeadlineError: the deadline passed; between two faces, or where the decoder heeds it.
        """
        prepared: dict[int, PreparedFace | InputError] = {}
        for by_index in _by_picture([_as_face(face) for face in faces]):
            with self._statistics.timed("decode"):
                image = self._decoded(list(by_index.values()), deadline)
            with self._statistics.timed("geometry"):
                for index, face in by_index.items():
                    if deadline is not None and deadline.passed:
                        raise DeadlineError(dict.fromkeys(self._experts, deadline.reason))
                    prepared[index] = self._prepared(image, face, measure=quality)
        return [prepared[index] for index in range(len(faces))]

    def checked(self, faces: Iterable[object]) -> list[PreparedFace | InputError]:
        """Returns what `prepare` has returned; raises TypeError, or ValueError for other inputs."""
        prepared: list[PreparedFace | InputError] = []
        for face in faces:
            if not isinstance(face, PreparedFace | InputError):
                raise TypeError(f"Expected what `prepare` returns, got {type(face).__name__}.")
            if isinstance(face, PreparedFace) and face.views.keys() != self._specs:
                raise ValueError("An AgeMoE with other inputs prepared this face. Prepare it here.")
            prepared.append(face)
        return prepared

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
            self._check_cover(image, faces)
        except InputError as error:
            return error
        return image

    def _check_cover(self, image: Pixels, faces: Sequence[Face]) -> None:
        """Checks what each input's crops of some faces together cover; a valid crop costs that."""
        height, width = image.shape[:2]
        boxes = [_boxes(face) for face in faces]
        for spec in self._specs:
            cut = [
                _cut(image, of_face[spec.name], spec) for of_face in boxes if spec.name in of_face
            ]
            most = MAX_COVER if spec.name == "person" else MAX_FACE_COVER
            check_cover(cut, height, width, self._limits.max_pixels, most=most)

    def _prepared(
        self, image: Pixels | InputError, face: Face, *, measure: bool
    ) -> PreparedFace | InputError:
        if isinstance(image, InputError):
            return image
        try:
            return self._views(image, face, measure=measure)
        except InputError as error:
            return error

    def _views(self, image: Pixels, face: Face, *, measure: bool) -> PreparedFace:
        if face.box is not None:  # an array, or no box at all, whatever its type says
            face = replace(face, box=finite_box(face.box))
        for box in (face.box, face.person_box):
            if box is not None:
                check_box(box, *image.shape[:2])
        boxes = _boxes(face)
        limits = self._quality if face.limited else None
        sought = self._sought(image, face, limits) if "face" in boxes else NOT_SOUGHT
        landmarks = sought.landmarks if face.landmarks is None else landmarks_from(face.landmarks)
        measure = "face" in boxes and (measure or limits is not None)
        quality = _quality(image, face, landmarks, sought) if measure else None
        if limits is not None and (problems := limits.problems(quality)):
            raise QualityError(problems)
        if self._liveness is not None and face.limited:
            if "face" not in boxes:
                raise LivenessError("no face is visible")
            require_live(self._liveness, image, _located(image, face, landmarks, sought))
        found = {spec: input_view(image, boxes, spec, landmarks) for spec in self._specs}
        seen = {spec: view for spec, view in found.items() if view is not None}
        unseen = {s: black(s.height, s.width) for s in self._specs - seen.keys()}
        notes = self._notes(sought) if "face" in boxes and landmarks is None else ()
        notes += sought.notes_on(face.box)
        return PreparedFace(seen | unseen, frozenset(seen), notes, quality)

    def _sought(self, image: Pixels, face: Face, limits: QualityLimits | None) -> Sought:
        """Asks the detector for a face, if its landmarks or a limit on quality need it."""
        aligned = bool(self._aligned) and face.landmarks is None
        if aligned or (limits is not None and _needs(limits, face)):
            return self._search.find(image, face.box)
        return NOT_SOUGHT

    def _notes(self, sought: Sought) -> tuple[str, ...]:
        """Returns what the experts that align have in place of a face's landmarks."""
        names = ", ".join(self._aligned)
        return (f"{names}: {NO_LANDMARKS}{sought.reason}",) if names else ()


def _cut(image: Pixels, box: Box | None, spec: InputSpec) -> Box | None:
    """Returns the crop of a box for an input; an invalid box as it is."""
    if box is None:
        return None
    try:
        left, top, right, bottom = crop_edges(image, box, spec.geometry)
    except BoxError:
        return box
    return left, top, right - left, bottom - top


def _needs(limits: QualityLimits, face: Face) -> bool:
    """Returns whether limits depend on a detector that has not found the face yet."""
    if limits.needs_landmarks and face.landmarks is None:
        return True
    return limits.require_face and face.score is None


def _located(image: Pixels, face: Face, landmarks: Landmarks | None, sought: Sought) -> Face:
    """Returns a face with its picture and all that is known of its place."""
    box = sought.face.box if face.box is None and sought.face is not None else face.box
    return replace(face, image=image, box=box, landmarks=landmarks)


def _quality(image: Pixels, face: Face, landmarks: Landmarks | None, sought: Sought) -> FaceQuality:
    found = sought.face
    if face.score is not None or found is None:
        box, score = face.box, face.score
    else:  # of a whole picture, the place of the face in it is measured
        box, score = face.box or found.box, found.score
    known = True if face.score is not None else sought.face_found
    return measured(image, box, landmarks, score=score, face_found=known)


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
        uint8 RGB (height, width, 3), no part of the picture's memory; None if the box is missing or
        too little is visible.

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
    view = fit(cut, spec.height, spec.width, spec.geometry)
    # Of a picture in the input's size it is the picture itself, which its owner may write to.
    return view.copy() if np.may_share_memory(view, image) else view


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
