"""What the benchmarks look at: drawn people as photographs of 640×480 pixels, encoded as JPEG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.faces.drawn import draw_person
from runtime import Face

WIDTH, HEIGHT = 640, 480
_QUALITY = 90
_DIFFERENT = 16
_GRAIN = 5.0
"""Standard deviation of a sensor's noise, of 255: without it files are a quarter of a photo's."""


def faces(count: int, paths: Sequence[Path] = ()) -> list[Face]:
    """Faces in pictures of their own, encoded, as they arrive at a service.

    Args:
        count: how many; there are 16 different drawn ones, which then repeat.
        paths: pictures to take instead; each is a face as a whole.
    """
    different = [Face(path.read_bytes()) for path in paths] or [
        drawn_face(seed) for seed in range(min(count, _DIFFERENT))
    ]
    return [different[index % len(different)] for index in range(count)]


def drawn_face(seed: int) -> Face:
    """A person of some age, with the boxes that a detector would give."""
    scene = draw_person(float(4 + 5 * seed % 80), seed=seed, width=WIDTH, height=HEIGHT)
    return Face(encoded(scene.image, seed), box=scene.face_box, person_box=scene.person_box)


def encoded(image: NDArray[np.uint8], seed: int) -> bytes:
    """A picture, uint8 RGB (H, W, 3), as a camera would have stored it: with grain, as JPEG."""
    grain = np.random.default_rng(seed).normal(0.0, _GRAIN, image.shape)
    file = io.BytesIO()
    grainy = np.clip(image + grain, 0.0, 255.0).astype(np.uint8)
    Image.fromarray(grainy).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
