"""The shipped presets: valid, pinned, and right for files of the published inputs and outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage.data import astronaut

from export.build.experts_file import DEFAULT_EXPERTS, PRESETS, read_configuration
from export.build.options import BuildOptions, resolve_options
from export.build.pipeline import build
from export.checkpoints.sources import is_remote, location_problem
from export.config.architecture import ExpertConfig
from export.config.detector import DetectorConfig
from export.experts.registry import ARCHITECTURES
from runtime import AgeMoE, Face
from runtime.geometry import FITS
from tests.export.onnx_files import write_classifier
from tests.export.test_pipeline import Quiet

NINE = {"race_output": 7, "gender_output": 2, "age_output": 9}
MIDDLES = np.array([1, 6, 14.5, 24.5, 34.5, 44.5, 54.5, 64.5, 75])
merged = pytest.mark.skipif(
    "align" not in FITS or "faceapi" not in ARCHITECTURES, reason="needs alignment and face-api"
)


@pytest.mark.parametrize("name", ["agemoe", pytest.param("public", marks=merged), "published"])
def test_presets_are_valid(name: str) -> None:
    problems: list[str] = []
    found = read_configuration(Path(name), problems)
    assert not problems
    assert found.experts
    for expert in found.experts.values():
        assert expert.checkpoint is None or location_problem(expert.checkpoint) is None


@pytest.mark.parametrize("name", ["public", "published"])
def test_everything_in_a_preset_is_fetched_has_a_license_and_a_pin(name: str) -> None:
    found = read_configuration(Path(name), [])
    assert found.detector is not None
    sources: dict[str, ExpertConfig | DetectorConfig] = {**found.experts}
    for source, one in {**sources, "detector": found.detector}.items():
        assert one.checkpoint is not None
        assert is_remote(one.checkpoint)
        assert one.license
        assert one.sha256 or source == "fairface_vit"  # none is known


def test_the_large_experts_of_published_are_the_built_in_ones() -> None:
    """Which the tests of MiVOLO and Janus build from folders of the published layout."""
    published = read_configuration(Path("published"), []).experts
    built_in = read_configuration(DEFAULT_EXPERTS, []).experts
    for name in ("mivolo", "janus"):
        assert published[name].described() == built_in[name].described()


def test_single_experts_are_picked(tmp_path: Path) -> None:
    options = resolve_options(output=tmp_path, experts_file=Path("published"), only=["mivolo"])
    (expert,) = options.experts
    assert expert.checkpoint is not None
    assert expert.checkpoint.startswith("hf://iitolstykh/mivolo_v2@5339")
    assert options.partial
    assert options.detector is not None


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """uint8 RGB (224, 224, 3)."""
    picture = np.asarray(astronaut(), np.uint8)[20:200, 150:330]  # type: ignore[no-untyped-call]
    return np.asarray(Image.fromarray(picture).resize((224, 224)), np.uint8)


def run(path: Path, pixels: np.ndarray, output: str) -> NDArray[np.float64]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run([output], {"pixels": pixels.transpose(2, 0, 1)[None]})
    return np.asarray(found[0], np.float64)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers: np.ndarray = np.exp(logits - logits.max())
    whole: np.ndarray = powers / powers.sum()
    return whole


def built_age(name: str, path: Path, tmp_path: Path, portrait: np.ndarray) -> float:
    """Builds an expert of the preset from a made-up file and returns its age."""
    expert = read_configuration(Path("published"), []).experts[name]
    given = replace(expert, checkpoint=str(path), sha256=None)
    build(BuildOptions((given,), "checkpoint", tmp_path / "engines"), Quiet())
    with AgeMoE(tmp_path / "engines") as moe:
        return moe.predict(Face(portrait)).experts[name].age_years


def test_dex_of_the_onnx_model_zoo(tmp_path: Path, portrait: np.ndarray) -> None:
    path = write_classifier(
        tmp_path / "dex.onnx", {"prob": 101}, opset=11, softmax=True, spread=0.02
    )
    bgr = portrait[..., ::-1].astype(np.float32)  # 0..255
    wanted = run(path, bgr, "prob") @ np.arange(101)
    assert built_age("vgg16", path, tmp_path, portrait) == pytest.approx(wanted, abs=1e-3)


def test_fairface_vit(tmp_path: Path, portrait: np.ndarray) -> None:
    path = write_classifier(tmp_path / "vit.onnx", {"logits": 9}, batch="batch_size", side="side")
    pixels = (portrait / np.float32(255.0) - np.float32(0.5)) / np.float32(0.5)
    wanted = softmax(run(path, pixels, "logits")) @ MIDDLES
    assert built_age("fairface_vit", path, tmp_path, portrait) == pytest.approx(wanted, abs=1e-3)


def test_fairface_resnet34(tmp_path: Path, portrait: np.ndarray) -> None:
    path = write_classifier(tmp_path / "resnet34.onnx", NINE, batch="batch_size", opset=17)
    mean, std = (np.array(v, np.float32) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    pixels = (portrait / np.float32(255.0) - mean) / std
    wanted = softmax(run(path, pixels, "age_output")) @ MIDDLES
    age = built_age("fairface_resnet34", path, tmp_path, portrait)
    assert age == pytest.approx(wanted, abs=1e-3)


def test_every_preset_but_the_authors_own_is_named_in_the_documentation() -> None:
    page = (PRESETS.parents[1] / "docs" / "weights.md").read_text(encoding="utf-8")
    for name in ("public", "published"):
        for expert in read_configuration(Path(name), []).experts:
            assert f"`{expert}`" in page
