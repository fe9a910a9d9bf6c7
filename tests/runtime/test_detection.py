"""Detectors: their detections, determinism, provenance and model errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.detection import (
    AnyWayUp,
    Detection,
    GivenBoxes,
    area,
    overlap,
    shared_area,
    turned_box,
    turned_image,
    turned_landmarks,
    uprightness,
    within,
    without_duplicates,
)
from runtime.detectors import (
    HaarDetector,
    default_detector,
)
from runtime.geometry import Pixels
from runtime.opencv import CASCADE
from runtime.results import Box, Landmarks
from tests.runtime.photo_samples import (
    ASTRONAUT_FACE,
    GRACE_FACE,
    astronaut,
    grace,
)

BOXES = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 20)] * 2)


@pytest.mark.parametrize(
    ("image", "face"), [(astronaut(), ASTRONAUT_FACE), (grace(), GRACE_FACE)], ids=["nasa", "navy"]
)
@pytest.mark.haar
def test_the_default_detector_finds_the_face_of_a_portrait(image: Pixels, face: Box) -> None:
    (found,) = default_detector().detect(image)
    assert overlap(found.box, face) > 0.5
    assert found.turn == 0
    assert found.score is not None
    assert found.score >= 20


@pytest.mark.parametrize("turn", [1, 2, 3])
@pytest.mark.haar
def test_boxes_in_a_turned_picture_refer_to_the_original(turn: int) -> None:
    (found,) = default_detector().detect(turned_image(astronaut(), turn))
    assert (found.turn + turn) % 4 == 0
    assert overlap(found.box, turned_box(ASTRONAUT_FACE, turn, 512, 512)) > 0.5


@pytest.mark.parametrize(
    ("left", "top", "right", "bottom"),
    [(0, 95, 512, 512), (210, 0, 512, 512), (0, 0, 512, 142)],
    ids=["forehead", "cheek", "chin"],
)
@pytest.mark.haar
def test_a_face_cut_off_by_the_edge_is_found(left: int, top: int, right: int, bottom: int) -> None:
    image = np.ascontiguousarray(astronaut()[top:bottom, left:right])
    height, width = image.shape[:2]
    whole = (ASTRONAUT_FACE[0] - left, ASTRONAUT_FACE[1] - top, *ASTRONAUT_FACE[2:])
    visible = within(whole, width, height)
    found = max(HaarDetector().detect(image), key=lambda d: d.score or 0.0)
    assert overlap(found.box, visible) > 0.4
    assert within(found.box, width, height) == found.box


@pytest.mark.haar
def test_a_hundred_faces() -> None:
    faces = [astronaut()[20:230, 120:330], grace()[60:430, 100:430]]
    tiles = [_resized(faces[place % 2], 120) for place in range(100)]
    rows = [np.hstack(tiles[start : start + 10]) for start in range(0, 100, 10)]
    found = HaarDetector().detect(np.vstack(rows))
    cells = {(int((x + w / 2) // 120), int((y + h / 2) // 120)) for x, y, w, h in boxes(found)}
    assert len(found) == len(cells) == 100


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (30, 30), (3000, 2)])
@pytest.mark.haar
def test_pictures_of_extreme_shapes(shape: tuple[int, int]) -> None:
    assert list(default_detector().detect(np.zeros((*shape, 3), np.uint8))) == []


@pytest.mark.haar
def test_a_large_picture_is_reduced_before_the_search() -> None:
    large = _resized(astronaut(), 2000)
    (found,) = HaarDetector(longest_side=512).detect(large)
    x, y, w, h = found.box
    assert overlap((x * 0.256, y * 0.256, w * 0.256, h * 0.256), ASTRONAUT_FACE) > 0.5


@pytest.mark.haar
def test_threads_sharing_a_detector_agree() -> None:
    detector = default_detector()
    images = [_resized(astronaut(), 256), _resized(grace(), 200)] * 4
    alone = [detector.detect(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(detector.detect, images)) == alone


@pytest.mark.haar
def test_provenance_names_the_model_and_the_settings() -> None:
    provenance = HaarDetector(least_windows=9).provenance
    assert CASCADE in provenance
    assert "windows 9" in provenance
    assert HaarDetector().provenance != provenance
    assert HaarDetector().provenance in default_detector().provenance


def test_given_boxes_are_returned_unchanged() -> None:
    given_boxes = GivenBoxes([(1, 2, 3, 4), (1, 2, 3, 4)], persons=[(0, 0, 9, 9)])
    found = given_boxes.detect(astronaut())
    assert boxes(found) == [(1, 2, 3, 4), (1, 2, 3, 4), (0, 0, 9, 9)]
    assert [one.kind for one in found] == ["face", "face", "person"]


class Staged:
    """Detects one face whose score is the shade of the picture's first pixel."""

    provenance = "staged"
    calls = 0

    def detect(self, image: Pixels) -> list[Detection]:
        self.calls += 1
        score = float(image[0, 0, 0])
        return [Detection((0, 0, 2, 1), score)] if score else []


