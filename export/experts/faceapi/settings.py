"""Settings of face-api.js's network, read without PyTorch: it has none of its own."""

from __future__ import annotations

from export.config.settings import COMMON_KEYS, AgeHead, Normalization
from runtime.geometry import Geometry
from runtime.json_reader import JsonReader

SIDE = 112
"""Side in pixels of the input (face-api.js, src/xception/TinyXception.ts)."""
NORMALIZATION = Normalization(1.0, (122.782, 117.001, 104.298), (255.0, 255.0, 255.0), "RGB")
"""(pixel - mean) / 255, in RGB (face-api.js, src/xception/TinyXception.ts)."""
HEAD = AgeHead("regression")
"""The network's output is the age in years (face-api.js, src/ageGenderNet/AgeGenderNet.ts)."""
PAD_SQUARE = Geometry(fit="pad_square", interpolation="opencv_area")
"""face-api.js pads a crop with black to a square and resizes it; averaging over areas is ours,
where a browser's canvas filters as it likes."""


def read_faceapi(entry: JsonReader) -> None:
    """Reads the table of face-api.js's network: nothing but the keys that every expert has."""
    entry.only(COMMON_KEYS)
