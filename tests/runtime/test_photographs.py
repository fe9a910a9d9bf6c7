"""Whole photographs: faces and persons, order, one batch, turns."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment

from runtime.assignment import affinity, best_pairs, persons_of
from runtime.deadline import Deadline
from runtime.detection import Detection, GivenBoxes, turned_box, turned_image
from runtime.errors import AgeMoEError, BoxError, DeadlineError, ImageError
from runtime.geometry import Geometry, Pixels, crop
from runtime.photographs import PhotoFace, find_faces, predict_photo
from runtime.results import AgeEstimate, Box, Face
from tests.runtime.photo_samples import ASTRONAUT_FACE, GRACE_FACE, astronaut, grace

BOXES = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 30)] * 2)


class Bright:
    """Predicts the brightness of a face, 0..100, and records its calls."""

    def __init__(self) -> None:
        self.calls: list[list[Face]] = []
        self.deadlines: list[Deadline | None] = []

    def predict(
        self, faces: list[Face], *, deadline_ms: float | Deadline | None = None
    ) -> list[AgeEstimate | AgeMoEError]:
        self.calls.append(faces)
        self.deadlines.append(Deadline.of(deadline_ms))
        return [self._age(face) for face in faces]

    def _age(self, face: Face) -> AgeEstimate | AgeMoEError:
        assert isinstance(face.image, np.ndarray)
        try:
            return AgeEstimate(float(crop(face.image, face.box, Geometry()).mean()) / 2.55, {})
        except BoxError as error:
            return error


def spots(*levels: int) -> Pixels:
    """Returns a row of squares of 10 pixels, each of one brightness in percent."""
    row = np.repeat(np.array(levels) * 2.55, 10)
    return np.repeat(np.tile(row, (10, 1))[:, :, None], 3, axis=2).round().astype(np.uint8)


def test_every_face_gets_its_age_from_left_to_right_in_one_batch() -> None:
    image = spots(20, 60, 40, 80)
    moe = Bright()
    given_boxes = GivenBoxes([(30, 0, 10, 10), (0, 0, 10, 10), (20, 0, 10, 10)])
    faces = predict_photo(moe, image, detector=given_boxes)
    assert [round(estimate_of(face).age_years) for face in faces] == [20, 40, 80]
    assert [face.box[0] for face in faces] == [0, 20, 30]
    assert len(moe.calls) == 1


@pytest.mark.haar
def test_two_real_faces() -> None:
    image = np.hstack([grace()[:512], astronaut()])
    left, right = predict_photo(Bright(), image)
    assert left.box == pytest.approx(GRACE_FACE, abs=20)
    assert right.box == pytest.approx((ASTRONAUT_FACE[0] + 512, *ASTRONAUT_FACE[1:]), abs=20)
    assert estimate_of(left) != estimate_of(right)


@pytest.mark.haar
def test_without_faces_the_list_is_empty_and_nothing_is_predicted() -> None:
    moe = Bright()
    assert predict_photo(moe, spots(10, 90)) == []
    assert predict_photo(moe, spots(10, 90), detector=GivenBoxes([])) == []
    assert moe.calls == []


def test_a_face_that_cannot_be_used_affects_no_other() -> None:
    nan = float("nan")
    bad: list[Box] = [(99, 0, 5, 5), (nan, 0, 5, 5), (0, 0, 0, 0)]
    image = spots(50)
    faces = predict_photo(
        Bright(), image, detector=GivenBoxes([*bad, (0, 0, 10, 10)], [(0, 0, 10, 10)])
    )
    assert sum(isinstance(face.error, BoxError) for face in faces) == 3
    (good,) = [face for face in faces if face.estimate]
    assert good.person_box == pytest.approx((0, 0, 10, 10))
    assert "error" in next(face for face in faces if face.error).to_dict()


@pytest.mark.haar
def test_the_exif_orientation_is_applied_first() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90°
    Image.fromarray(turned_image(astronaut(), 1)).save(buffer, "PNG", exif=exif)
    (face,) = predict_photo(Bright(), buffer.getvalue())
    assert face.turn == 0
    assert face.box == pytest.approx(ASTRONAUT_FACE, abs=10)


@pytest.mark.haar
def test_a_face_on_its_side_is_turned_upright_for_the_experts() -> None:
    moe = Bright()
    lying = turned_image(astronaut(), 1)
    person: Box = (0, 60, 512, 440)
    (face,) = predict_photo(moe, lying, person_boxes=[person])
    assert face.turn == 3
    assert face.person_box == person
    ((predicted,),) = moe.calls
    assert isinstance(predicted.image, np.ndarray)
    assert np.array_equal(predicted.image, astronaut())
    assert predicted.box == pytest.approx(ASTRONAUT_FACE, abs=10)
    assert predicted.person_box == turned_box(person, 3, 512, 512)


def test_faces_of_one_turn_share_one_picture() -> None:
    class Lying:
        provenance = "lying"

        def detect(self, image: Pixels) -> list[Detection]:
            del image
            return [Detection((5.0 * index, 0, 5, 5), turn=index % 2) for index in range(6)]

    moe = Bright()
    predict_photo(moe, spots(1, 2, 3), detector=Lying())
    ((*predicted,),) = moe.calls
    assert len({id(face.image) for face in predicted}) == 2


def test_the_deadline_includes_the_detection() -> None:
    class Slow:
        provenance = "slow"

        def detect(self, image: Pixels) -> list[Detection]:
            del image
            time.sleep(0.02)
            return [Detection((0, 0, 10, 10))]

    moe = Bright()
    with pytest.raises(DeadlineError, match="detection: deadline of 5 ms passed"):
        predict_photo(moe, spots(50), detector=Slow(), deadline_ms=5)
    predict_photo(moe, spots(50), detector=Slow(), deadline_ms=60_000)
    (deadline,) = moe.deadlines
    assert deadline is not None
    assert deadline.reason == "deadline of 60000 ms passed"
    assert deadline.remaining_seconds() <= 59.98


def test_an_invalid_picture_raises() -> None:
    with pytest.raises(ImageError):
        predict_photo(Bright(), b"no picture")


def test_to_dict_is_plain() -> None:
    (face,) = predict_photo(Bright(), spots(50), detector=GivenBoxes([(0, 0, 10, 10)]))
    values = face.to_dict()
    assert values["box"] == [0, 0, 10, 10]
    assert (values["person_box"], values["score"], values["turn"]) == (None, None, 0)
    assert values["age_years"] == pytest.approx(50, abs=0.5)


def test_each_face_gets_the_person_it_is_in() -> None:
    persons: list[Box] = [(100, 0, 100, 300), (0, 0, 100, 300), (300, 0, 100, 300)]
    faces: list[Box] = [(30, 20, 40, 40), (130, 20, 40, 40), (230, 20, 40, 40)]
    assert persons_of(faces, persons) == [1, 0, None]
    assert persons_of(faces, []) == [None, None, None]
    assert persons_of([], persons) == []


def test_the_total_overlap_is_maximized() -> None:
    # Both faces are best in the first person; only the first face is in the second one at all.
    persons: list[Box] = [(0, 0, 100, 200), (0, 0, 300, 200)]
    faces: list[Box] = [(10, 10, 40, 40), (60, 10, 40, 40)]
    assert sorted(p for p in persons_of(faces, persons) if p is not None) == [0, 1]
    assert persons_of(faces, [(0, 0, 100, 200), (10, 0, 60, 200)]) == [1, 0]


def test_affinity_is_that_of_mivolo() -> None:
    # A quarter of the face lies in the person: intersection 100, union 400 + 800 - 100.
    assert affinity((0, 0, 20, 20), (10, 10, 20, 40)) == pytest.approx((0.25 + 100 / 1100) / 2)
    assert affinity((0, 0, 20, 20), (20, 0, 20, 20)) == 0.0


@given(
    arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.floats(0, 1))
)
def test_pairs_gain_as_much_as_scipys(gain: NDArray[np.float64]) -> None:
    pairs = best_pairs(gain)
    taken = [column for column in pairs if column is not None]
    assert len(taken) == len(set(taken)) == min(gain.shape)
    found = sum(gain[row, column] for row, column in enumerate(pairs) if column is not None)
    assert found == pytest.approx(gain[linear_sum_assignment(gain, maximize=True)].sum())


@given(st.lists(BOXES, max_size=5), st.lists(BOXES, max_size=5))
def test_no_person_has_two_faces(faces: list[Box], persons: list[Box]) -> None:
    owners = [owner for owner in persons_of(faces, persons) if owner is not None]
    assert len(owners) == len(set(owners))


def test_detected_and_given_persons_are_combined() -> None:
    detector = GivenBoxes([(0, 0, 5, 5), (20, 0, 5, 5)], [(0, 0, 10, 10)])
    found = find_faces(spots(1, 2, 3), detector, [(18, 0, 10, 10)])
    assert [face.person_box for face in found] == [(0, 0, 10, 10), (18, 0, 10, 10)]


def estimate_of(face: PhotoFace) -> AgeEstimate:
    assert face.estimate is not None
    return face.estimate
