"""A fusion knows the detector whose faces it was calibrated on; predicting with another warns."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import AgeMoE, Detection, DetectorWarning, Face, GivenBoxes, Policy
from runtime.doctor import examine
from runtime.fusion_file import write_fusion
from runtime.geometry import Pixels
from runtime.labeling import LabelJob
from runtime.startup import WHOLE, WHOLE_NOTE
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.tiny_engines import SHA, Tiny, write_engines

FITTED = "haar (sha256 1) of OpenCV 4.1.0, windows 6"
PICTURE = np.full((12, 12, 3), 102, np.uint8)


class Fake:
    """Finds the whole picture."""

    def __init__(self, provenance: str) -> None:
        self.provenance = provenance

    def detect(self, image: Pixels) -> list[Detection]:
        return [Detection((0.0, 0.0, float(image.shape[1]), float(image.shape[0])))]


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    write_engines(tmp_path, {"a": Tiny()})
    tables = pivot_tables({"a": Row(source_sha256=SHA)})
    write_fusion(tmp_path / "fusion.json", replace(tables, detector=FITTED))
    return tmp_path


def test_another_detector_warns_once_and_names_both(engines: Path) -> None:
    other = Fake("yunet (sha256 2) on OpenCV 4.1.0")
    with AgeMoE(engines) as moe, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moe.predict_photo(PICTURE, detector=other)
        moe.predict_photo(PICTURE, detector=other)
    assert [found.category for found in caught] == [DetectorWarning]
    assert FITTED in str(caught[0].message)
    assert other.provenance in str(caught[0].message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "detector",
    [
        Fake(FITTED),
        Fake("haar (sha256 1) of OpenCV 5.0.2-dev, windows 6"),
        GivenBoxes([(0, 0, 5, 5)]),
    ],
    ids=["the same", "another version of a library", "boxes of the caller"],
)
def test_the_same_detector_does_not_warn(engines: Path, detector: Fake | GivenBoxes) -> None:
    with AgeMoE(engines) as moe, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(moe.predict_photo(PICTURE, detector=detector)) == 1


def test_a_whole_picture_as_a_face_warns_once(engines: Path, tmp_path: Path) -> None:
    with AgeMoE(engines) as moe, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moe.predict(Face(PICTURE, (0, 0, 12, 12)))
        assert not caught
        moe.predict(PICTURE)
        moe.predict([Face(PICTURE)])
    assert [found.category for found in caught] == [DetectorWarning]
    assert caught[0].filename == __file__
    assert WHOLE in str(caught[0].message)
    assert "python -m runtime calibrate --whole" in str(caught[0].message)
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    job = LabelJob(str(engines), "whole")
    with pytest.warns(DetectorWarning, match=WHOLE), job.opened() as labeler:
        assert labeler.label([str(tmp_path / "a.png")])
    tables = pivot_tables({"a": Row(source_sha256=SHA)})
    write_fusion(engines / "fusion.json", replace(tables, detector=WHOLE))
    with AgeMoE(engines) as moe:
        moe.predict(PICTURE)
        with pytest.warns(DetectorWarning, match="Use that detector"):
            moe.predict_photo(PICTURE, detector=Fake("any"))


def test_a_fusion_without_a_known_detector_fits_all(engines: Path) -> None:
    write_fusion(engines / "fusion.json", pivot_tables({"a": Row()}))
    with AgeMoE(engines) as moe, warnings.catch_warnings():
        warnings.simplefilter("error")
        moe.predict_photo(PICTURE, detector=Fake("any"))


def test_bulk_labeling_warns_too(engines: Path, tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    job = LabelJob(str(engines), detector="haar")
    with pytest.warns(DetectorWarning, match="another detector"), job.opened() as labeler:
        assert labeler.label([str(tmp_path / "a.png")])


def test_doctor_tells_the_detector(engines: Path) -> None:
    found = {finding.topic: finding.text for finding in examine(engines)}
    assert f"on faces found by {FITTED}" in found["fusion"]


def test_whole_pictures_are_noted_so_that_a_policy_refers(engines: Path) -> None:
    policy = Policy(challenge=25.0, uncalibrated=True)
    with AgeMoE(engines) as moe, warnings.catch_warnings():
        warnings.simplefilter("ignore", DetectorWarning)
        whole, given = moe.predict(PICTURE), moe.predict(Face(PICTURE, (0, 0, 12, 12)))
        person = moe.predict_person([PICTURE, PICTURE])
    assert whole.age_years == given.age_years >= 25.0
    assert (whole.notes, given.notes) == ((WHOLE_NOTE,), ())
    assert policy.decide(given).outcome == "pass"
    for result in (whole, person):
        decision = policy.decide(result)
        assert (decision.outcome, decision.reasons[0].code) == ("refer", "noted")


def test_whole_pictures_are_not_noted_where_the_fusion_was_calibrated_on_them(
    engines: Path,
) -> None:
    tables = pivot_tables({"a": Row(source_sha256=SHA)})
    for detector in (WHOLE, None):
        write_fusion(engines / "fusion.json", replace(tables, detector=detector))
        with AgeMoE(engines) as moe:
            assert moe.predict(PICTURE).notes == ()
