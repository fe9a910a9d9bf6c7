"""Labeled faces in photographs: given positions, and faces found by a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import calibrate
from export.calibration import inputs, raw_predictions
from export.calibration.csv_tables import LabelsError
from export.calibration.finding import NO_FACE, Finder, detector_of
from export.calibration.labels import LabeledFace, read_faces
from export.calibration.origin import warn_of_detector
from export.errors import OptionsError
from runtime.alignment import mean_landmarks
from runtime.columns import LANDMARKS
from runtime.detection import PERSON, Detection
from runtime.fusion import FusionTables
from runtime.fusion_file import FILE_NAME, read_fusion
from runtime.geometry import Geometry, Pixels
from runtime.places import Place
from runtime.results import Box, Face
from runtime.startup import WHOLE
from tests.export.calibration_examples import fewer_splits
from tests.runtime.tiny_engines import Tiny, write_engines


class Fake:
    """Finds given boxes in every picture but black ones."""

    provenance = "fake 1"

    def __init__(self, *faces: Box, persons: Sequence[Box] = (), turn: int = 0) -> None:
        self.faces, self.persons, self.turn = faces, persons, turn

    def detect(self, image: Pixels) -> list[Detection]:
        if not image.any():
            return []
        persons = [Detection(box, kind=PERSON) for box in self.persons]
        return [*(Detection(box, turn=self.turn) for box in self.faces), *persons]


class Failing:
    provenance = "failing"

    def detect(self, image: Pixels) -> list[Detection]:
        del image
        raise RuntimeError("out of order")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """40 wide, 30 high; the upper left quarter is brighter."""
    pixels = np.full((30, 40, 3), 50, np.uint8)
    pixels[:15, :20] = 200
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def labeled(path: Path, place: Place | None = None) -> LabeledFace:
    return LabeledFace(path, path.name, 30.0, place=place or Place())


def face_of(finder: Finder, face: LabeledFace) -> Face:
    found = finder.face(face)
    assert isinstance(found, Face), found
    return found


def test_the_largest_face_is_taken_by_what_is_visible_of_it(photo: Path) -> None:
    detector = Fake((2, 2, 8, 8), (10, 5, 12, 12), (35, 5, 30, 30))
    assert face_of(Finder(detector), labeled(photo)).box == (10, 5, 12, 12)


def test_of_equal_faces_the_leftmost_is_taken(photo: Path) -> None:
    assert face_of(Finder(Fake((20, 5, 8, 8), (3, 9, 8, 8))), labeled(photo)).box == (3, 9, 8, 8)


def test_a_found_person_is_given_to_its_face(photo: Path) -> None:
    detector = Fake((10, 2, 8, 8), persons=[(5, 0, 20, 30)])
    assert face_of(Finder(detector), labeled(photo)).person_box == (5, 0, 20, 30)


def test_a_turned_face_is_turned_upright(photo: Path) -> None:
    face = face_of(Finder(Fake((2, 4, 8, 6), turn=1)), labeled(photo))
    assert isinstance(face.image, np.ndarray)
    assert face.image.shape == (40, 30, 3)
    assert face.box == (4, 30, 6, 8)  # NumPy's rot90 takes (x, y) to (y, 40 - x - w)


def test_a_given_box_is_taken_and_nothing_is_detected(photo: Path) -> None:
    points = tuple((float(n), float(n)) for n in range(5))
    place = Place((1, 2, 3, 4), (0, 0, 9, 9), points)  # type: ignore[arg-type]
    found = face_of(Finder(Failing()), labeled(photo, place))
    assert found == Face(photo, (1, 2, 3, 4), (0, 0, 9, 9), points)  # type: ignore[arg-type]


def test_a_given_box_of_a_turned_face(photo: Path) -> None:
    found = face_of(Finder(None), labeled(photo, Place((2, 4, 8, 6), turn=1)))
    assert found.box == (4, 30, 6, 8)


def test_a_given_person_selects_the_face_that_belongs_to_it(photo: Path) -> None:
    detector = Fake((2, 2, 9, 9), (25, 2, 6, 6))
    right = Place(person_box=(22, 0, 15, 30))
    assert face_of(Finder(detector), labeled(photo, right)).box == (25, 2, 6, 6)
    nobody = Place(person_box=(12, 20, 4, 8))
    assert Finder(detector).face(labeled(photo, nobody)) == NO_FACE


def test_whole_pictures_are_faces(photo: Path) -> None:
    assert Finder(None).face(labeled(photo)) == Face(photo)
    assert Finder(None).provenance == WHOLE


def test_a_bad_picture_or_detector_gives_a_reason(photo: Path, tmp_path: Path) -> None:
    assert "out of order" in str(Finder(Failing()).face(labeled(photo)))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    assert isinstance(Finder(Fake()).face(labeled(tmp_path / "bad.jpg")), str)


def test_names_of_detectors(tmp_path: Path) -> None:
    assert detector_of("haar", tmp_path).provenance.startswith("haar")
    with pytest.raises(OptionsError, match="A detector is"):
        detector_of("eyes", tmp_path)


def table(folder: Path, text: str) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), (90, 90, 90)).save(folder / name)
    path = folder / "faces.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_positions_are_read_as_label_writes_them(tmp_path: Path) -> None:
    header = f"path,age,x,y,w,h,turn,{','.join(LANDMARKS)},person_x,person_y,person_w,person_h"
    points = ",".join(str(number) for number in range(1, 11))
    source = table(
        tmp_path, f"{header}\na.png,20,1,2,3,4,3,{points},0,0,9,8.5\nb.png,30{',' * 19}\n"
    )
    first, second = read_faces(source)
    landmarks = ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0), (7.0, 8.0), (9.0, 10.0))
    assert first.place == Place((1, 2, 3, 4), (0, 0, 9, 8.5), landmarks, 3)
    assert second.place == Place()


def test_positions_are_read_as_mivolo_writes_them(tmp_path: Path) -> None:
    corners = ",".join(f"{box}_{c}" for box in ("face", "person") for c in ("x0", "y0", "x1", "y1"))
    source = table(
        tmp_path,
        f"img_name,age,gender,{corners}\n"
        "a.png,20,F,1,2,11,22,0,0,30,30\n"
        "a.png,60,M,15,2,25,12,-1,-1,-1,-1\n"
        "b.png,30,F,-1,-1,-1,-1,5,5,20,25\n",
    )
    faces = read_faces(source, columns={"path": "img_name"}, groups=["gender"])
    assert [face.place for face in faces] == [
        Place((1, 2, 10, 20), (0, 0, 30, 30)),
        Place((15, 2, 10, 10)),
        Place(None, (5, 5, 15, 20)),
    ]
    assert [face.name for face in faces] == ["a.png 1 2 10 20", "a.png 15 2 10 10", "b.png"]
    assert [face.groups["gender"] for face in faces] == ["F", "M", "F"]


def test_all_problems_of_positions_are_listed(tmp_path: Path) -> None:
    source = table(tmp_path, "image,age,x,y,w,h,turn\na.png,20,1,,3,4,\nb.png,20,1,2,0,4,5\n")
    with pytest.raises(LabelsError) as caught:
        read_faces(source)
    assert caught.value.problems == (
        "row 2: x, y, w, h must be numbers, or all empty; got 1, , 3, 4",
        "row 3: the box in x, y, w, h is 0 wide and 4 high",
        "row 3: turn must be 0, 1, 2 or 3, got '5'",
    )
    source = table(tmp_path, "image,age,x,y,w\na.png,20,1,2,3\n")
    with pytest.raises(LabelsError, match="of the columns x, y, w, h, h are missing"):
        read_faces(source)
    header = ",".join(("image", "age", *LANDMARKS))
    source = table(tmp_path, f"{header}\na.png,20{',1' * 10}\n")
    with pytest.raises(LabelsError, match="row 2: has landmarks and no box"):
        read_faces(source)


def photographs(folder: Path, count: int, black: int = 0) -> Path:
    """Photographs with a face of the age's brightness at (10, 5, 20, 20); the first are black."""
    folder.mkdir()
    rng = np.random.default_rng(4)
    rows = ["image,age,source,city"]
    for number in range(count):
        age = int(rng.integers(5, 80))
        pixels = np.full((30, 40, 3), 255, np.uint8)
        pixels[5:25, 10:30] = round(min(age + abs(rng.normal(0, 3)), 99) * 2.55)
        if number < black:
            pixels[:] = 0
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(
            f"{number}.png,{age},{'even' if number % 2 else 'odd'},{'Ulm' * (number % 3 > 0)}"
        )
    (folder / "faces.csv").write_text("\n".join(rows))
    return folder / "faces.csv"


