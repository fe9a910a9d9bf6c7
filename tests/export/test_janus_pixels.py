"""Resizing and padding of Janus's images, exact to the pixel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from runtime.geometry import Geometry, fit

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
