"""Layers of TensorRT: by a fake of Polygraphy, by its own signatures, and by NVIDIA's parser."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from export.build.layerwise import Effort, diagnose_tensorrt, engine_explained
from export.build.tensorrt_target import EngineOptions, EngineTarget
from export.diagnosis.report import summary_lines
from export.diagnosis.tensorrt import TensorRtLayers
from export.errors import ExportError, ParityError
from export.variants.fp16 import fp16_from_fp32
from runtime.backends import ExpertVariant
from runtime.geometry import Geometry
from runtime.manifest import Artifact, BatchProfile, Expert, FileRecord, InputSpec, Source
from tests.export import dense_graphs as dense
from tests.export.fake_polygraphy import Polygraphy, install
from tests.trt_cpu import cached, environment, pip_install, toolchain

POLYGRAPHY = "polygraphy==0.53.6"
IMAGES = dense.faces()
ENGINES = EngineOptions(EngineTarget("tensorrt", "11.4.0", "9.0", can_run=True))


def artifact(precision: str) -> Artifact:
    record = FileRecord(f"{precision}.onnx", "0" * 64, 1)
    return Artifact("onnx", precision, (record,), {}, 0.0, None)


@pytest.fixture
def variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExpertVariant:
    """An FP16 file, and the FP32 file it was made from."""
    monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "")  # set by what is tested
    fp32 = dense.write(tmp_path / "fp32.onnx", dense.weights())
    fp16_from_fp32(fp32, tmp_path / "fp16.onnx")
    expert = Expert(
        "onnx",
        Source("onnx", "tiny.onnx", None),
        (InputSpec("face", 32, 32, Geometry()),),
        ("age_years",),
        None,
        BatchProfile(1, 8, 32),
        (artifact("fp32"), artifact("fp16")),
    )
    return ExpertVariant("tiny", expert, artifact("fp16"), tmp_path)


def test_a_wrong_layer_of_an_engine_is_named(
    variant: ExpertVariant, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Polygraphy({"w2.fp16": 1.3})
    install(fake, monkeypatch)
    found = diagnose_tensorrt(variant, "tensorrt", 4, IMAGES, Effort())
    assert found.verdict.blamed is not None
    assert found.verdict.blamed.layer.name == "p2"
    assert found.repaired_years is None
    assert "tiny fp16 (tensorrt): " in summary_lines(found)[0]
    assert os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] == "0"
    (built,) = fake.built
    assert {"p0", "r5", "age_years"} <= set(built["outputs"])
    assert (built["tf32"], built["builder_optimization_level"]) == (False, 4)
    shape = (dense.FACES, 8)
    assert built["profiles"] == [{"face": (shape, shape, shape)}]


def test_groups_are_engines_of_their_own(
    variant: ExpertVariant, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Polygraphy({})
    install(fake, monkeypatch)
    found = diagnose_tensorrt(variant, "tensorrt_rtx", 3, IMAGES, Effort(memory_bytes=2000))
    layers = [name for built in fake.built for name in built["outputs"]]
    assert len(layers) == len(set(layers)) == len(found.verdict.errors)
    assert len(fake.built) == 3
    assert "a fusion or a kernel is at fault" in summary_lines(found)[1]
    assert os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] == "1"


def test_the_error_of_an_engine_tells_why_it_has_no_layers(
    variant: ExpertVariant, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(Polygraphy({}, error="no GPU"), monkeypatch)
    monkeypatch.setattr("export.build.layerwise.verification_images", lambda _: IMAGES)
    error = engine_explained(ParityError("The engine differs."), variant, ENGINES)
    lines = str(error).split("\n")
    assert lines[0] == "The engine differs."
    assert lines[1].endswith("TensorRT cannot show the layers of fp16.onnx: no GPU")


def test_without_polygraphy_the_error_names_the_extra(
    variant: ExpertVariant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    with pytest.raises(ExportError, match=r"pip install 'agemoe-runtime\[diagnose\]'"):
        TensorRtLayers(variant.path, IMAGES, "tensorrt", 3)


def test_polygraphy_has_what_is_called() -> None:
    trt: Any = pytest.importorskip("polygraphy.backend.trt")
    comparator: Any = pytest.importorskip("polygraphy.comparator")
    profile = trt.Profile()
    shape = (3, 8)
    assert profile.add("face", min=shape, opt=shape, max=shape) is profile
    for call, positional, named in (
        (trt.NetworkFromOnnxPath, ["x.onnx"], {"strongly_typed": True}),
        (trt.ModifyNetworkOutputs, [None], {"outputs": ["a"]}),
        (trt.EngineFromNetwork, [None, None], {}),
        (trt.TrtRunner, [None], {}),
        (comparator.Comparator.run, [[]], {"data_loader": []}),
    ):
        inspect.signature(call).bind(*positional, **named)
    trt.CreateConfig(tf32=False, profiles=[profile], builder_optimization_level=3)


@pytest.mark.tensorrt
def test_polygraphy_marks_layers_that_the_builder_accepts(variant: ExpertVariant) -> None:
    """NVIDIA's parser and builder; Polygraphy's options of a build need the library of TensorRT."""
    script = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from export.diagnosis.tensorrt import TensorRtLayers\n"
        "from tests.trt_cpu.checker import plan_bytes\n"
        "faces = {'face': np.zeros((3, 8), np.uint8)}\n"
        "layers = TensorRtLayers(Path(sys.argv[1]), faces, 'tensorrt', 0)\n"
        "builder, network, parser = layers.marked(['p1', 'r3', 'age_years'])()\n"
        "outputs = [network.get_output(i) for i in range(network.num_outputs)]\n"
        "types = {tensor.name: tensor.dtype.name for tensor in outputs}\n"
        "print(sorted(layers.names), types, plan_bytes(builder, network) > 0, sep='\\n')\n"
    )
    home = cached("agemoe-polygraphy", POLYGRAPHY, lambda folder: pip_install(folder, POLYGRAPHY))
    variables = environment(toolchain(), "tensorrt")
    root = Path(__file__).resolve().parents[2]
    variables["PYTHONPATH"] += f":{home}:{root}"
    ended = subprocess.run(
        [sys.executable, "-c", script, str(variant.path)],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if not line.startswith("[")] or [""]
    names = next(line for line in ended.stdout.splitlines() if line.startswith("['"))
    assert all(f"'{layer}'" in names for layer in ("p1", "r3", "age_years"))
    assert lines[-2:] == ["{'p1': 'HALF', 'r3': 'HALF', 'age_years': 'FLOAT'}", "True"]
