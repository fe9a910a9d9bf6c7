"""What searching faces costs where there are none, in counted pixels; deadlines between faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime import landmark_search, resizing
from runtime.deadline import Deadline
from runtime.detection import AnyWayUp, Detection, turned_box, turned_image
from runtime.errors import DeadlineError
from runtime.geometry import Pixels
from runtime.images import ImageLimits
from runtime.landmark_search import (
    SEARCH_READ,
    SEARCH_SIDE,
    SEARCH_TURNED_SIDE,
    LandmarkSearch,
)
from runtime.manifest_file import read_manifest
from runtime.preparation import Preparer
from runtime.quality import QualityLimits
from runtime.results import Box, Face
from runtime.stats import Statistics
from tests.runtime.tiny_engines import Tiny, write_engines

LIMITS = ImageLimits(max_pixels=200 * 250)


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height * 97 + width).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


class Asked:
    """Records the sizes it is asked to search; finds the eye-catching corner, if any."""

    provenance = "asked"

    def __init__(self, *found: Detection) -> None:
        self.found = found
        self.shapes: list[tuple[int, ...]] = []

    def detect(self, image: Pixels) -> tuple[Detection, ...]:
        self.shapes.append(image.shape)
        return self.found


@pytest.mark.parametrize("box", [(0.0, 0.0, 2400.0, 1800.0), (600.0, 450.0, 1200.0, 900.0)])
def test_landmarks_are_searched_in_few_pixels(box: Box) -> None:
    side = SEARCH_SIDE
    points = ((80, 70), (140, 70), (110, 100), (85, 120), (135, 120))
    detector = Asked(Detection((56, 42, 112, 84), landmarks=points))
    sought = LandmarkSearch(detector).find(np.zeros((1800, 2400, 3), np.uint8), box)
    assert detector.shapes == [(side * 3 // 4, side, 3)]
    assert (sought.reason, sought.face_found) == ("", True)
    assert np.array(sought.landmarks) == pytest.approx(np.array(points) * 2400 / side)


@pytest.mark.parametrize("box", [None, (600.0, 450.0, 1200.0, 900.0)])
def test_where_there_is_no_face_few_pixels_are_searched(box: Box | None) -> None:
    """What 64 boxes, or whole pictures, without a face cost is 64 times this."""
    detector = Asked()
    search = LandmarkSearch(AnyWayUp(detector, 0.5))
    assert search.find(np.zeros((1800, 2400, 3), np.uint8), box).face_found is False
    upright, *turned = [shape[:2] for shape in detector.shapes]
    assert upright == (SEARCH_SIDE * 3 // 4, SEARCH_SIDE)
    small = SEARCH_TURNED_SIDE * 3 // 4, SEARCH_TURNED_SIDE
    assert turned == [small[::-1], small, small[::-1]]


def test_a_large_region_is_not_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bright square keeps its place, whatever part of the pixels is read."""
    read: list[int] = []

    def counted(image: Pixels, side: int) -> tuple[Pixels, resizing.Scale]:
        read.append(image.shape[0] * image.shape[1])
        return resizing.reduced(image, side)

    class Square:
        provenance = "square"

        def detect(self, image: Pixels) -> list[Detection]:
            (top, left), (bottom, right) = (
                edge(np.argwhere(image[..., 0] > 128), axis=0) for edge in (np.min, np.max)
            )
            return [Detection((left, top, right + 1 - left, bottom + 1 - top), 1.0)]

    monkeypatch.setattr(landmark_search, "reduced", counted)
    image = np.zeros((3000, 5000, 3), np.uint8)
    image[1000:2000, 2000:3500] = 255
    for box in ((2100.0, 900.0, 1500.0, 1200.0), None, (0.0, 0.0, 5000.0, 3000.0)):
        face = LandmarkSearch(Square()).find(image, box).face
        assert face is not None
        assert face.box == pytest.approx((2000, 1000, 1500, 1000), abs=2 * 5000 / SEARCH_SIDE)
        assert read.pop() <= (2 * SEARCH_READ) ** 2


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_turned_face_is_found_in_small_views_and_placed_in_large_ones(turn: int) -> None:
    """The way up is seen in a small view; the face's place is that of the larger one."""
    shapes: list[tuple[int, ...]] = []

    class Pointer:
        provenance = "pointer"

        def detect(self, image: Pixels) -> list[Detection]:
            shapes.append(image.shape)
            marked = np.argwhere(image[..., 0] > 128)
            (top, left), (bottom, right) = marked.min(0), marked.max(0) + 1
            if (top + bottom) / 2 > image.shape[0] / 2 - 1:  # upright, it is in the upper half
                return []
            box = tuple(map(float, (left, top, right - left, bottom - top)))
            return [Detection(box, 1.0)]  # type: ignore[arg-type]

    upright = np.zeros((1000, 1000, 3), np.uint8)
    upright[100:300, 450:550] = 255
    image = turned_image(upright, turn)
    face = LandmarkSearch(AnyWayUp(Pointer(), 0.5)).find(image, None).face
    assert face is not None
    assert face.turn == -turn % 4
    assert face.box == pytest.approx(turned_box((450, 100, 100, 200), turn, 1000, 1000), abs=5)
    assert shapes[-1] == (SEARCH_SIDE, SEARCH_SIDE, 3)


def test_preparation_stops_at_the_deadline_between_two_faces(tmp_path: Path) -> None:
    image = noise(200, 250)
    asked: list[tuple[int, ...]] = []

    class Slow:
        provenance = "slow"

        def detect(self, image: Pixels) -> list[Detection]:
            asked.append(image.shape)
            return []

    class Late(Deadline):
        """Has passed once two faces were searched."""

        @property
        def passed(self) -> bool:
            return len(asked) >= 2

    write_engines(tmp_path, {"plain": Tiny()})
    experts = dict(read_manifest(tmp_path).experts)
    preparer = Preparer(
        experts, LIMITS, Statistics(experts), detector=Slow(), quality=QualityLimits()
    )
    with pytest.raises(DeadlineError, match="deadline of 5 ms passed"):
        preparer.prepare([Face(image, (10, 10, 50, 50))] * 9, Late(0.0, 5.0))
    assert len(asked) == 2


def test_turned_views_are_small() -> None:
    detector = Asked()
    assert list(AnyWayUp(detector, 0.5).detect(np.zeros((2600, 1300, 3), np.uint8))) == []
    assert detector.shapes == [(2600, 1300, 3), (640, 1280, 3), (1280, 640, 3), (640, 1280, 3)]


def test_a_face_in_a_reduced_turned_view_is_in_pixels_of_the_picture() -> None:
    class Lying:
        provenance = "lying"

        def detect(self, image: Pixels) -> list[Detection]:
            marked = np.argwhere(image[..., 0] > 128)
            if image.shape[0] > image.shape[1] or not len(marked):
                return []
            (top, left), (bottom, right) = marked.min(0), marked.max(0) + 1
            box = tuple(map(float, (left, top, right - left, bottom - top)))
            return [Detection(box, 1.0)]  # type: ignore[arg-type]

    image = np.zeros((2560, 1280, 3), np.uint8)
    image[400:800, 100:340] = 255
    (found,) = AnyWayUp(Lying(), 0.5).detect(image)
    assert found.turn in (1, 3)
    assert found.box == pytest.approx((100, 400, 240, 400))
