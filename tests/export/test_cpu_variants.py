"""`--bf16` and `--int8` through the whole pipeline and the runtime, on OpenVINO."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from export import build_engines
from export.build import parity
from export.build.differences import Tolerance
from export.build.options import BuildOptions, resolve_options
from export.build.parity import OPENVINO_TOLERANCE
from export.build.pipeline import build
from export.build.plan import plan
from export.config.fingerprints import tool_versions
from export.errors import OptionsError
from runtime import AgeMoE, BackendError
from runtime.backends.openvino_graph import has_bfloat16, has_exact_int8
from runtime.manifest import Artifact
from runtime.manifest_file import read_manifest
from tests.export.small import experts_toml, small_module, write_checkpoint
from tests.export.test_pipeline import Quiet, names_built

needs_vnni = pytest.mark.skipif(not has_exact_int8(), reason="this CPU has no VNNI")
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(), reason="this CPU has no bfloat16 products")


def _options(folder: Path, **changes: object) -> BuildOptions:
    if not (folder / "experts.toml").exists():
        write_checkpoint(folder / "vgg16.safetensors", small_module("vgg16"))
        experts_toml(folder, vgg16="vgg16.safetensors")
    return resolve_options(
        output=folder / "engines",
        experts_file=folder / "experts.toml",
        **changes,  # type: ignore[arg-type]
    )


def _variants(folder: Path) -> dict[str, Artifact]:
    artifacts = read_manifest(folder / "engines").experts["vgg16"].artifacts
    return {artifact.precision: artifact for artifact in artifacts}


def _check_variant(folder: Path, variant: Artifact, backend: str) -> None:
    assert variant.backend == "openvino"
    assert 0.0 < variant.reduced_share <= 1.0
    assert variant.parity is not None
    assert 0.0 < variant.parity.mean_years <= OPENVINO_TOLERANCE.mean_years
    assert variant.parity.max_years <= OPENVINO_TOLERANCE.max_years
    face = np.random.default_rng(0).integers(0, 256, (80, 70, 3), np.uint8)
    with AgeMoE(folder / "engines", device="cpu", precision=variant.precision) as moe:
        assert moe.backends == {"vgg16": backend}
        found = moe.predict(face).age_years
    with AgeMoE(folder / "engines") as moe:  # FP32, although another variant exists
        assert moe.backends == {"vgg16": "onnx-cpu"}
        assert found == pytest.approx(moe.predict(face).age_years, abs=1.5)


@needs_vnni
def test_int8_from_a_checkpoint_to_an_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(_options(tmp_path, int8=True), Quiet())
    variant = _variants(tmp_path)["int8"]
    assert [file.path for file in variant.files] == ["vgg16/vgg16.int8.onnx"]
    _check_variant(tmp_path, variant, "openvino-cpu")
    assert names_built(build(_options(tmp_path, int8=True), Quiet())) == []

    versions = {**tool_versions(), "openvino": "2031.1"}
    monkeypatch.setattr("export.build.keys.tool_versions", lambda: versions)
    reasons = {planned.path: planned.reason for planned in plan(_options(tmp_path, int8=True))}
    assert reasons == {
        "vgg16/vgg16.fp32.onnx": "",
        "vgg16/vgg16.int8.onnx": "changed: tools",
    }


@needs_bfloat16
def test_bf16_from_a_checkpoint_to_an_age(tmp_path: Path) -> None:
    build(_options(tmp_path, bf16=True), Quiet())
    variant = _variants(tmp_path)["bf16"]
    names = [file.path for file in variant.files]
    assert names == ["vgg16/vgg16.bf16.xml", "vgg16/vgg16.bf16.bin"]
    _check_variant(tmp_path, variant, "openvino-cpu-bf16")
    assert names_built(build(_options(tmp_path, bf16=True), Quiet())) == []


@needs_vnni
def test_a_variant_out_of_tolerance_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(_options(tmp_path), Quiet())
    monkeypatch.setattr(parity, "OPENVINO_TOLERANCE", Tolerance(0.0, 0.0, 0.0))
    (row,) = build(_options(tmp_path, fp16=True, int8=True), Quiet()).rows
    (reason,) = row.refused
    assert re.search(r"int8 variant of 'vgg16' differs .* without --int8", reason)
    assert set(_variants(tmp_path)) == {"fp32", "fp16"}  # the others are there
    names = {path.name for path in (tmp_path / "engines" / "vgg16").iterdir()}
    assert names == {"vgg16.fp32.onnx", "vgg16.fp16.onnx"}


@needs_vnni
def test_a_refused_variant_is_an_error_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _options(tmp_path)
    monkeypatch.setattr(parity, "OPENVINO_TOLERANCE", Tolerance(0.0, 0.0, 0.0))
    where = ["--experts", str(tmp_path / "experts.toml"), "--output", str(tmp_path / "engines")]
    assert build_engines.main([*where, "--int8"]) == 1
    captured = capsys.readouterr()
    assert "vgg16.fp32.onnx" in captured.out
    assert "error: vgg16: The int8 variant of 'vgg16' differs" in captured.err


@needs_vnni
def test_a_missing_openvino_is_reported_before_building(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(_options(tmp_path, int8=True), Quiet())
    monkeypatch.setitem(sys.modules, "openvino", None)
    for flag in ("int8", "bf16"):
        with pytest.raises(
            OptionsError, match=rf"--{flag}: OpenVINO .* agemoe-runtime\[openvino\]"
        ):
            _options(tmp_path, **{flag: True})
    with pytest.raises(BackendError, match=r"agemoe-runtime\[openvino\]"):
        AgeMoE(tmp_path / "engines", device="cpu", precision="int8")
    with AgeMoE(tmp_path / "engines") as moe:
        assert moe.backends == {"vgg16": "onnx-cpu"}


def test_bf16_of_janus_alone_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="--bf16: janus has no such variant"):
        resolve_options(output=tmp_path, only=["janus"], weights="demo", bf16=True)


def test_a_cpu_without_bfloat16_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.build.variant_support.has_bfloat16", lambda: False)
    with pytest.raises(OptionsError, match="--bf16: this CPU has no bfloat16 products"):
        _options(tmp_path, bf16=True)


def test_a_cpu_without_vnni_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.build.variant_support.has_exact_int8", lambda: False)
    with pytest.raises(OptionsError, match="--int8: INT8 products overflow on this CPU"):
        _options(tmp_path, int8=True)
    resolve_options(
        output=tmp_path, only=["janus"], weights="demo", int8=True
    )  # 7-bit weights need no VNNI
