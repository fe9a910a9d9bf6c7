"""Types of calls as users write them: mypy checks them with the project, the tests run them.

`assert_type` compares exactly, so a wrong overload fails `make lint`; pyright agrees.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, assert_type

import numpy as np
import pytest
from PIL import Image

from runtime import (
    AgeEstimate,
    AgeMoE,
    AgeMoEError,
    Decision,
    Detector,
    Face,
    GivenBoxes,
    PersonEstimate,
    PhotoFace,
    Policy,
    to_pandas,
)
from tests.runtime.photo_samples import tiny_centerface
from tests.runtime.tiny_engines import Tiny, add_detector, write_engines

if TYPE_CHECKING:
    from runtime.results import FaceLike, ImageSource

PICTURE = Image.new("RGB", (20, 20), (90, 90, 90))


@pytest.fixture
def moe(tmp_path: Path) -> Iterator[AgeMoE]:
    folder = write_engines(tmp_path / "engines", {"a": Tiny()})
    tiny_centerface(tmp_path / "colors.onnx")
    add_detector(folder, tmp_path / "colors.onnx")
    PICTURE.save(tmp_path / "face.png")
    with AgeMoE(folder, device="cpu") as opened:
        yield opened


def test_one_face_or_a_list(moe: AgeMoE, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    data, pixels, face = path.read_bytes(), np.asarray(PICTURE), Face(path)
    assert_type(moe.predict(path), AgeEstimate)
    assert_type(moe.predict(str(path)), AgeEstimate)
    assert_type(moe.predict(data), AgeEstimate)
    assert_type(moe.predict(pixels), AgeEstimate)
    assert_type(moe.predict(face, deadline_ms=60_000.0), AgeEstimate)
    assert_type(moe.submit(path), Future[AgeEstimate])
    mixed = moe.predict([str(path), path, data, pixels, PICTURE, BytesIO(data), face, b"none"])
    assert_type(mixed, list[AgeEstimate | AgeMoEError])
    assert [isinstance(result, AgeEstimate) for result in mixed] == [True] * 7 + [False]
    paths: list[Path] = [path]
    declared: list[FaceLike] = [path, data]
    two: list[Path | Face] = [path, face]
    tupled = (path, data, face)
    assert_type(moe.predict(paths), list[AgeEstimate | AgeMoEError])
    assert_type(moe.predict(declared), list[AgeEstimate | AgeMoEError])
    assert_type(moe.predict(two), list[AgeEstimate | AgeMoEError])
    assert_type(moe.predict(tupled), list[AgeEstimate | AgeMoEError])
    assert_type(moe.predict([p for p in [path]]), list[AgeEstimate | AgeMoEError])  # noqa: C416
    assert moe.predict([]) == []


def test_results_are_told_apart(moe: AgeMoE, tmp_path: Path) -> None:
    policy = Policy(threshold=18.0, challenge=25.0, uncalibrated=True)
    for result in moe.predict([tmp_path / "face.png", b"none"]):
        assert_type(policy.decide(result), Decision)
        if isinstance(result, AgeMoEError):
            assert_type(result, AgeMoEError)
        else:
            assert_type(result.age_years, float)
            assert_type(result.low_years, float | None)


def test_photographs_and_persons(moe: AgeMoE, tmp_path: Path) -> None:
    path = tmp_path / "face.png"
    own: Detector = GivenBoxes([(0.0, 0.0, 9.0, 9.0)])
    model = f"centerface:{tmp_path / 'colors.onnx'}"
    for detector in (None, "centerface", "auto", model, own):
        assert_type(moe.predict_photo(path, detector=detector), list[PhotoFace])
    photographs: list[ImageSource] = [path, PICTURE]
    people = [moe.predict_photo(picture, detector=own) for picture in photographs]
    assert_type(people, list[list[PhotoFace]])
    assert people[0][0].error is None
    person = moe.predict_person([path, PICTURE, Face(path)])
    assert_type(person, PersonEstimate)
    if TYPE_CHECKING:  # pandas is optional
        to_pandas([*people, person, *moe.predict([path])])
        to_pandas(people)
        to_pandas(people[0], ["face.png"])
        to_pandas(moe.predict([path]), [path])


def test_a_detector_of_no_known_name_is_an_error(moe: AgeMoE, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"A detector is auto, centerface.* got 'centreface'"):
        moe.predict_photo(tmp_path / "face.png", detector="centreface")
