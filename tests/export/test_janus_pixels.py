"""Resizing and padding of Janus's images, exact to the pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from export.experts.janus.files import ImageRecipe
from runtime.geometry import Geometry, Resize, fit

SIZES = [
    *((384, 384), (1, 1), (1, 500), (500, 1), (383, 385), (385, 383), (14, 384), (2000, 30)),
    *((640, 480), (481, 641), (224, 224), (97, 103), (768, 767), (1024, 333), (250, 251)),
    *((31, 17), (384, 385), (400, 390), (129, 128), (112, 92)),
]


def _image(height: int, width: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(height * 5000 + width)
    rows, columns = np.mgrid[:height, :width]
    smooth = 127 + 90 * np.sin(rows / 9.0) * np.cos(columns / 13.0)
    noisy = smooth[..., None] + generator.normal(0, 60, (height, width, 3))
    image: NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return image


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pad_square_equals_that_of_transformers(height: int, width: int) -> None:
    image = _image(height, width)
    mean = [0.48, 0.5, 0.41]
    processor = JanusImageProcessorPil(image_mean=mean, do_rescale=False, do_normalize=False)
    (expected,) = processor(Image.fromarray(image))["pixel_values"]
    geometry = Geometry(0.0, "pad_square", "pillow_bicubic", (122, 127, 104))
    found = fit(image, 384, 384, geometry)
    assert found.shape == (384, 384, 3)
    np.testing.assert_array_equal(found, np.asarray(expected).transpose(1, 2, 0))


def _authors_square(image: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """The documented steps of the authors' processor, on torchvision."""
    longest = max(image.width, image.height)
    size = [max(int(side / longest * 384), 14) for side in (image.height, image.width)]
    scaled = resize(image, size, interpolation=InterpolationMode.BICUBIC, antialias=True)
    square = Image.new("RGB", (384, 384), color)
    square.paste(scaled, ((384 - scaled.width) // 2, (384 - scaled.height) // 2))
    return square


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("lanczos", [False, True])
def test_the_authors_recipe_equals_torchvisions(height: int, width: int, *, lanczos: bool) -> None:
    picture = Image.fromarray(_image(height, width))
    color = (122, 127, 104)
    geometry = ImageRecipe(384, color, "truncate").geometry
    if lanczos:
        geometry = replace(geometry, before=(Resize(256, 256, "pillow_lanczos"),))
    found = fit(np.asarray(picture), 384, 384, geometry)
    if lanczos:
        picture = picture.resize((256, 256), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(found, np.asarray(_authors_square(picture, color)))


def test_the_two_recipes_differ_for_about_half_of_all_sizes() -> None:
    image = _image(40, 384)
    rounded, cut = ImageRecipe(384, (9, 9, 9)), ImageRecipe(384, (9, 9, 9), "truncate")
    crops = [image[:, :width] for width in range(41, 384, 7)]
    same = [
        bool((fit(c, 384, 384, rounded.geometry) == fit(c, 384, 384, cut.geometry)).all())
        for c in crops
    ]
    assert 0.3 < np.mean(same) < 0.7
