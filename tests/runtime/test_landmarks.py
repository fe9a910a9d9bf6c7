"""Landmarks from the detector to the experts, and faces that come without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runtime import AgeEstimate, AgeMoE, Detection, Face, GivenBoxes, LandmarkError
from runtime.alignment import landmarks_from, mean_landmarks
from runtime.console import face_text
from runtime.detection import (
    PERSON,
    AnyWayUp,
    moved_landmarks,
    turned_box,
    turned_image,
    turned_landmarks,
)
from runtime.errors import BoxError, InputError
from runtime.geometry import Geometry, Pixels, align
from runtime.images import ImageLimits
from runtime.landmark_search import LandmarkSearch
from runtime.manifest import InputSpec
from runtime.manifest_file import read_manifest
from runtime.photographs import faces_in, find_faces, predict_photo
from runtime.preparation import PreparedFace, Preparer, input_view
from runtime.results import Box, Landmarks
from runtime.stats import Statistics
from tests.runtime.photo_samples import astronaut
from tests.runtime.tiny_engines import Tiny, write_engines

if TYPE_CHECKING:
    from runtime.results import ImageSource

pytestmark = pytest.mark.usefixtures("no_thread_left")
BOX: Box = (190.0, 75.0, 72.0, 95.0)
POINTS: Landmarks = ((207, 105), (247, 106), (229, 130), (212, 149), (243, 150))
TEMPLATE: Landmarks = ((4.6, 4.4), (11.2, 4.3), (7.8, 7.9), (5.0, 10.8), (10.4, 10.7))
ALIGN = Geometry(fit="align", interpolation="opencv_area", template=TEMPLATE)


class Fixed:
    """Returns given detections, relative to the whole picture; records the regions it is asked."""

    provenance = "fixed"

    def __init__(self, *found: Detection) -> None:
        self.found = found
        self.shapes: list[tuple[int, ...]] = []

    def detect(self, image: Pixels) -> list[Detection]:
        self.shapes.append(image.shape[:2])
        x, y = corner_of(image)
        return [
            Detection(
                (found.box[0] - x, found.box[1] - y, *found.box[2:]),
                kind=found.kind,
                landmarks=found.landmarks
                and landmarks_from([(a - x, b - y) for a, b in found.landmarks]),
            )
            for found in self.found
        ]


def corner_of(region: Pixels) -> tuple[int, int]:
    """Returns x, y of a region's first pixel in `numbered`."""
    x, y = region[0, 0, :2].tolist()
    return int(x), int(y)


