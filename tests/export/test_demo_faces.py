"""Drawn faces: deterministic, gently aging, with correct boxes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.faces.drawn import draw_face, draw_person, drawn_faces, sample_ages

ROOT = Path(__file__).parents[2]


def difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Mean absolute difference in gray levels."""
    return float(np.abs(first.astype(np.int16) - second).mean())


@pytest.mark.parametrize("size", [32, 96, 131])
def test_face_is_rgb_of_the_requested_size(size: int) -> None:
    face = draw_face(30, seed=1, size=size)
    assert face.shape == (size, size, 3)
    assert face.dtype == np.uint8


@pytest.mark.parametrize("age", [0, 0.5, 17, 63.2, 100])
def test_same_arguments_give_the_same_face(age: float) -> None:
    np.testing.assert_array_equal(draw_face(age, seed=5), draw_face(age, seed=5))


def test_another_process_draws_the_same_face() -> None:
    code = (
        "import sys; from export.faces.drawn import draw_face; "
        "sys.stdout.write(draw_face(41, seed=9).tobytes().hex())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert bytes.fromhex(other.stdout) == draw_face(41, seed=9).tobytes()


def test_seeds_are_different_people() -> None:
    assert min(difference(draw_face(30, seed=0), draw_face(30, seed=s)) for s in range(1, 9)) > 5


@pytest.mark.parametrize("seed", range(6))
def test_a_face_changes_over_decades_but_hardly_within_a_month(seed: int) -> None:
    young, month_later, old = (draw_face(age, seed=seed) for age in (5, 5 + 1 / 12, 70))
    assert difference(young, old) > 6
    assert difference(young, month_later) < 0.6


def test_each_decade_moves_further_from_childhood() -> None:
    child = [draw_face(4, seed=seed) for seed in range(20)]
    distances = [
        np.mean([difference(child[seed], draw_face(age, seed=seed)) for seed in range(20)])
        for age in (10, 20, 40, 60, 80)
    ]
    assert distances == sorted(distances)


def test_brightness_does_not_reveal_the_age() -> None:
    ages = sample_ages(300, seed=2)
    brightness = [draw_face(age, seed=seed).mean() for seed, age in enumerate(ages)]
    assert abs(np.corrcoef(brightness, ages)[0, 1]) < 0.35


def test_sampled_ages_cover_every_stratum_once() -> None:
    ages = sample_ages(89, seed=3)
    np.testing.assert_array_equal(np.sort(np.floor(ages)), np.arange(1, 90))
    np.testing.assert_array_equal(ages, sample_ages(89, seed=3))
    assert not np.array_equal(ages, np.sort(ages))
    assert len(sample_ages(0, seed=3)) == 0


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 200), (160, 320), (320, 120)])
@pytest.mark.parametrize("age", [1, 30, 95])
def test_boxes_lie_in_the_scene_and_nest(age: float, width: int, height: int) -> None:
    for seed in range(4):
        scene = draw_person(age, seed=seed, width=width, height=height)
        assert scene.image.shape == (height, width, 3)
        face_x, face_y, face_w, face_h = scene.face_box
        x, y, w, h = scene.person_box
        assert 0 <= x <= face_x < face_x + face_w <= x + w <= width
        assert 0 <= y <= face_y < face_y + face_h < y + h <= height


def test_face_box_shows_the_face() -> None:
    scene = draw_person(30, seed=3, width=400, height=800)
    x, y, w, h = scene.face_box
    inside = scene.image[y : y + h, x : x + w].astype(float)
    left_of_it = scene.image[y : y + h, : x // 2].astype(float)
    assert inside.std(axis=(0, 1)).mean() > 2 * left_of_it.std(axis=(0, 1)).mean()


def test_toddlers_have_larger_heads_for_their_bodies() -> None:
    def share(age: float) -> float:
        scene = draw_person(age, seed=4, width=200, height=400)
        return scene.face_box[3] / scene.person_box[3]

    assert share(1.5) > 1.5 * share(30)


def test_drawn_faces_carry_their_sampled_ages() -> None:
    faces = list(drawn_faces(5, seed=8, size=48))
    assert [face.age_years for face in faces] == sample_ages(5, seed=8).tolist()
    assert {face.image.shape for face in faces} == {(48, 48, 3)}


@pytest.mark.parametrize("age", [-0.1, 100.1, float("nan")])
def test_impossible_age_is_rejected(age: float) -> None:
    with pytest.raises(ValueError, match=r"within 0\.\.100; got .* Give it in years"):
        draw_face(age, seed=1)
    with pytest.raises(ValueError, match=r"within 0\.\.100; got .* Give it in years"):
        draw_person(age, seed=1, width=100, height=200)


def test_too_small_pictures_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"size must be at least 32 pixels.*got 31.*size=32"):
        draw_face(30, seed=1, size=31)
    with pytest.raises(ValueError, match=r"height must be at least 64 pixels.*got 63"):
        draw_person(30, seed=1, width=64, height=63)
    with pytest.raises(ValueError, match="count must not be negative; got -1"):
        sample_ages(-1, seed=1)
