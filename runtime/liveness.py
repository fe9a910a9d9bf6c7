"""Liveness: whether a face is that of a person before the camera, asked before the experts.

A photograph of a photograph, a screen or a mask is a *presentation attack* (ISO/IEC 30107-1). The
runtime ships no model that detects one: it calls yours. `runtime.liveness_model` runs one from an
ONNX file; anything else with the method `check` serves as well.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from runtime.errors import InputError, LivenessError
from runtime.geometry import Pixels
from runtime.results import Face

log = logging.getLogger("agemoe")


@dataclass(frozen=True, slots=True)
class Liveness:
    """What a check says of a face."""

    score: float
    """Higher is more likely live, on a scale of the check's own."""
    live: bool
    """Whether the face is accepted."""
    provenance: str
    """Everything that the score depends on: name, model fingerprint, settings."""


class LivenessCheck(Protocol):
    """A check of faces, safe to use from several threads."""

    def check(self, image: Pixels, face: Face) -> Liveness:
        """Checks one face.

        Args:
            image: uint8 RGB (H, W, 3), upright.
            face: its box and landmarks in this picture, as far as they are known.
        """


def require_live(check: LivenessCheck, image: Pixels, face: Face) -> Liveness:
    """Returns what a check says of a live face.

    A check that fails refuses the face: it never passes by an error.

    Raises:
        LivenessError: the face is not live, or the check failed.
        InputError: the box or the landmarks are invalid.
    """
    try:
        found = check.check(image, face)
        score, live = float(found.score), found.live
        known = isinstance(live, bool | np.bool_) and math.isfinite(score)
    except InputError:
        raise
    except Exception as error:
        log.exception("the liveness check failed")
        raise LivenessError(f"the check failed ({type(error).__name__})") from error
    if not known:
        raise LivenessError("the check gave no valid answer", score)
    if not live:  # the score would help to improve an attack, so the message does not tell it
        raise LivenessError("its score is too low", score)
    return found
