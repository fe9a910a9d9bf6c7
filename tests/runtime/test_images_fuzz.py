"""Damaged files yield a picture or an `InputError`, and nothing else."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.errors import InputError
from runtime.images import ImageLimits, load_rgb

LIMITS = ImageLimits(max_pixels=1_000_000)


def _files() -> list[bytes]:
    rng = np.random.default_rng(3)
    color = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    flavours: list[tuple[Image.Image, str, dict[str, object]]] = [
        (color, "JPEG", {"exif": exif}),
        (color, "JPEG", {"progressive": True}),
        (color.convert("CMYK"), "JPEG", {}),
        (color.convert("RGBA"), "PNG", {"exif": exif}),
        (color.convert("P"), "PNG", {"transparency": 3}),
        (color, "WEBP", {"exif": exif}),
        (color.convert("RGBA"), "WEBP", {"lossless": True}),
    ]
    return [_encoded(*flavour) for flavour in flavours]


def _encoded(image: Image.Image, format_: str, options: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


FILES = _files()
position = st.floats(0.0, 1.0, exclude_max=True)
edit = st.tuples(position, st.sampled_from(["set", "cut", "repeat", "end"]), st.binary(max_size=8))


def damaged(data: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    for share, kind, junk in edits:
        place = int(share * len(data))
        rest = {
            "set": junk + data[place + len(junk) :],
            "cut": data[place + 1 + len(junk) :],
            "repeat": data[max(place - 40, 0) :],
            "end": b"",
        }
        data = data[:place] + rest[kind]
    return data


@settings(max_examples=400)
@given(st.sampled_from(FILES), st.lists(edit, min_size=1, max_size=6))
@pytest.mark.parametrize("strict", [False, True], ids=["warnings pass", "warnings raise"])
def test_damage(strict: bool, data: bytes, edits: list[tuple[float, str, bytes]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        try:
            pixels = load_rgb(damaged(data, edits), LIMITS)
        except InputError:
            return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert 0 < pixels.shape[0] * pixels.shape[1] <= LIMITS.max_pixels


@given(st.binary(max_size=200), st.sampled_from([file[:12] for file in FILES]))
def test_noise_after_a_valid_start(noise: bytes, beginning: bytes) -> None:
    with pytest.raises(InputError):
        load_rgb(beginning + noise, LIMITS)
