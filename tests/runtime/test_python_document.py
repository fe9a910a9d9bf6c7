"""The examples of docs/python.md run as they stand, and do what the document says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime import AgeEstimate, DeadlineError, ImageError, PhotoFace
from tests.runtime.photo_samples import tiny_centerface
from tests.runtime.tiny_engines import Tiny, add_detector, write_engines

DOCUMENT = Path(__file__).parents[2] / "docs" / "python.md"
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.fixture
def folder(empty_folder: Path) -> Path:
    """A working directory with engines, their detector, a face and a photograph."""
    engines = write_engines(empty_folder / "engines", {"a": Tiny(), "b": Tiny(slope=50.0)})
    tiny_centerface(empty_folder / "colors.onnx")
    add_detector(engines, empty_folder / "colors.onnx")
    pixels = np.zeros((64, 64, 3), np.uint8)
    Image.fromarray(pixels + 90).save("face.png")
    pixels[24:32, 24:32] = 255, 128, 128  # a face for this detector
    Image.fromarray(pixels).save("photo.png")
    return empty_folder


def ran(text: str) -> dict[str, Any]:
    values: dict[str, Any] = {"__name__": "example"}
    exec(compile(text, DOCUMENT.name, "exec"), values)  # noqa: S102 - of this repository
    return values


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs(text: str) -> None:
    if "to_pandas" in text:
        pytest.importorskip("pandas")
    ran(text)


@pytest.mark.usefixtures("folder")
def test_the_pattern_for_asyncio() -> None:
    (text,) = [text for text in EXAMPLES if "asyncio" in text]
    estimate, missing, faces = ran(text)["results"]
    assert isinstance(estimate, AgeEstimate)
    assert isinstance(missing, ImageError)
    assert faces
    assert all(isinstance(face, PhotoFace) for face in faces)
    late = text.replace("Deadline.after(2000)", "Deadline.after(0.0)")
    first, second, _ = ran(late)["results"]
    assert isinstance(first, DeadlineError)
    assert isinstance(second, DeadlineError)