def command(tmp_path: Path, faces: Path) -> list[str]:
    engines = tmp_path / "engines"
    engines.mkdir()
    write_engines(engines, {"a": Tiny(), "b": Tiny(slope=60.0)})
    options = ["--faces", str(faces), "--engines", str(engines), "--output", str(tmp_path / "out")]
    cache = ["--cache", str(tmp_path / "cache"), "--form", "tables", "--bootstrap", "100"]
    return [*options, *cache, "--groups", "city"]


def test_calibrate_looks_for_the_face_and_records_the_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    detector = Fake((10, 5, 20, 20), (0, 0, 5, 5))
    monkeypatch.setattr(inputs, "detector_of", lambda _name, _engines: detector)
    arguments = command(tmp_path, photographs(tmp_path / "photos", 80, black=8))
    with fewer_splits():
        assert calibrate.main(arguments) == 0
    assert "No face was found in 8 of 80 photographs, which are left out." in caplog.text
    tables = read_fusion(tmp_path / "out" / FILE_NAME)
    assert tables.detector == "fake 1"
    assert tables.provenance["faces"] == 72
    # The raw predictions are those of the face, not of the white picture around it.
    lines = (tmp_path / "cache" / raw_predictions.PREDICTIONS_NAME).read_text().splitlines()
    assert lines[0].startswith(
        "id,age,source,city,age_a,age_b,quality_face_pixels,quality_sharpness,"
    )
    ages = np.array([[float(row.split(",")[column]) for column in (1, 4)] for row in lines[1:]])
    assert np.abs(ages[:, 0] - ages[:, 1]).max() < 15.0
    page = (tmp_path / "out" / "report.md").read_text()
    assert "Faces found by the detector fake, whose settings" in page
    assert "| even |" in page