def numbered() -> Pixels:
    """Returns a picture of 200×250 pixels with x and y in the first two channels."""
    image = np.zeros((200, 250, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(250), np.arange(200)[:, None]
    return image


def shifted(across: float, down: float) -> Landmarks:
    return landmarks_from([(x / 3 + across, y / 3 + down) for x, y in POINTS])


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    experts = {
        "plain": Tiny(),
        "aligned": Tiny(side=16, geometry=ALIGN),
        "both": Tiny(inputs=("face", "person")),
    }
    return write_engines(tmp_path / "engines", experts)


def preparer(engines: Path, detector: Any = None) -> Preparer:
    experts = dict(read_manifest(engines).experts)
    return Preparer(experts, ImageLimits(), Statistics(experts), detector=detector)


def prepared(made: Preparer, face: Face | ImageSource) -> PreparedFace:
    (found,) = made.prepare([face])
    assert isinstance(found, PreparedFace), found
    return found


def aligned_view(face: PreparedFace) -> Pixels:
    return next(view for spec, view in face.views.items() if spec.geometry == ALIGN)


def test_given_landmarks_are_used_and_the_detector_is_not_asked(engines: Path) -> None:
    detector = Fixed()
    found = prepared(preparer(engines, detector), Face(astronaut(), BOX, landmarks=POINTS))
    assert np.array_equal(aligned_view(found), align(astronaut(), None, POINTS, 16, 16, ALIGN))
    assert found.notes == ()
    assert detector.shapes == []


def test_landmarks_suffice_where_the_box_is_unknown(engines: Path) -> None:
    face = Face(astronaut(), None, (100, 0, 300, 500), POINTS)
    made = preparer(engines)
    found = prepared(made, face)
    assert np.array_equal(aligned_view(found), align(astronaut(), None, POINTS, 16, 16, ALIGN))
    assert set(made.unseen(found)) == {"plain"}


def test_the_detector_is_asked_within_the_box(engines: Path) -> None:
    box: Box = (60, 50, 40, 60)
    own, near = shifted(10, 30), shifted(60, 30)
    detector = Fixed(
        Detection((95, 50, 40, 60), landmarks=near),
        Detection((62, 55, 40, 50), landmarks=own),
        Detection((60, 50, 40, 60), kind=PERSON, landmarks=near),
        Detection((70, 70, 10, 10)),
    )
    found = prepared(preparer(engines, lambda: detector), Face(numbered(), box))
    assert detector.shapes == [(120, 80)]  # with half of the box on each side
    assert np.array_equal(aligned_view(found), align(numbered(), None, own, 16, 16, ALIGN))
    assert found.notes == ()


def test_a_whole_picture_gets_the_landmarks_of_its_largest_face(engines: Path) -> None:
    small, large = shifted(0, 0), shifted(100, 60)
    detector = Fixed(
        Detection((60, 20, 30, 40), landmarks=small),
        Detection((150, 70, 60, 70), landmarks=large),
    )
    found = prepared(preparer(engines, detector), numbered())
    assert detector.shapes == [(154, 192)]
    wanted = moved_landmarks(large, lambda x, y: (x * 250 / 192, y * 200 / 154))
    assert np.array_equal(aligned_view(found), align(numbered(), None, wanted, 16, 16, ALIGN))


class Failing:
    provenance = "failing"

    def detect(self, image: Pixels) -> list[Detection]:
        raise RuntimeError(f"no {image.shape}")


SEARCHED: Box = (60.0, 50.0, 40.0, 60.0)
UNSEEN = "none were given and the detector finds none"
NOT_FOUND = "the detector finds no face there"


class BoxesOnly(Failing):
    finds_landmarks = False


@pytest.mark.parametrize(
    ("detector", "box", "reason"),
    [
        (None, SEARCHED, "none were given and there is no detector"),
        (None, None, "none were given and there is no detector"),
        (Fixed(), SEARCHED, NOT_FOUND),
        (Fixed(), None, NOT_FOUND),
        (Fixed(Detection((0, 0, 62, 52), landmarks=shifted(0, 0))), SEARCHED, NOT_FOUND),
        (Fixed(Detection(SEARCHED, kind=PERSON)), SEARCHED, NOT_FOUND),
        (Fixed(Detection(SEARCHED)), SEARCHED, UNSEEN),
        (Fixed(Detection(SEARCHED)), None, UNSEEN),
        (BoxesOnly(), SEARCHED, UNSEEN),
        (AnyWayUp(BoxesOnly(), 0.5), None, UNSEEN),
        (Failing(), SEARCHED, "the detector failed (RuntimeError: no (120, 80, 3))"),
        (Failing(), None, "the detector failed (RuntimeError: no (154, 192, 3))"),
    ],
)
def test_without_any_the_average_landmarks_are_used_and_noted(
    engines: Path, detector: Any, box: Box | None, reason: str
) -> None:
    found = prepared(preparer(engines, detector), Face(numbered(), box))
    wanted = mean_landmarks(box or (0.0, 0.0, 250.0, 200.0))
    assert np.array_equal(aligned_view(found), align(numbered(), None, wanted, 16, 16, ALIGN))
    (note,) = found.notes
    assert note.startswith("aligned: aligned by the average landmarks of a face, because ")
    assert note.endswith(reason)


def test_the_detector_is_asked_only_for_experts_that_align(tmp_path: Path) -> None:
    def never() -> Any:
        pytest.fail("no expert aligns faces")

    engines = write_engines(tmp_path, {"plain": Tiny(), "both": Tiny(inputs=("face", "person"))})
    assert prepared(preparer(engines, never), Face(astronaut(), BOX)).notes == ()


def test_a_person_without_a_face_is_not_searched(engines: Path) -> None:
    detector = Fixed()
    made = preparer(engines, detector)
    found = prepared(made, Face(numbered(), None, (0, 0, 100, 200)))
    assert detector.shapes == []
    assert found.notes == ()
    assert set(made.unseen(found)) == {"plain", "aligned"}


@pytest.mark.parametrize(
    ("face", "error"),
    [
        (Face(astronaut(), (0, 0, float("nan"), 5)), BoxError),
        (Face(astronaut(), (600, 0, 50, 50)), BoxError),
        (Face(astronaut(), BOX, landmarks=((1, 1),) * 5), LandmarkError),
        (Face(astronaut(), BOX, landmarks=POINTS[:3]), LandmarkError),  # type: ignore[arg-type]
    ],
)
def test_a_bad_face_is_its_own_error(engines: Path, face: Face, error: type[InputError]) -> None:
    bad, good = preparer(engines, Fixed()).prepare([face, Face(astronaut(), BOX)])
    assert isinstance(bad, error)
    assert isinstance(good, PreparedFace)


def test_the_search_returns_points_of_the_picture() -> None:
    own = shifted(10, 30)
    detector = Fixed(Detection((62, 55, 40, 50), landmarks=own))
    sought = LandmarkSearch(detector).find(numbered(), (60.4, 50.2, 39.0, 59.1))
    assert sought.reason == ""
    assert sought.face_found
    assert sought.face is not None
    assert sought.face.box == pytest.approx(detector.found[0].box)
    assert np.array(sought.landmarks) == pytest.approx(np.array(own))


def test_an_estimate_carries_the_note(engines: Path) -> None:
    with AgeMoE(engines, device="cpu") as moe:
        noted = moe.predict(Face(astronaut(), BOX))
        exact = moe.predict(Face(astronaut(), BOX, landmarks=POINTS))
        faces = [Face(astronaut(), BOX), Face(astronaut(), BOX, None, POINTS)]
        first, second = moe.predict(faces)
    assert first == noted
    assert second == exact
    assert exact.notes == ()
    assert noted.to_dict()["notes"] == list(noted.notes)
    assert "note: aligned: aligned by the average" in face_text("x.jpg", None, noted)
    assert "note" not in face_text("x.jpg", None, exact)
    assert noted.experts["plain"].age_years == exact.experts["plain"].age_years
    assert noted.experts["aligned"].age_years != exact.experts["aligned"].age_years


class Recorder:
    def __init__(self) -> None:
        self.faces: list[Face] = []

    def predict(self, faces: list[Face], *, deadline_ms: Any = None) -> list[Any]:
        del deadline_ms
        self.faces = faces
        return [AgeEstimate(30.0, {}) for _ in faces]


def test_landmarks_reach_the_results_of_a_photograph() -> None:
    moe = Recorder()
    detector = GivenBoxes([BOX, (0, 0, 50, 50)], landmarks=[POINTS, None])
    other, face = predict_photo(moe, astronaut(), detector=detector)
    assert face.landmarks == POINTS
    assert face.to_dict()["landmarks"] == [list(point) for point in POINTS]
    assert other.to_dict()["landmarks"] is None
    assert [face.landmarks for face in moe.faces] == [None, POINTS]


def test_given_landmarks_have_to_match_the_boxes() -> None:
    assert GivenBoxes([BOX]).detect(astronaut())[0].landmarks is None
    with pytest.raises(ValueError, match="2 sets of landmarks were given for 1 faces"):
        GivenBoxes([BOX], landmarks=[POINTS, POINTS])


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_turned_landmarks_mark_the_same_pixels(turn: int) -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    points = ((30, 40), (60, 41), (45, 60), (33, 80), (58, 82))
    for level, (x, y) in enumerate(points, 1):
        image[y, x] = level
    centers = landmarks_from(points)
    turned = turned_landmarks(centers, turn, 300, 200)
    view = turned_image(image, turn)
    assert [view[int(y), int(x), 0] for x, y in turned] == [1, 2, 3, 4, 5]
    height, width = view.shape[:2]
    assert turned_landmarks(turned, -turn, width, height) == centers


class Upright:
    """Finds the face of `astronaut` where its picture is upright."""

    provenance = "upright"

    def detect(self, image: Pixels) -> list[Detection]:
        found = np.array_equal(image, astronaut())
        return [Detection(BOX, 1.0, landmarks=POINTS)] if found else []


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_landmarks_of_a_face_on_its_side(turn: int) -> None:
    lying = turned_image(astronaut(), turn)
    (found,) = find_faces(lying, AnyWayUp(Upright(), 0.5))
    assert found.turn == -turn % 4
    assert found.landmarks == turned_landmarks(POINTS, turn, 512, 512)
    assert found.box == turned_box(BOX, turn, 512, 512)
    (face,) = faces_in(lying, [found])
    assert face.landmarks == POINTS
    assert face.box == BOX
    assert isinstance(face.image, np.ndarray)
    assert np.array_equal(face.image, astronaut())


def test_an_input_of_the_person_has_no_alignment() -> None:
    spec = InputSpec("person", 16, 16, ALIGN)
    assert list(spec.problems()) == [
        ("geometry.fit", "'align' is for faces, this input is the person")
    ]
    assert input_view(astronaut(), {"person": None}, InputSpec("face", 16, 16, ALIGN)) is None
