"""Reductions by area: OpenCV's result, computed another way where OpenCV takes long."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from runtime import resizing
from runtime.geometry import Pixels
from runtime.resizing import area_resized, reduced, sampled, window

GRAIN = np.random.default_rng(0).integers(0, 256, (1300, 1100, 3), np.uint8)


def by_shares(image: Pixels, height: int, width: int) -> np.ndarray:
    """Weighs every pixel by the share in which it belongs to one of the result, in float64."""
    weights = []
    for small, large in ((height, image.shape[0]), (width, image.shape[1])):
        edges = np.arange(small + 1) * (large / small)
        before, after = np.arange(large), np.arange(1, large + 1)
        shared = np.minimum(edges[1:, None], after) - np.maximum(edges[:-1, None], before)
        weights.append(np.maximum(shared, 0.0) * small / large)
    down = np.tensordot(weights[0], image.astype(np.float64), 1)
    return np.asarray(np.einsum("ikc,lk->ilc", down, weights[1], optimize=True))


@pytest.mark.parametrize(
    ("image", "height", "width"),
    [
        (GRAIN, 131, 111),
        (GRAIN[3:1200, 7:900], 97, 112),  # a view, and columns that shrink less
        (GRAIN[:500, :700], 1, 3),
        (np.full((901, 803, 3), 255, np.uint8), 100, 90),
    ],
)
def test_a_strong_reduction_is_the_mean_of_the_area(
    image: Pixels, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenCV's, of which it differs in the rounding of few values, and as a brute-force twin."""
    wanted = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    exact = by_shares(image, height, width)
    monkeypatch.setattr(resizing, "_LARGE_BLOCK", np.inf)
    assert (area_resized(image, height, width) == wanted).all()
    monkeypatch.undo()
    found = area_resized(image, height, width)
    assert found.dtype == np.uint8
    assert (np.abs(found - exact) <= 0.5 + 1e-3).all()
    assert (found != wanted).mean() < 1e-3


def test_rows_are_added_up_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of whole pixels and weak reductions are OpenCV's; so are rows too long to hold."""
    added: list[tuple[int, ...]] = []
    of_rows = resizing._mean_of_rows

    def counted(image: Pixels, top: float, bottom: float) -> np.ndarray:
        added.append(image.shape)
        return of_rows(image, top, bottom)

    monkeypatch.setattr(resizing, "_mean_of_rows", counted)
    area_resized(GRAIN[:1200], 120, 110)
    area_resized(GRAIN, 400, 300)
    area_resized(GRAIN, 100, 1200)
    area_resized(np.zeros((17, 70_000, 3), np.uint8), 1, 4201)
    assert added == []
    small, scale = reduced(GRAIN, 120)
    assert small.shape == (120, 102, 3)
    assert scale == (1100 / 102, 1300 / 120)
    assert len(added) == 120


def test_every_pixel_sampled_is_the_picture_in_one_piece() -> None:
    """A view of columns becomes contiguous, as in any other step."""
    view = GRAIN[:40, 3:30]
    assert (sampled(view, 1, 1) == view).all()
    assert sampled(view, 1, 1).flags.c_contiguous


@pytest.mark.parametrize("color", [(7, 7, 7), (1, 2, 3)])
def test_the_outside_of_a_window_has_its_color(color: tuple[int, int, int]) -> None:
    """Gray and other colors."""
    found = window(GRAIN[:4, :5], -1, -2, 7, 5, color)
    assert (found[2:6, 1:6] == GRAIN[:4, :5]).all()
    found[2:6, 1:6] = color
    assert (found == color).all()
