"""What faces of a picture cost: windows, resizes, searches and turned copies, in counted pixels."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from runtime import preparation, resizing
from runtime.boxes import MAX_COVER, MAX_FACE_COVER, check_cover
from runtime.detection import Detection, GivenBoxes
from runtime.errors import BoxesTooLargeError, InputError
from runtime.geometry import Geometry, Pixels, crop, fit
from runtime.images import ImageLimits
from runtime.labeler import Labeler
from runtime.manifest_file import read_manifest
from runtime.photographs import FoundFace, faces_in, predict_photo, scene_in
from runtime.preparation import PreparedFace, Preparer
from runtime.resizing import INTERPOLATIONS, MAX_HELD_PIXELS, reduced_window, window_factor
from runtime.results import Box, Face, Landmarks
from runtime.stats import Statistics
from tests.runtime.photo_samples import astronaut
from tests.runtime.tiny_engines import Tiny, write_engines

POINTS: Landmarks = ((207, 105), (247, 106), (229, 130), (212, 149), (243, 150))


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(height * 97 + width).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


def whole_window(
    image: Pixels, left: int, top: int, right: int, bottom: int, outside: tuple[int, ...] | None
) -> Pixels:
    """Returns the whole padded window, pixel by pixel."""
    height, width = image.shape[:2]
    found = np.empty((bottom - top, right - left, 3), np.uint8)
    for row in range(top, bottom):
        for column in range(left, right):
            y, x = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
            inside = (y, x) == (row, column)
            found[row - top, column - left] = (
                image[y, x] if inside or outside is None else list(outside)
            )
    return found


def block_means(image: Pixels, factor: int) -> NDArray[np.float64]:
    height, width = image.shape[0] // factor, image.shape[1] // factor
    whole = image[: height * factor, : width * factor].astype(np.float64)
    return np.asarray(whole.reshape(height, factor, width, factor, 3).mean((1, 3)))


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(-40, 20),
    st.integers(-40, 20),
    st.integers(5, 60),
    st.integers(5, 60),
    st.integers(1, 5),
    st.sampled_from([None, (9, 80, 255)]),
)
def test_a_reduced_window_is_the_block_means_of_the_whole_one(
    height: int,
    width: int,
    left: int,
    top: int,
    across: int,
    down: int,
    factor: int,
    outside: tuple[int, int, int] | None,
) -> None:
    image = noise(height, width)
    edges = left, top, left + across, top + down
    wanted = block_means(whole_window(image, *edges, outside), factor)
    found = reduced_window(image, *edges, outside, factor)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 0.6  # Pillow divides in whole numbers


def test_strips_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(90, 70)
    whole = reduced_window(image, -50, -33, 111, 140, None, 3)
    monkeypatch.setattr(resizing, "STRIP_PIXELS", 300)
    assert np.array_equal(reduced_window(image, -50, -33, 111, 140, None, 3), whole)


def test_only_padded_windows_above_the_limit_are_reduced() -> None:
    image = np.broadcast_to(np.uint8(0), (7000, 7000, 3))
    assert window_factor(image, 0, 0, 7000, 7000) == 1
    assert window_factor(image, -1, 0, 4999, 5000) == 1
    assert window_factor(image, -1, 0, 5000, 5000) == 2
    for side in (5001, 20_000, 300_000):
        factor = window_factor(image, -5, -5, side - 5, side - 5)
        assert (side // factor) ** 2 <= MAX_HELD_PIXELS < (side / (factor - 1)) ** 2


@pytest.mark.parametrize("border", ["color", "replicate"])
def test_a_margin_of_10_holds_little_memory(border: str) -> None:
    image = noise(2000, 2000)
    tracemalloc.start()
    try:
        found = crop(image, (0, 0, 2000, 2000), Geometry(10.0, border=border))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.shape == (4666, 4666, 3)  # 42,000 pixels by 9
    assert peak < 1.5 * 3 * MAX_HELD_PIXELS


def test_a_reduced_crop_looks_like_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    settings_ = Geometry(1.5, "pad_square", "opencv_area", (255, 255, 255))
    box: Box = (100, 40, 380, 420)
    whole = fit(crop(astronaut(), box, settings_), 64, 64, settings_).astype(int)
    monkeypatch.setattr(resizing, "MAX_HELD_PIXELS", 300_000)
    small = crop(astronaut(), box, settings_)
    assert small.shape == (1680 // 3, 1520 // 3, 3)
    assert np.abs(fit(small, 64, 64, settings_) - whole).mean() < 0.6


def test_the_face_is_erased_in_a_reduced_crop_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "MAX_HELD_PIXELS", 10_000)
    white = np.full((100, 100, 3), 255, np.uint8)
    person = Geometry(0.5, pad_color=(7, 7, 7), erase_face=True)
    found = crop(white, (0, 0, 100, 100), person, (20, 40, 30, 20))
    assert found.shape == (100, 100, 3)  # 200 by 2
    assert (found[45:55, 35:50] == 0).all()
    assert np.count_nonzero((found == 0).all(axis=2)) == 10 * 15


@pytest.mark.parametrize("name", [n for n in INTERPOLATIONS if n.startswith("pillow")])
def test_pillow_gets_few_pixels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = Image.fromarray

    def counted(array: Pixels) -> Image.Image:
        sizes.append(array.shape[0] * array.shape[1])
        return original(array)

    image = np.asarray(original(astronaut()).resize((1400, 1300)))
    exact = resizing.resized(image, 48, 64, name).astype(int)
    monkeypatch.setattr(Image, "fromarray", counted)
    monkeypatch.setattr(resizing, "MAX_HELD_PIXELS", 500_000)
    monkeypatch.setattr(resizing, "STRIP_PIXELS", 50_000)
    found = resizing.resized(image, 48, 64, name)
    assert found.shape == (48, 64, 3)
    assert max(sizes) <= 50_000
    assert np.abs(found - exact).mean() < 1.0


@pytest.mark.parametrize("name", [n for n in INTERPOLATIONS if n.startswith("pillow")])
def test_a_strip_is_resized_in_either_order(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    strip = noise(900, 20)
    wanted = resizing.resized(strip, 40, 300, name).astype(int)
    monkeypatch.setattr(resizing, "MAX_HELD_PIXELS", 20_000)
    assert np.abs(resizing.resized(strip, 40, 300, name) - wanted).max() <= 1


def test_the_middle_of_a_strip_is_shorter_for_a_large_input() -> None:
    strip = np.full((1, 60_000, 3), 9, np.uint8)
    assert fit(strip, 2500, 2500, Geometry(fit="center_crop", interpolation="opencv_area")).all()


# Faces times pixels

LIMITS = ImageLimits(max_pixels=200 * 250)
WHOLE: Box = (0.0, 0.0, 250.0, 200.0)


def test_boxes_are_counted_within_the_picture() -> None:
    half: Box = (-125.0, 0.0, 250.0, 200.0)
    check_cover([WHOLE] * MAX_COVER, 200, 250, 50_000)
    check_cover([half] * 2 * MAX_COVER, 200, 250, 50_000)
    check_cover([None] * MAX_COVER, 200, 250, 50_000)
    for boxes in ([*[WHOLE] * MAX_COVER, (0, 0, 1, 1)], [half] * (2 * MAX_COVER + 1)):
        with pytest.raises(BoxesTooLargeError, match=r"of 250×200 pixels, .* more than 200,000\."):
            check_cover(boxes, 200, 250, 50_000)
    with pytest.raises(BoxesTooLargeError):
        check_cover([WHOLE] * 2, 200, 250, 50_000, copies=3)


def test_invalid_boxes_count_nothing() -> None:
    nan = float("nan")
    bad: list[Box] = [(nan, 0, 5, 5), (0, 0, -5, 5), (900, 0, 5, 5), (0, 0, 1e308, 1e308)]
    check_cover([*bad * 10, *[WHOLE] * (MAX_COVER - 1)], 200, 250, 50_000 * 10)


def crowd(columns: int, rows: int, width: int, height: int) -> Iterator[tuple[Box, Box]]:
    """Yields faces and whole persons of a group photograph, who stand in rows."""
    across, down = width / columns, height / (rows + 3)
    for row in range(rows):
        for column in range(columns):
            x, y = column * across, row * down
            face = (x + across * 0.2, y, across * 0.6, down * 0.8)
            yield face, (x - across * 0.25, y, across * 1.5, 4 * down)


def test_a_group_of_64_in_a_picture_of_50_megapixels_passes() -> None:
    width, height = 8660, 5773
    boxes = [box for pair in crowd(16, 4, width, height) for box in pair]
    assert len(boxes) == 128
    check_cover(boxes, height, width, ImageLimits().max_pixels)


def made(folder: Path) -> Preparer:
    write_engines(folder, {"plain": Tiny(), "both": Tiny(inputs=("face", "person"))})
    experts = dict(read_manifest(folder).experts)
    return Preparer(experts, LIMITS, Statistics(experts))


def test_nothing_is_cropped_of_faces_that_cover_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops: list[Box | None] = []

    def counted(image: Pixels, box: Box | None, *rest: object) -> Pixels:
        crops.append(box)
        return crop(image, box, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(preparation, "crop", counted)
    image, other = noise(200, 250), noise(100, 100)
    preparer = made(tmp_path)
    faces = [*[Face(image, WHOLE, WHOLE)] * 2, Face(other)]
    *refused, good = preparer.prepare(faces)
    assert all(isinstance(found, BoxesTooLargeError) for found in refused)
    assert isinstance(good, PreparedFace)
    assert set(crops) == {None}
    assert all(isinstance(f, PreparedFace) for f in preparer.prepare([faces[0]]))


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0])
def test_the_crops_of_one_input_cover_little(tmp_path: Path, margin: float) -> None:
    """An eighth of a picture, or with a margin on each side the part of it that a crop shows."""
    wide = Tiny(geometry=Geometry(margin))
    write_engines(tmp_path, {"plain": Tiny(), "wide": wide})
    experts = dict(read_manifest(tmp_path).experts)
    preparer = Preparer(experts, LIMITS, Statistics(experts))
    face: Box = (75.0, 75.0, 100.0, 50.0)
    cut = crop(noise(200, 250), face, Geometry(margin))  # within the picture
    most = int(MAX_FACE_COVER * LIMITS.max_pixels / (cut.shape[0] * min(cut.shape[1], 250)))
    image = noise(200, 250)
    assert isinstance(preparer.prepare([Face(image, face)] * most)[0], PreparedFace)
    refused = preparer.prepare([Face(image, face)] * (most + 1))
    assert all(isinstance(found, BoxesTooLargeError) for found in refused)


def test_persons_may_cover_more(tmp_path: Path) -> None:
    preparer, image = made(tmp_path), noise(200, 250)
    faces = [Face(image, (10.0 * n, 10.0, 20.0, 20.0), WHOLE) for n in range(MAX_COVER)]
    assert all(isinstance(found, PreparedFace) for found in preparer.prepare(faces))
    refused = preparer.prepare([*faces, Face(image, None, WHOLE)])
    assert all(isinstance(found, BoxesTooLargeError) for found in refused)


class Never:
    def predict(self, faces: list[Face], *, deadline_ms: object = None) -> list[object]:
        pytest.fail(f"{len(faces)} faces are predicted, {deadline_ms}")


def test_a_photograph_is_refused_before_a_prediction() -> None:
    detector = GivenBoxes([WHOLE] * 3)
    with pytest.raises(BoxesTooLargeError):
        predict_photo(
            Never(),  # type: ignore[arg-type]
            noise(200, 250),
            detector=detector,
            person_boxes=[WHOLE] * 3,
            limits=LIMITS,
        )
    with pytest.raises(InputError):
        scene_in(noise(200, 250), detector, [WHOLE] * 3, LIMITS)


def test_listed_faces_that_cover_too_much_are_a_row_with_an_error(tmp_path: Path) -> None:
    path = str(tmp_path / "many.png")
    Image.fromarray(noise(200, 250)).save(path)
    given_faces = {path: (Detection(WHOLE),) * 5}
    labeler = Labeler(Never(), "engine", None, LIMITS, given=given_faces)  # type: ignore[arg-type]
    ((_, (row,)),) = labeler.label([path])
    assert "together cover 250,000 pixels, more than 200,000" in str(row["error"])


def test_faces_may_cover_less_than_persons() -> None:
    image = noise(200, 250)
    half: Box = (0.0, 0.0, 125.0, 200.0)
    assert len(faces_in(image, [FoundFace(half, WHOLE)] * 2, LIMITS)) == 2
    assert len(faces_in(image, [FoundFace(half)] * 3, LIMITS)) == 3
    with pytest.raises(BoxesTooLargeError, match="more than 75,000"):
        faces_in(image, [FoundFace(half)] * 4, LIMITS)


def test_turned_copies_count() -> None:
    image = noise(200, 250)
    part: Box = (0.0, 0.0, 75.0, 200.0)
    assert len(faces_in(image, [FoundFace(part, turn=turn) for turn in range(3)], LIMITS)) == 3
    with pytest.raises(BoxesTooLargeError, match="more than 200,000"):
        faces_in(image, [FoundFace(part, turn=turn) for turn in range(4)], LIMITS)
