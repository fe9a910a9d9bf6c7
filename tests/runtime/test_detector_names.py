"""Detectors by name: the engines folder's, given files, the cascade, and what is said of them."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime.detectors.names as names
from runtime import AgeMoE, DetectorFallbackWarning
from runtime.detectors import (
    CenterFaceDetector,
    default_detector,
    detector_named,
    parse_detector,
)
from runtime.detectors.names import DetectorName
from runtime.errors import BackendError, EngineFileError
from runtime.files import sha256_of
from runtime.geometry import Pixels
from runtime.manifest_file import read_manifest, write_manifest
from tests.runtime.photo_samples import tiny_centerface, tiny_yunet
from tests.runtime.tiny_engines import Tiny, add_detector, write_engines


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """An engines folder without a detector."""
    return write_engines(tmp_path / "engines", {"a": Tiny()})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_centerface(tmp_path / "colors.onnx")


def red_spot() -> Pixels:
    """A face for `tiny_centerface`."""
    image = np.zeros((64, 96, 3), np.uint8)
    image[32:36, 40:44] = 255, 128, 128
    return image


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("auto", DetectorName("auto")),
        ("haar", DetectorName("haar")),
        ("centerface", DetectorName("centerface")),
        ("centerface:a/b.onnx", DetectorName("centerface", "a/b.onnx")),
        ("centerface:b.onnx#sha256=00ff", DetectorName("centerface", "b.onnx", "00ff")),
        ("yunet:C:\\y.onnx", DetectorName("yunet", "C:\\y.onnx")),
        ("yunet:hf://o/r/f@v#sha256=1", DetectorName("yunet", "hf://o/r/f@v", "1")),
    ],
)
def test_names(name: str, parsed: DetectorName) -> None:
    assert parse_detector(name) == parsed


@pytest.mark.parametrize(
    "name",
    ["", "yunet", "yunet:", "haar:x", "haar:", "auto:x", "centerface:", "dlib", "yunet:#sha256=00"],
)
def test_unknown_names(name: str, engines: Path) -> None:
    for used in (parse_detector, lambda name: AgeMoE(engines, detector=name)):
        with pytest.raises(ValueError, match="A detector is auto, centerface, centerface:MODEL"):
            used(name)


def test_the_folders_detector_is_the_default(engines: Path, model: Path) -> None:
    add_detector(engines, model)
    (wanted,) = CenterFaceDetector(model).detect(red_spot())
    for name in ("auto", "centerface"):
        detector = detector_named(name, engines)
        assert list(detector.detect(red_spot())) == [wanted]
        assert f"centerface colors.onnx (sha256 {sha256_of(model)})" in detector.provenance
    with AgeMoE(engines) as moe:
        (face,) = moe.predict_photo(red_spot())
        assert face.box == wanted.box
        assert moe.detector.provenance == detector_named("auto", engines).provenance


def test_a_limit_on_threads_is_one_on_the_detectors(
    engines: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_detector(engines, model)
    used: list[int] = []

    def opened(*arguments: Any, threads: int, **options: Any) -> CenterFaceDetector:
        used.append(threads)
        return CenterFaceDetector(*arguments, threads=threads, **options)

    monkeypatch.setattr(names, "CenterFaceDetector", opened)
    monkeypatch.setattr(names, "usable_cores", lambda: 8)
    for limit in (None, 1):
        with AgeMoE(engines, threads=limit) as moe:
            assert moe.detector is moe.detector
    assert used == [2, 1]


def test_a_given_model(model: Path, tmp_path: Path) -> None:
    detector = detector_named(f"centerface:{model}#sha256={sha256_of(model)}")
    assert len(detector.detect(red_spot())) == 1
    assert "in quarter turns" in detector.provenance
    with pytest.raises(BackendError, match=r"The CenterFace model .* expected 00"):
        detector_named(f"centerface:{model}#sha256=00")
    yunet = tiny_yunet(tmp_path / "bright.onnx")
    assert "yunet bright.onnx" in detector_named(f"yunet:{yunet}").provenance


def test_without_a_detector_the_cascade_is_used_and_it_is_said(engines: Path) -> None:
    with pytest.warns(DetectorFallbackWarning, match="engines has no face detector: OpenCV's Haar"):
        assert detector_named("auto", engines) is default_detector()
    with pytest.warns(DetectorFallbackWarning, match="There is no engines folder"):
        assert detector_named("auto") is default_detector()
    assert detector_named("haar", engines) is default_detector()
    with pytest.raises(BackendError, match="has no face detector, and detector='centerface' needs"):
        detector_named("centerface", engines)


def test_the_cascade_is_said_once(engines: Path) -> None:
    with AgeMoE(engines) as moe, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert moe.predict_photo(red_spot()) == []
    assert [warning.category for warning in caught] == [DetectorFallbackWarning]


def test_it_is_opened_late_and_once(
    engines: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_detector(engines, model)
    opened: list[Path] = []

    class Counted(CenterFaceDetector):
        def __init__(self, model: Path, **options: Any) -> None:
            opened.append(model)
            super().__init__(model, **options)

    monkeypatch.setattr(names, "CenterFaceDetector", Counted)
    with AgeMoE(engines) as moe:
        moe.predict(red_spot())
        assert not opened
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(moe.predict_photo, [red_spot()] * 8))
        assert opened == [engines / "detector/colors.onnx"]
        assert len({faces[0].box for faces in found}) == 1


def test_predict_photo_takes_names_and_detectors(engines: Path, model: Path) -> None:
    with AgeMoE(engines, detector="haar") as moe:
        assert moe.detector is default_detector()
        assert moe.predict_photo(red_spot()) == []
        by_name = moe.predict_photo(red_spot(), detector=f"centerface:{model}")
        given = moe.predict_photo(red_spot(), detector=CenterFaceDetector(model))
        assert [face.box for face in by_name] == [face.box for face in given] != []
        with pytest.raises(ValueError, match="A detector is"):
            moe.predict_photo(red_spot(), detector="dlib")
    with AgeMoE(engines, detector=CenterFaceDetector(model)) as moe:
        assert len(moe.predict_photo(red_spot())) == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "colors.onnx of the face detector is missing"),
        (lambda path: path.write_bytes(b"short"), "has 5 bytes, the manifest lists"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
            "is not the file that was built",
        ),
    ],
)
def test_a_damaged_detector_is_an_error(
    engines: Path, model: Path, damage: object, message: str
) -> None:
    path = add_detector(engines, model)
    assert callable(damage)
    damage(path)
    with AgeMoE(engines) as moe:
        with pytest.raises(EngineFileError, match=message):
            moe.predict_photo(red_spot())
        assert moe.predict_photo(red_spot(), detector="haar") == []
        assert moe.predict(red_spot()).age_years > 0


def test_a_detector_of_an_unknown_kind(engines: Path, model: Path) -> None:
    add_detector(engines, model, "retinaface")
    with pytest.raises(EngineFileError, match=r"unknown kind 'retinaface'\. Update agemoe-runtime"):
        detector_named("auto", engines)


def test_a_detector_that_is_no_centerface(engines: Path, tmp_path: Path) -> None:
    add_detector(engines, tiny_yunet(tmp_path / "bright.onnx"))
    with pytest.raises(BackendError, match="is no CenterFace model"):
        detector_named("auto", engines)
    manifest = read_manifest(engines)
    write_manifest(engines, replace(manifest, detector=None))
    with pytest.warns(DetectorFallbackWarning):
        detector_named("auto", engines)
