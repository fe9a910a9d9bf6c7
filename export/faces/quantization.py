"""Faces on which the INT8 ranges are measured: drawn people, photographs, noise.

The people are drawn only for this purpose. The two photographs are those of the verification faces,
cropped and lit differently: no verification face is used, but the parity measured on the two
photographs concerns familiar pictures. Faces of the deployment's own kind give better ranges;
`as_inputs` prepares them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from export.config.contract import Images
from export.faces.verification import (
    PHOTOGRAPH_BOXES,
    Scene,
    as_inputs,
    mirrored,
    photograph,
    photographs,
)
from runtime.geometry import Pixels
from runtime.manifest import InputSpec
from runtime.results import Box

REVISION = 1
"""Bumped whenever these faces change."""
FACES = 32
_SEED = 50_000
"""Distinct from the seeds of verification faces (1000 onward) and fitting faces."""
_WIDTH, _HEIGHT = 256, 512
_CUTS = 6
"""Crops of each photograph."""
_SHIFT = 0.15
"""Largest displacement of a face's edges, as a share of its width and height."""
_NOISE = 2
_NO_PERSON, _NO_FACE = 6, 7
"""Indices, modulo 8, of the people without a person box and without a face box."""


def quantization_faces(inputs: Sequence[InputSpec], count: int = FACES) -> Images:
    """Returns `count` drawn people of all ages, photographs and noise in varied light.

    Returns:
        By input name: uint8 (count + 14, height, width, 3).
    """
    return as_inputs(list(_scenes(count)), inputs)


def _scenes(count: int) -> Iterator[Scene]:
    from export.faces.drawn import draw_person, sample_ages

    rng = np.random.default_rng(_SEED)
    for index, age in enumerate(sample_ages(count, seed=_SEED).tolist()):
        drawn = draw_person(age, seed=_SEED + index, width=_WIDTH, height=_HEIGHT)
        boxes: dict[str, Box | None] = {"face": drawn.face_box, "person": drawn.person_box}
        if index % 8 == _NO_PERSON:
            del boxes["person"]
        if index % 8 == _NO_FACE:
            del boxes["face"]
        yield _lit(drawn.image, rng), boxes
    yield from _photographs(rng)
    for _ in range(_NOISE):
        noise = rng.integers(0, 256, (_WIDTH, _WIDTH, 3), np.uint8)
        yield noise, {"face": None, "person": None}


def _photographs(rng: np.random.Generator) -> Iterator[Scene]:
    for name in photographs():
        image, (face, person) = photograph(name), PHOTOGRAPH_BOXES[name]
        width = image.shape[1]
        for cut in range(_CUTS):
            if cut % 2:
                shown = np.ascontiguousarray(image[:, ::-1])
                face_box, person_box = mirrored(face, width), mirrored(person, width)
            else:
                shown, face_box, person_box = image, face, person
            boxes: dict[str, Box | None] = {"face": _shifted(face_box, rng), "person": person_box}
            yield _lit(shown, rng), boxes


def _shifted(box: Box, rng: np.random.Generator) -> Box:
    x, y, width, height = box
    left, up, wider, higher = rng.uniform(-_SHIFT, _SHIFT, 4).tolist()
    return x + left * width, y + up * height, width * (1 + wider), height * (1 + higher)


def _lit(image: Pixels, rng: np.random.Generator) -> Pixels:
    gain, gamma = rng.uniform(0.6, 1.3), rng.uniform(0.8, 1.25)
    return (np.clip((image / 255.0) ** gamma * gain, 0.0, 1.0) * 255.0).astype(np.uint8)
