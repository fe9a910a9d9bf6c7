"""The examples of docs/python.md run as they stand, and do what the document says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime import AgeEstimate, AgeMoE, DeadlineError, ImageError, PhotoFace
from tests.runtime.fakes import FakeSession, Hold, factory
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


def test_a_cancelled_task_leaves_the_queue_and_what_runs_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.agemoe.usable_cores", lambda: 1)  # two threads of `submit`
    write_engines(folder / "one", {"a": Tiny()})
    hold = Hold()
    session = FakeSession(hold)
    with AgeMoE("one", sessions=factory({"a": session}), device="cpu") as moe:
        hold.holding = True
        session.batches.clear()

        async def age() -> AgeEstimate:
            return await asyncio.wrap_future(moe.submit("face.png"))

        async def scene() -> list[AgeEstimate]:
            running = asyncio.create_task(age())
            assert await asyncio.to_thread(hold.reached.wait, 30.0)
            kept, waiting, cancelled = [asyncio.create_task(age()) for _ in range(3)]
            await asyncio.sleep(0.0)  # they are submitted
            for task in (running, cancelled):
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            hold.released.set()
            return [await kept, await waiting]

        assert len(asyncio.run(scene())) == 2
    assert session.batches == [1, 1, 1]
