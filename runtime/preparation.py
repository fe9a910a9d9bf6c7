"""From faces to the batches that the experts take: decode once, crop and fit once per geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import InputError
from runtime.geometry import Pixels, black, crop, fit
from runtime.images import ImageLimits, load_rgb
from runtime.manifest import Expert, InputSpec
from runtime.results import Box, Face

if TYPE_CHECKING:
    from runtime.results import ImageSource


@dataclass(frozen=True, slots=True)
class PreparedFace:
    """One face as the experts will see it."""

    views: Mapping[InputSpec, Pixels]
    """By input: uint8 RGB (height, width, 3)."""
    visible: frozenset[str]
    """Names of the inputs that show something; the others are black."""


class Preparer:
    """Brings faces into the form of a set of experts; inputs that are alike are made once."""

    def __init__(self, experts: Mapping[str, Expert], limits: ImageLimits) -> None:
        """Takes the experts by name, and the limits on pictures."""
        self._experts = experts
        self._specs = {spec for expert in experts.values() for spec in expert.inputs}
        self._limits = limits

    def prepare(self, faces: Sequence[ImageSource | Face]) -> list[PreparedFace | InputError]:
        """Decodes, crops and fits each face.

        A picture that several faces share, as the same object or the same path, is decoded once.

        Returns:
            One entry per face; the error where a face cannot be used.
        """
        decoded: dict[object, Pixels | InputError] = {}
        return [self._prepared(_as_face(face), decoded) for face in faces]

    def batches(self, faces: Sequence[PreparedFace]) -> dict[str, dict[str, Pixels]]:
        """Stacks faces: by expert and input name, uint8 (N, height, width, 3)."""
        stacked = {spec: np.stack([face.views[spec] for face in faces]) for spec in self._specs}
        return {
            name: {spec.name: stacked[spec] for spec in expert.inputs}
            for name, expert in self._experts.items()
        }

    def serves(self, name: str, face: PreparedFace) -> bool:
        """Whether an expert has anything to look at."""
        return any(spec.name in face.visible for spec in self._experts[name].inputs)

    def black_face(self) -> PreparedFace:
        """A face of which nothing is visible."""
        return PreparedFace({s: black(s.height, s.width) for s in self._specs}, frozenset())

    def _prepared(
        self, face: Face, decoded: dict[object, Pixels | InputError]
    ) -> PreparedFace | InputError:
        image = self._decoded(face.image, decoded)
        if isinstance(image, InputError):
            return image
        try:
            return self._views(image, face)
        except InputError as error:
            return error

    def _decoded(
        self, source: ImageSource, decoded: dict[object, Pixels | InputError]
    ) -> Pixels | InputError:
        key = source if isinstance(source, str) else id(source)
        if key not in decoded:
            try:
                decoded[key] = load_rgb(source, self._limits)
            except InputError as error:
                decoded[key] = error
        return decoded[key]

    def _views(self, image: Pixels, face: Face) -> PreparedFace:
        boxes: dict[str, Box | None] = {}
        if face.box is not None or face.person_box is None:
            boxes["face"] = face.box
        if face.person_box is not None:
            boxes["person"] = face.person_box
        views = {
            spec: fit(
                crop(image, boxes[spec.name], spec.geometry),
                spec.height,
                spec.width,
                spec.geometry,
            )
            if spec.name in boxes
            else black(spec.height, spec.width)
            for spec in self._specs
        }
        return PreparedFace(views, frozenset(boxes))


def _as_face(face: ImageSource | Face) -> Face:
    return face if isinstance(face, Face) else Face(face)
