"""Verification faces, on which every built file is compared: photographs, drawn faces, noise."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.config.contract import Images
from runtime.geometry import Pixels, black
from runtime.images import ImageLimits, load_rgb
from runtime.manifest import InputSpec
from runtime.preparation import input_view
from runtime.results import Box

Scene = tuple[Pixels, dict[str, Box | None]]
"""A picture and its boxes by input; without a box the input is invisible, None is the whole."""

REVISION = 1
"""Bumped whenever these faces change."""
PHOTOGRAPH_BOXES: dict[str, tuple[Box, Box]] = {
    "astronaut": ((160, 60, 130, 160), (20, 10, 440, 500)),
    "grace_hopper": ((165, 90, 180, 230), (20, 20, 480, 580)),
}
"""Face and person boxes in two public-domain photographs that installed packages contain
(scikit-image: Eileen Collins, NASA; Matplotlib: Grace Hopper, US Navy)."""
_PHOTOGRAPH_FILES = {
    "astronaut": ("scikit-image", "skimage", "data/astronaut.png"),
    "grace_hopper": ("matplotlib", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}
"""Package, its module, and path within it. Only the file is read: scikit-image imports SciPy."""
_DRAWN_AGES = (2.0, 9.0, 17.0, 24.0, 38.0, 52.0, 67.0, 84.0)
_NOISE_IMAGES = 4
BATCHES = (1, 3, 7, 9)
"""Batch sizes in which the faces are run: 1 and odd sizes."""
PROBES = (0, 10, -1)
"""Indices of a photograph, a drawn face and noise, used where all faces would take too long."""


def verification_images(inputs: Sequence[InputSpec], *, few: bool = False) -> Images:
    """Returns the verification faces as an expert's inputs.

    Photographs whose package is not installed are left out; see `missing_photographs`. `few`
    selects only the `PROBES`, for an expert that needs seconds per face.

    Returns:
        By input name: uint8 (N, height, width, 3), where N is the sum of `BATCHES`, or 3.
    """
    return as_inputs(_chosen(few=few), inputs)


def shows_face(*, few: bool = False) -> NDArray[np.bool_]:
    """Returns, for each of the verification faces, whether a face is visible on it: bool (N,)."""
    return np.array([boxes.get("face") is not None for _, boxes in _chosen(few=few)])


def _chosen(*, few: bool) -> list[Scene]:
    scenes = list(_scenes())
    return [scenes[index] for index in PROBES] if few else scenes


def as_inputs(scenes: Sequence[Scene], inputs: Sequence[InputSpec]) -> Images:
    """Prepares scenes as the runtime does, by input name; black where nothing is visible."""
    return {spec.name: np.stack([_view(scene, spec) for scene in scenes]) for spec in inputs}


def in_batches(images: Images) -> Iterator[Images]:
    """Yields the faces in batches of sizes `BATCHES`; the last may be smaller."""
    start, count = 0, min(map(len, images.values()))
    for size in BATCHES:
        if start < count:
            yield {name: array[start : start + size] for name, array in images.items()}
        start += size


def _scenes() -> Iterator[Scene]:
    from export.faces.drawn import draw_person

    for name in photographs():
        picture, (face, person) = photograph(name), PHOTOGRAPH_BOXES[name]
        height, width = picture.shape[:2]
        yield picture, {"face": face, "person": person}
        yield picture // 2, {"face": face}
        yield picture, {"face": (0, 0, width, height), "person": person}
        yield np.ascontiguousarray(picture[:, ::-1]), {"person": mirrored(person, width)}
    for seed, age in enumerate(_DRAWN_AGES):
        scene = draw_person(age, seed=1000 + seed, width=256, height=512)
        yield scene.image, {"face": scene.face_box, "person": scene.person_box}
    rng = np.random.default_rng(0)
    for _ in range(_NOISE_IMAGES):
        noise = rng.integers(0, 256, (256, 256, 3), np.uint8)
        yield noise, {"face": None, "person": None}


def photographs() -> tuple[str, ...]:
    """Returns the keys of `PHOTOGRAPH_BOXES` whose photographs are installed."""
    return tuple(name for name in PHOTOGRAPH_BOXES if _photograph_path(name) is not None)


def missing_photographs() -> tuple[str, ...]:
    """Returns the packages whose photographs are not installed."""
    found = photographs()
    return tuple(package for name, (package, *_) in _PHOTOGRAPH_FILES.items() if name not in found)


def photograph(name: str) -> Pixels:
    """Returns the photograph of a key of `PHOTOGRAPH_BOXES`: uint8 (H, W, 3), RGB.

    Raises:
        FileNotFoundError: it is not installed.
    """
    path = _photograph_path(name)
    if path is None:
        raise FileNotFoundError(f"{_PHOTOGRAPH_FILES[name][0]} is not installed.")
    return load_rgb(path, ImageLimits())


def _photograph_path(name: str) -> Path | None:
    _, module, within = _PHOTOGRAPH_FILES[name]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # the module is blocked
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / within).is_file():
            return path
    return None


def mirrored(box: Box, width: int) -> Box:
    """Returns a box as it lies in the mirror image of a picture `width` pixels wide."""
    return width - box[0] - box[2], box[1], box[2], box[3]


def _view(scene: Scene, spec: InputSpec) -> Pixels:
    view = input_view(*scene, spec)
    return black(spec.height, spec.width) if view is None else view
