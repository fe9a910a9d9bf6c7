"""Sizes of the detector's first pass: what is compared, and pictures of small faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import detector_sizes, pasted_faces
from benchmarks.detector_sizes import REFERENCE, Look, Size, errors, places
from benchmarks.photograph_sets import Photograph
from export.calibration.labels import LabeledFace
from runtime.detection import Detection
from runtime.geometry import Pixels
from runtime.results import Box
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.photo_samples import tiny_centerface

POINTS = ((0.0, 0.0), (10.0, 0.0), (5.0, 5.0), (2.0, 10.0), (8.0, 10.0))


def face(x: float, shift: float = 0.0) -> Detection:
    points = tuple((px + shift, py) for px, py in POINTS)
    return Detection((x, 0.0, 100.0, 100.0), 0.9, landmarks=points)  # type: ignore[arg-type]


def look(*found: Detection, years: float | None = None) -> Look:
    return Look(found, len(found) != 1, 0.002, None if years is None else {"a": years})


def test_faces_are_counted_against_the_reference() -> None:
    reference = look(face(0.0))
    shown = [look(face(20.0, 1.0)), look(face(900.0), face(0.0)), look(face(90.0)), look()]
    looks = [{192: one, REFERENCE: reference} for one in shown]
    assert places(looks, 192) == [
        *("192", "2", "1", "1", "1"),  # right, with another one, none, only a wrong one
        "50.0%",
        f"{np.mean([80 / 120, 1.0]):.3f}",
        f"{np.mean([0.1, 0.0]):.3f}",  # landmarks, in distances of the eyes
        "2.0",
    ]


def test_errors_are_compared_on_the_same_faces(tmp_path: Path) -> None:
    photographs = [
        Photograph("s", LabeledFace(tmp_path, str(k), 30.0, subject=str(k // 2))) for k in range(5)
    ]
    looks = [{160: look(years=33.0), 224: look(years=32.0)} for _ in range(4)]
    looks.append({160: look(years=90.0), 224: look()})  # the largest size found no face
    tables = {side: pivot_tables({"a": Row()}) for side in (160, 224)}
    (small, large) = errors(photographs, looks, tables, seed=0)
    assert small[:2] == ["160", "4"]
    assert float(small[2]) - float(large[2]) == pytest.approx(1.0)
    assert small[3] == "+1.00 (+1.00…+1.00)"


class Knows:
    """Finds what it was told."""

    provenance = "told"

    def __init__(self, boxes: Sequence[Box]) -> None:
        self.boxes = boxes

    def detect(self, image: Pixels) -> list[Detection]:
        del image
        return [Detection(box) for box in self.boxes]


@pytest.mark.parametrize("large", [False, True])
def test_pasted_faces_are_where_their_boxes_say(large: bool) -> None:
    photograph = np.zeros((300, 240, 3), np.uint8)
    photograph[100:200, 80:160] = 255, 0, 0
    cut = pasted_faces.cut(photograph, (80.0, 100.0, 80.0, 100.0))
    rng = np.random.default_rng(0)
    image, boxes = pasted_faces.crowd([cut], (40, 60), rng, large=large)
    assert image.shape == (960, 1280, 3)
    assert len(boxes) >= (1 if large else 12)
    for x, y, width, height in boxes:
        assert 40 <= height <= 60
        assert width == pytest.approx(0.8 * height)
        inside = image[round(y) + 3 : round(y + height) - 3, round(x) + 3 : round(x + width) - 3]
        assert (inside == (255, 0, 0)).all(-1).mean() > 0.95
        assert (image[round(y) - 4, round(x) : round(x + width)] < 20).all()
    assert pasted_faces.found_of(Knows(boxes[1:]), image, boxes) == len(boxes) - 1


def test_further_passes_are_counted(tmp_path: Path) -> None:
    size = Size(tiny_centerface(tmp_path / "colors.onnx"), (64, 128))
    assert size.look(np.zeros((128, 128, 3), np.uint8)).again
    assert not size.look(np.zeros((64, 64, 3), np.uint8)).again


def test_tables_need_a_file_and_a_size_that_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "001A20.png")
    given = ["--sources", f"a={tmp_path}", "--tables"]
    with pytest.raises(SystemExit):
        detector_sizes.main([*given, "missing.json"])
    assert "must be SIZE=FILE, got 'missing.json'" in capsys.readouterr().err
    assert detector_sizes.main([*given, f"96={__file__}"]) == 2
    assert "size 96 is not one of --sizes. Add it there." in capsys.readouterr().err