def test_many_photographs_without_a_face_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = Fake((10, 5, 20, 20))
    monkeypatch.setattr(inputs, "detector_of", lambda _name, _engines: detector)
    arguments = command(tmp_path, photographs(tmp_path / "photos", 40, black=9))
    assert calibrate.main(arguments) == 2
    error = capsys.readouterr().err
    assert "no face was found in 9 of 40 photographs, more than 20%" in error
    assert "The detector was fake 1. Use another --detector" in error
    assert not (tmp_path / "out").exists()


def test_given_boxes_need_no_detector_and_record_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Fake:
        raise AssertionError

    monkeypatch.setattr(inputs, "detector_of", refuse)
    source = photographs(tmp_path / "photos", 60)
    lines = source.read_text().splitlines()
    boxed = [f"{lines[0]},x,y,w,h", *(f"{line},10,5,20,20" for line in lines[1:])]
    source.write_text("\n".join(boxed))
    with fewer_splits():
        assert calibrate.main(command(tmp_path, source)) == 0
    assert read_fusion(tmp_path / "out" / FILE_NAME).detector is None


def test_missing_landmarks_in_given_boxes_are_found_by_the_named_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Marked(Fake):
        """Its landmarks are those of a smaller face within the box."""

        def detect(self, image: Pixels) -> list[Detection]:
            marks = mean_landmarks((17, 12, 6, 6))
            return [replace(face, landmarks=marks) for face in super().detect(image)]

    marked, plain = Marked((10, 5, 20, 20)), Fake((10, 5, 20, 20))
    marked.provenance = "marked 1"
    named = {"marked": marked, "plain": plain}
    monkeypatch.setattr(inputs, "detector_of", lambda name, _engines: named[name])
    source = photographs(tmp_path / "photos", 60)
    lines = source.read_text().splitlines()
    boxed = [f"{lines[0]},x,y,w,h", *(f"{line},10,5,20,20" for line in lines[1:])]
    source.write_text("\n".join(boxed))
    arguments = command(tmp_path, source)
    template = mean_landmarks((4, 4, 8, 8))  # shows the box, and half of it on each side
    aligned = Geometry(fit="align", interpolation="opencv_bilinear", template=template)
    write_engines(tmp_path / "engines", {"a": Tiny(side=16, geometry=aligned), "b": Tiny()})
    errors = {}
    for name in named:
        with fewer_splits():
            assert calibrate.main([*arguments, "--detector", name]) == 0
        table = (tmp_path / "cache" / raw_predictions.PREDICTIONS_NAME).read_text().splitlines()
        column = table[0].split(",").index("age_a")
        ages = np.array([[float(row.split(",")[i]) for i in (1, column)] for row in table[1:]])
        errors[name] = np.abs(ages[:, 0] - ages[:, 1]).mean()
    assert errors["marked"] < 5.0  # nothing of the white around the face
    assert errors["plain"] > 10.0


def test_other_faces_than_the_tables_were_fitted_on_warn(caplog: pytest.LogCaptureFixture) -> None:
    fitted = replace(FusionTables.identity(["a"]), detector="haar on OpenCV 4.1")
    warn_of_detector(fitted, "haar on OpenCV 5.0")
    warn_of_detector(fitted, None)
    warn_of_detector(FusionTables.identity(["a"]), WHOLE)
    assert not caplog.messages
    warn_of_detector(fitted, WHOLE)
    assert "fitted on faces found by another detector (haar on OpenCV 4.1)" in caplog.text
    assert WHOLE in caplog.text
