"""Quality of a face in a picture, as plain data, and limits on it.

The quantities are those of ISO/IEC 29794-5 for which five landmarks and a box suffice, in their own
units. The standard's mapping to scores is not reproduced: its thresholds do not apply here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from runtime.printing import Readable

SHARES = frozenset({"underexposed", "overexposed", "cut_off"})
"""Quantities within 0..1."""


@dataclass(frozen=True, slots=True, repr=False)
class FaceQuality(Readable):
    """Quality of one face. Module `runtime.face_measures` measures it."""

    face_pixels: float
    """Shorter side of the face's box, in pixels of the upright picture."""
    inter_eye_pixels: float | None
    """Distance between the eyes in the picture, not corrected for yaw; None without landmarks."""
    sharpness: float
    """Variance of the Laplacian of the luminance, 0..255, on a sample of fixed size."""
    luminance: float
    """Mean, 0..255."""
    contrast: float
    """Standard deviation of the luminance."""
    underexposed: float
    """Share of dark pixels, 0..1."""
    overexposed: float
    """Share of bright pixels, 0..1."""
    yaw_degrees: float | None
    """Head turned to the picture's right (above 0) or left; None without landmarks."""
    roll_degrees: float | None
    """Head tilted clockwise in the picture (above 0), -180..180; None without landmarks."""
    cut_off: float
    """Share of the face's box outside the picture, 0..1."""
    score: float | None = None
    """Confidence of the detector, on a scale of its own; None if it found no face or has none."""
    face_found: bool | None = None
    """Whether a detector finds a face there; None if none was asked that could tell."""

    def __str__(self) -> str:
        """Returns what is known of the face in one line: size, sharpness, light, turn."""
        known = {
            "": f"{self.face_pixels:.0f} pixels",
            "eyes ": _shown(self.inter_eye_pixels, ".0f", " pixels apart"),
            "sharpness ": f"{self.sharpness:.3g}",
            "luminance ": f"{self.luminance:.0f}",
            "contrast ": f"{self.contrast:.0f}",
            "yaw ": _shown(self.yaw_degrees, ".0f", "°"),
            "roll ": _shown(self.roll_degrees, ".0f", "°"),
            "cut off ": _shown(self.cut_off or None, ".0%"),
            "score ": _shown(self.score, ".2f"),
        }
        parts = [f"{name}{value}" for name, value in known.items() if value]
        return ", ".join([*parts, *(["no face found"] if self.face_found is False else [])])

    def to_dict(self) -> dict[str, Any]:
        """Returns numbers, booleans and None by name, ready for JSON."""
        return asdict(self)


def _shown(value: float | None, form: str, unit: str = "") -> str:
    """Formats a value that may be unknown; nothing if it is."""
    return "" if value is None else f"{value:{form}}{unit}"


QUANTITIES = tuple(field.name for field in fields(FaceQuality) if field.name != "face_found")
"""Names of the numbers of a `FaceQuality`."""


class Limited(NamedTuple):
    """What a limit of `QualityLimits` is compared with, and how that is named."""

    quantity: str
    text: str
    unit: str = ""


LIMITED = {
    "min_face_pixels": Limited("face_pixels", "face size", " pixels"),
    "min_inter_eye_pixels": Limited("inter_eye_pixels", "distance between the eyes", " pixels"),
    "min_sharpness": Limited("sharpness", "sharpness"),
    "min_contrast": Limited("contrast", "contrast"),
    "min_score": Limited("score", "detector's score"),
    "max_underexposed": Limited("underexposed", "share of underexposed pixels"),
    "max_overexposed": Limited("overexposed", "share of overexposed pixels"),
    "max_yaw_degrees": Limited("yaw_degrees", "yaw", "°"),
    "max_roll_degrees": Limited("roll_degrees", "roll", "°"),
    "max_cut_off": Limited("cut_off", "share outside the picture"),
}
"""By limit."""


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """Limits that a face has to meet before the experts run; each is optional.

    By default only what certainly has no age is refused: a place where the detector finds no face.
    Which other limits pay depends on the pictures: `agemoe evaluate` reports the error by quality.
    A quantity that is limited but unknown is refused too.
    """

    require_face: bool = True
    """Refuse where a detector was asked and finds no face."""
    min_face_pixels: float | None = None
    """Least `FaceQuality.face_pixels`."""
    min_inter_eye_pixels: float | None = None
    """Least `FaceQuality.inter_eye_pixels`."""
    min_sharpness: float | None = None
    """Least `FaceQuality.sharpness`."""
    min_contrast: float | None = None
    """Least `FaceQuality.contrast`."""
    min_score: float | None = None
    """Least `FaceQuality.score`."""
    max_underexposed: float | None = None
    """Largest `FaceQuality.underexposed`."""
    max_overexposed: float | None = None
    """Largest `FaceQuality.overexposed`."""
    max_yaw_degrees: float | None = None
    """Largest `FaceQuality.yaw_degrees`, to either side."""
    max_roll_degrees: float | None = None
    """Largest `FaceQuality.roll_degrees`, to either side."""
    max_cut_off: float | None = None
    """Largest `FaceQuality.cut_off`."""

    def __post_init__(self) -> None:
        """Validates that every limit is finite and not negative, and that shares are at most 1."""
        wrong = [
            f"{name}={value}"
            for name, value in self._given().items()
            if not math.isfinite(value)
            or value < 0.0
            or (LIMITED[name].quantity in SHARES and value > 1.0)
        ]
        if wrong:
            raise ValueError(
                f"Quality limits are finite, 0 or more, and shares at most 1; these are not: "
                f"{', '.join(wrong)}."
            )

    @property
    def needs_landmarks(self) -> bool:
        """Whether a limited quantity is known only where landmarks are."""
        needed = {"inter_eye_pixels", "yaw_degrees", "roll_degrees"}
        return any(LIMITED[name].quantity in needed for name in self._given())

    def problems(self, quality: FaceQuality | None) -> tuple[str, ...]:
        """Returns what is wrong with a face, one sentence each; empty if it is accepted.

        Args:
            quality: of the face; None if no face is visible, only a person.
        """
        if quality is None:
            unknown = "no face is visible, so that its quality is unknown"
            return (unknown,) if self._given() else ()
        found = [_NO_FACE] if self.require_face and quality.face_found is False else []
        for name, limit in self._given().items():
            if (problem := _problem(name, limit, quality)) is not None:
                found.append(problem)
        return tuple(found)

    def _given(self) -> dict[str, float]:
        values = {name: getattr(self, name) for name in LIMITED}
        return {name: value for name, value in values.items() if value is not None}


_NO_FACE = "the detector finds no face there; a crop needs the whole face, from chin to forehead"


def _problem(name: str, limit: float, quality: FaceQuality) -> str | None:
    """Returns how a quality misses a limit, or None."""
    quantity, text, unit = LIMITED[name]
    value = getattr(quality, quantity)
    least = name.startswith("min_")
    if value is None:
        kind = "at least" if least else "at most"
        return f"the {text} is unknown, and {kind} {limit:g}{unit} is required"
    if least:
        short = f"the {text} is {value:.3g}{unit}, less than the required {limit:g}{unit}"
        return short if value < limit else None
    over = f"the {text} is {value:.3g}{unit}, more than the permitted {limit:g}{unit}"
    return over if abs(value) > limit else None
