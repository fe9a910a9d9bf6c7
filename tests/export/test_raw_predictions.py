"""Raw predictions for labeled pictures: what is kept, what is left out, what is predicted again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export.calibration.csv_tables import LabelsError
from export.calibration.finding import Finder
from export.calibration.labeled_predictions import LabeledPredictions, read_predictions
from export.calibration.labels import LabeledFace
from export.calibration.raw_predictions import PREDICTIONS_NAME, predict_faces
from runtime.errors import AgeMoEError, ImageError
from runtime.places import Place
from runtime.results import AgeEstimate, ExpertAge, Face


class FakeMoE:
    """Predicts 10 and 20 for every picture, except empty ones; counts the faces it gets."""

    experts = ("a", "b")

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, faces: list[Face]) -> list[AgeEstimate | AgeMoEError]:
        self.calls += len(faces)
        return [self._one(face) for face in faces]

    def _one(self, face: Face) -> AgeEstimate | AgeMoEError:
        content = Path(str(face.image)).read_bytes()
        if not content:
            return ImageError("empty")
        a, b = (ExpertAge(age, age, 0.5) for age in (10.0, 20.0))
        late = content == b"late"
        return AgeEstimate(
            15.0,
            {"a": a} if late else {"a": a, "b": b},
            {"b": "late"} if late else {},
            notes=("average landmarks",) if content == b"y" else (),
        )


def predicted(
    moe: FakeMoE, faces: list[LabeledFace], cache: Path, files: str = ""
) -> LabeledPredictions:
    """Of pictures that are one face each."""
    return predict_faces(moe, faces, Finder(None), cache, {"files": files})


def labeled(folder: Path, **contents: bytes) -> list[LabeledFace]:
    faces = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        faces.append(LabeledFace(folder / name, name, 30.0, f"subject {name}", {"sex": "f"}))
    return faces


def test_unusable_pictures_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faces = labeled(tmp_path, one=b"x", empty=b"", two=b"y", slow=b"late")
    found = predicted(FakeMoE(), faces, tmp_path)
    read = read_predictions(tmp_path / PREDICTIONS_NAME, ["a", "b"], ["sex"], varied=False)
    for result in (found, read):
        assert result.age_years.tolist() == [30.0, 30.0]
        assert result.predictions_years.tolist() == [[10.0, 20.0], [10.0, 20.0]]
        assert result.subjects is not None
        assert result.subjects.tolist() == ["subject one", "subject two"]
        assert result.groups["sex"].tolist() == ["f", "f"]
    assert "1 of 2 faces: average landmarks" in caplog.text
    assert "2 of 4 faces are left out: empty: empty; slow: b: late" in caplog.text


def test_an_interrupted_run_resumes_and_a_finished_one_predicts_nothing(tmp_path: Path) -> None:
    faces = labeled(tmp_path, one=b"x", two=b"y", three=b"z")
    predicted(FakeMoE(), faces[:2], tmp_path)
    (log,) = tmp_path.glob("raw_predictions-*.jsonl")
    log.write_bytes(log.read_bytes()[:-7])  # a crash in the middle of a line
    second = FakeMoE()
    predicted(second, faces, tmp_path)
    assert second.calls == 2
    third = FakeMoE()
    predicted(third, faces, tmp_path)
    assert third.calls == 0


def test_other_files_of_experts_and_changed_pictures_are_predicted_again(tmp_path: Path) -> None:
    faces = labeled(tmp_path, one=b"x", two=b"y")
    predicted(FakeMoE(), faces, tmp_path, files="1")
    for files, calls in (("2", 2), ("1", 0), ("2", 0)):  # logs of several settings stay
        moe = FakeMoE()
        predicted(moe, faces, tmp_path, files=files)
        assert moe.calls == calls
    (tmp_path / "one").write_bytes(b"longer")
    changed = FakeMoE()
    predicted(changed, faces, tmp_path, files="2")
    assert changed.calls == 1


def test_another_position_of_the_face_is_predicted_again(tmp_path: Path) -> None:
    faces = labeled(tmp_path, one=b"x", two=b"y")
    predicted(FakeMoE(), faces, tmp_path)
    moved = [replace(faces[0], place=Place((1.0, 1.0, 5.0, 5.0))), faces[1]]
    moe = FakeMoE()
    predicted(moe, moved, tmp_path)
    assert moe.calls == 1


def test_no_usable_picture_is_an_error(tmp_path: Path) -> None:
    faces = labeled(tmp_path, empty=b"")
    with pytest.raises(LabelsError, match="no face has a prediction of every expert"):
        predicted(FakeMoE(), faces, tmp_path)
    assert not (tmp_path / PREDICTIONS_NAME).exists()


def test_a_label_named_like_an_expert_is_refused_before_any_prediction(tmp_path: Path) -> None:
    faces = [replace(face, groups={"b": "1"}) for face in labeled(tmp_path, one=b"x")]
    moe = FakeMoE()
    with pytest.raises(LabelsError, match="the label 'b' is also the name of an expert"):
        predicted(moe, faces, tmp_path)
    assert moe.calls == 0