@pytest.mark.parametrize(
    ("corners", "turn"),  # clockwise from the first pixel, as the turns show them
    [
        ((20, 90, 90, 90), 0),  # sure as it is: nothing else is tried
        ((5, 30, 40, 0), 2),  # the surest turn
        ((5, 24, 24, 24), 0),  # no lead of a quarter over what is sure
        ((0, 0, 0, 25), 3),
        ((0, 26, 0, 26), 1),  # the first of equals
        ((19, 24, 0, 0), 0),
        ((19, 25, 0, 0), 1),
    ],
)
def test_a_turn_has_to_be_sure(corners: tuple[int, int, int, int], turn: int) -> None:
    image = np.zeros((6, 8, 3), np.uint8)
    image[0, 0], image[0, -1], image[-1, -1], image[-1, 0] = ([value] * 3 for value in corners)
    (found,) = AnyWayUp(Staged(), 20, 1.25).detect(image)
    assert found.turn == turn
    assert turned_box(found.box, turn, 8, 6) == (0, 0, 2, 1)


UPRIGHT: Landmarks = ((30, 40), (70, 40), (50, 60), (35, 80), (65, 80))


class Seen:
    """Detects a face whose landmarks are the pixels of value 1 to 5, and an unsure other one."""

    provenance = "seen"

    def __init__(self, score: float = 1.0) -> None:
        self.score = score
        self.views = 0

    def detect(self, image: Pixels) -> list[Detection]:
        self.views += 1
        places = [tuple(np.argwhere(image[:, :, 0] == value)[0][::-1]) for value in range(1, 6)]
        landmarks: Landmarks = tuple((float(x), float(y)) for x, y in places)  # type: ignore[assignment]
        xs, ys = zip(*landmarks, strict=True)
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        return [Detection(box, self.score, landmarks=landmarks), Detection((0, 0, 9, 9), 0.1)]


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_the_turn_with_upright_landmarks_is_used(turn: int) -> None:
    image = np.zeros((100, 120, 3), np.uint8)
    for value, (x, y) in enumerate(UPRIGHT, 1):
        image[int(y), int(x), 0] = value
    lying = turned_image(image, turn)
    detector = Seen()
    found, _ = AnyWayUp(detector, 0.65).detect(lying)
    assert detector.views == (1 if turn == 0 else 4)
    assert (found.turn + turn) % 4 == 0
    assert found.landmarks is not None
    for value, (x, y) in enumerate(found.landmarks, 1):  # in the picture as it is
        assert lying[int(y), int(x), 0] == value
    upright = turned_landmarks(found.landmarks, found.turn, lying.shape[1], lying.shape[0])
    assert np.array(upright) == pytest.approx(np.array(UPRIGHT))


def test_an_unsure_face_is_not_turned() -> None:
    image = np.zeros((100, 120, 3), np.uint8)
    for value, (x, y) in enumerate(UPRIGHT, 1):
        image[int(y), int(x), 0] = value
    found, _ = AnyWayUp(Seen(0.6), 0.65).detect(turned_image(image, 1))
    assert found.turn == 0


@pytest.mark.parametrize("found", [True, False])
def test_turned_views_are_searched_quickly(found: bool) -> None:
    """The first pixel's shade is the score of a face; the upright picture has one or none."""
    image = np.zeros((6, 8, 3), np.uint8)
    image[0, 0], image[-1, -1] = 5 * found, 40
    full, quick = Staged(), Staged()
    (face,) = AnyWayUp(full, 20, quick=quick).detect(image)
    assert face.turn == 2
    assert (full.calls, quick.calls) == (2, 3)


@pytest.mark.parametrize("degrees", [0, 10, 30, 60, 90, 135, 180, 270])
def test_uprightness_is_the_cosine_of_the_rotation(degrees: float) -> None:
    points = np.array([(18.28, 17.47), (44.61, 17.36), (31.05, 31.43), (20.1, 43), (41.79, 42.84)])
    angle = np.radians(degrees)
    rotation = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turned = 3.0 * points @ np.array(rotation) + (500, -20)
    landmarks: Landmarks = tuple((x, y) for x, y in turned.tolist())  # type: ignore[assignment]
    assert uprightness(landmarks) == pytest.approx(max(np.cos(angle), 0.0), abs=1e-9)


def test_uprightness_without_a_shape() -> None:
    assert uprightness(None) == 1.0
    assert uprightness(((5, 5),) * 5) == 0.0


@given(BOXES, st.integers(-4, 7))
def test_turned_boxes_follow_turned_pixels(box: tuple[int, int, int, int], turn: int) -> None:
    x, y, width, height = box
    image = np.zeros((40, 50, 3), np.uint8)
    image[y : y + height, x : x + width] = 255
    left, top, across, down = map(int, turned_box(box, turn, 50, 40))
    turned = turned_image(image, turn)
    assert turned[top : top + down, left : left + across].all()
    assert turned.sum() == image.sum()


@given(st.lists(st.builds(Detection, BOXES, st.integers(0, 3)), max_size=8), st.randoms())
def test_duplicates_are_removed_in_any_order(found: list[Detection], random: object) -> None:
    kept = without_duplicates(found)
    for place, one in enumerate(kept):
        for other in kept[:place]:
            assert shared_area(one.box, other.box) <= 0.5 * min(area(one.box), area(other.box))
    for one in found:
        assert any(
            one == other
            or shared_area(one.box, other.box) > 0.5 * min(area(one.box), area(other.box))
            for other in kept
        )
    shuffled = list(found)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert without_duplicates(shuffled) == kept


def boxes(found: list[Detection]) -> list[Box]:
    return [one.box for one in found]


def _resized(image: Pixels, side: int) -> Pixels:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))
