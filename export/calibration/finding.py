"""Finds the labeled face in a photograph.

Where the labels give the face's box, it is there. Otherwise the picture is the face as a whole
(`--whole`), or a detector looks for faces and the largest one is taken: in a portrait the others
are bystanders or false positives. With the box of a person and none of the face, only faces that
belong to this person count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from export.calibration.labels import LabeledFace
from export.errors import OptionsError
from runtime.detection import Detector, area, within
from runtime.detectors import detector_named
from runtime.errors import InputError
from runtime.geometry import Pixels
from runtime.images import ImageLimits, load_rgb
from runtime.photographs import FoundFace, faces_in, find_faces
from runtime.results import Face
from runtime.startup import WHOLE

NO_FACE = "no face was found"


def detector_of(name: str, engines: Path) -> Detector:
    """Returns the detector of a name; `auto` is that of the engines folder.

    Raises:
        OptionsError: the name is invalid.
        BackendError: the detector cannot be used.
        EngineError: the engines folder, or its detector, is invalid.
    """
    try:
        return detector_named(name, engines)
    except ValueError as error:
        raise OptionsError([str(error)]) from error


@dataclass(frozen=True, slots=True)
class Finder:
    """Finds labeled faces; safe to use from several threads."""

    detector: Detector | None
    """None: each picture is one face, unless its box is given."""
    limits: ImageLimits = field(default_factory=ImageLimits)

    @property
    def provenance(self) -> str:
        """The detector and its settings."""
        return WHOLE if self.detector is None else self.detector.provenance

    def face(self, labeled: LabeledFace) -> Face | str:
        """Returns a labeled face as `AgeMoE.predict` takes it, or the reason why there is none."""
        place, path = labeled.place, labeled.path
        searched = self.detector is not None and place.box is None
        if not searched and place.turn == 0:
            return Face(path, place.box, place.person_box, place.landmarks)
        try:
            image = load_rgb(path, self.limits)
            found = self._found(image, labeled) if searched else _given(image, labeled)
        except InputError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - one picture must not end the job
            return f"the detector failed ({type(error).__name__}: {error})"
        return NO_FACE if found is None else faces_in(image, [found])[0]

    def _found(self, image: Pixels, labeled: LabeledFace) -> FoundFace | None:
        height, width = image.shape[:2]
        person = labeled.place.person_box
        persons = () if person is None else (person,)
        found = find_faces(image, self.detector, persons)
        candidates = [face for face in found if person is None or face.person_box == person]
        # Of equally large ones, the leftmost: `find_faces` sorts them.
        return max(candidates, key=lambda f: area(within(f.box, width, height)), default=None)


def _given(image: Pixels, labeled: LabeledFace) -> FoundFace:
    """Returns the given position of a face that is not upright."""
    height, width = image.shape[:2]
    place = labeled.place
    box = place.box or (0.0, 0.0, float(width), float(height))
    return FoundFace(box, place.person_box, None, place.turn, place.landmarks)
