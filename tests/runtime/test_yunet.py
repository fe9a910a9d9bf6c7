"""YuNet: its detections, landmarks, sizes and model errors, on a made-up network."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runtime.detection import overlap
from runtime.detectors import YuNetDetector, detector_named, yunet
from runtime.errors import BackendError
from runtime.geometry import Pixels
from runtime.resizing import reduced
from tests.runtime.photo_samples import tiny_centerface, tiny_yunet


def test_yunet_runs_any_model_with_its_outputs(tmp_path: Path) -> None:
    model = tiny_yunet(tmp_path / "bright.onnx")
    image = np.zeros((96, 160, 3), np.uint8)
    image[32:40, 64:72] = 255
    (found,) = YuNetDetector(model, sha256=sha256(model).upper()).detect(image)
    assert overlap(found.box, (64, 32, 8, 8)) > 0.9
    assert found.score == pytest.approx(1.0, abs=0.01)
    assert YuNetDetector(model).detect(np.zeros((50, 70, 3), np.uint8)) == []


def test_yunet_gives_the_landmarks_of_the_picture(tmp_path: Path) -> None:
    image = np.zeros((96, 1280, 3), np.uint8)
    image[32:48, 640:656] = 255  # one 8×8 block at 640 pixels
    model = tiny_yunet(tmp_path / "bright.onnx")
    (found,) = YuNetDetector(model, longest_sides=[640]).detect(image)
    # point j is anchor + 8 times the model's values: (½, ½), (0, 0), (½, ½), (0, 0), (½, ½)
    wanted = [(648, 40), (640, 32), (648, 40), (640, 32), (648, 40)]
    assert np.array(found.landmarks) == pytest.approx(np.array(wanted), abs=0.1)


@pytest.mark.parametrize(
    ("white", "width", "searched"),
    [(255, 960, [640]), (0, 960, [640, 320]), (0, 480, [640, 320]), (0, 320, [640])],
)
def test_yunet_searches_again_at_320_pixels_if_it_found_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, white: int, width: int, searched: list[int]
) -> None:
    seen: list[int] = []

    def noted(image: Pixels, longest_side: int) -> tuple[Pixels, tuple[float, float]]:
        seen.append(longest_side)
        return reduced(image, longest_side)

    monkeypatch.setattr(yunet, "reduced", noted)
    image = np.zeros((96, width, 3), np.uint8)
    image[32:64, 64:96] = white
    found = YuNetDetector(tiny_yunet(tmp_path / "bright.onnx")).detect(image)
    assert seen == searched
    assert bool(found) == (white > 0)


def test_yunet_scales_boxes_back_to_the_original(tmp_path: Path) -> None:
    image = np.zeros((64, 1280, 3), np.uint8)
    image[32:48, 640:656] = 255
    (found,) = YuNetDetector(tiny_yunet(tmp_path / "bright.onnx")).detect(image)
    assert overlap(found.box, (640, 32, 16, 16)) > 0.9


def test_yunet_in_threads(tmp_path: Path) -> None:
    detector = YuNetDetector(tiny_yunet(tmp_path / "bright.onnx"))
    images = []
    for place in range(16):
        image = np.zeros((64 + 32 * (place % 3), 160, 3), np.uint8)
        image[32:40, 8 * place : 8 * place + 8] = 255
        images.append(image)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(detector.detect, images))
    assert [round(one.box[0]) for (one,) in found] == [8 * place for place in range(16)]


def test_a_yunet_model_with_another_sha256_is_rejected(tmp_path: Path) -> None:
    model = tiny_yunet(tmp_path / "bright.onnx")
    assert sha256(model) in detector_named(f"yunet:{model}#sha256={sha256(model)}").provenance
    with pytest.raises(BackendError, match=f"has SHA-256 {sha256(model)}, expected 00"):
        detector_named(f"yunet:{model}#sha256=00")


def test_a_bad_yunet_model_is_explained(tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"no model at all")
    with pytest.raises(BackendError, match=r"cannot load .*noise\.onnx as a YuNet model"):
        YuNetDetector(tmp_path / "noise.onnx")
    other = tiny_centerface(tmp_path / "other.onnx")
    with pytest.raises(BackendError, match=r"cannot load .*other\.onnx as a YuNet model"):
        YuNetDetector(other)
    with pytest.raises(BackendError, match=r"gone\.onnx cannot be read"):
        YuNetDetector(tmp_path / "gone.onnx")


def test_a_model_is_downloaded_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    downloads: list[tuple[str, str, str | None]] = []

    def download(repository: str, file: str, *, revision: str | None) -> str:
        downloads.append((repository, file, revision))
        return str(tiny_yunet(tmp_path / "hub.onnx"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    YuNetDetector("hf://some/where/deep/face.onnx@v2")
    YuNetDetector("hf://some/where/face.onnx")
    assert downloads == [("some/where", "deep/face.onnx", "v2"), ("some/where", "face.onnx", None)]
    with pytest.raises(BackendError, match="Expected hf://owner/repo/file"):
        YuNetDetector("hf://some/where")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
