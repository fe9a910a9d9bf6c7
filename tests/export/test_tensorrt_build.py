"""The command line with NVIDIA's real parser and builder, without a GPU: engines for RTX."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import export.build_engines
from runtime.manifest import Artifact, verify_files
from runtime.manifest_file import read_manifest
from tests.trt_cpu import environment, toolchain

pytestmark = pytest.mark.tensorrt

ROOT = Path(export.build_engines.__file__).resolve().parent.parent
BUILD = (sys.executable, "export/build_engines.py")
RANDOM = ("--experts", "export/config/experts.demo.toml", "--weights", "random")
"""Builds the demo experts' networks without fitting them."""
DIRECTLY = """
import sys
from pathlib import Path
from export.build.tensorrt import build_engine
from export.build.tensorrt_target import EngineOptions, EngineTarget
from runtime.manifest import BatchProfile
source, precision, backend, folder = sys.argv[1:]
target = EngineTarget(backend, "0", None, can_run=False)
share = build_engine(Path(source), Path(folder, "x.engine"), precision, BatchProfile(1, 2, 4),
                     EngineOptions(target), Path(folder, "timing.cache"), lambda share: None)
print("share", share)
"""


def run(
    command: Sequence[str], *packages: str, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    env = os.environ | environment(home or toolchain(), *packages)
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False
    )


def build(output: Path, *arguments: str, packages: Sequence[str] = ("tensorrt_rtx",)) -> str:
    done = run([*BUILD, *arguments, "--output", str(output)], *packages)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def directly(
    source: Path, precision: str, folder: Path, backend: str = "tensorrt_rtx"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DIRECTLY, str(source), precision, backend, str(folder)]
    return run(command, backend)


def engines(folder: Path) -> dict[str, Artifact]:
    found = {}
    for name, expert in read_manifest(folder).experts.items():
        for artifact in expert.artifacts:
            verify_files(folder, name, artifact)
            if artifact.backend != "onnx":
                found[name] = artifact
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four networks with engines: only TensorRT for RTX is installed."""
    output = tmp_path_factory.mktemp("built") / "engines"
    output_text = build(output, *RANDOM, "--fp16")
    assert "Engines: TensorRT for RTX 1.7.1." in output_text
    return output


def test_every_expert_has_an_engine_in_half_precision(built: Path) -> None:
    found = engines(built)
    assert set(found) == {"vgg16", "resnet50", "mivolo", "janus"}
    for name, engine in found.items():
        assert (engine.backend, engine.precision) == ("tensorrt_rtx", "fp16")
        assert engine.files[0].path == f"{name}/{name}.fp16.rtx1.7.engine"
        assert engine.files[0].size_bytes > 500_000
        assert engine.reduced_share > 0.5
        assert engine.parity is None  # there is no GPU to run it on
        assert engine.binding is not None
        assert (engine.binding.tensorrt, engine.binding.compute_capability) == ("1.7.1", None)
    assert not (built / "timing.cache").exists()  # TensorRT for RTX would require a GPU for it


def test_a_second_run_reuses_everything(built: Path) -> None:
    before = (built / "manifest.json").read_bytes()
    output_text = build(built, *RANDOM, "--fp16", "--target", "rtx")
    assert "Everything was up to date" in output_text
    assert "not run" in output_text
    assert (built / "manifest.json").read_bytes() == before


def test_fp32_engines_beside_fp16_ones(built: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(built, tmp_path / "engines")
    build(copy, *RANDOM, "--target", "rtx", "--optimization-level", "1")
    variants = [
        (artifact.backend, artifact.precision, artifact.reduced_share > 0)
        for artifact in read_manifest(copy).experts["mivolo"].artifacts
    ]
    assert variants[2:] == [("tensorrt_rtx", "fp16", True), ("tensorrt_rtx", "fp32", False)]


def test_without_a_gpu_tensorrt_itself_builds_nothing(built: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(built, tmp_path / "engines")
    output_text = build(copy, *RANDOM, "--fp16", packages=["tensorrt", "tensorrt_rtx"])
    assert (
        "ONNX files only: TensorRT 11.4.0.106 is installed, but builds engines only" in output_text
    )
    assert set(engines(copy)) == {"vgg16", "resnet50", "mivolo", "janus"}  # they are still valid
    requested = run([*BUILD, "--target", "tensorrt", "--output", str(copy)], "tensorrt")
    assert requested.returncode == 1
    assert "--target tensorrt: TensorRT 11.4.0.106 is installed, but" in requested.stderr


def test_an_fp32_graph_declared_as_fp16_is_rejected(built: Path, tmp_path: Path) -> None:
    honest = directly(built / "mivolo/mivolo.fp16.onnx", "fp16", tmp_path)
    assert float(honest.stdout.split()[-1]) > 0.9, honest.stderr
    for name in ("vgg16", "janus"):
        done = directly(built / f"{name}/{name}.fp32.onnx", "fp16", tmp_path)
        assert "should be half precision and is not: 0% of TensorRT's tensors are" in done.stderr


def test_the_timing_cache_of_tensorrt_is_written_completely(built: Path, tmp_path: Path) -> None:
    """Uses real calls, although RTX needs no cache; a damaged cache is replaced."""
    source = built / "vgg16/vgg16.fp16.onnx"
    for content in (None, b"garbage" * 9):
        if content:
            (tmp_path / "timing.cache").write_bytes(content)
        done = directly(source, "fp16", tmp_path, backend="tensorrt")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "timing.cache").read_bytes().startswith(b"ptrt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["timing.cache", "x.engine"]


def test_an_unsupported_node_is_named(tmp_path: Path) -> None:
    import onnx

    shape = onnx.helper.make_tensor_value_info
    constant = onnx.helper.make_tensor
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Col2Im", ["x", "size", "block"], ["y"], name="fold")],
        "fold",
        [shape("x", onnx.TensorProto.FLOAT, ["batch", 9, 4])],
        [shape("y", onnx.TensorProto.FLOAT, ["batch", 1, 6, 6])],
        [
            constant("size", onnx.TensorProto.INT64, [2], [6, 6]),
            constant("block", onnx.TensorProto.INT64, [2], [3, 3]),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx.save(model, tmp_path / "fold.onnx")
    done = directly(tmp_path / "fold.onnx", "fp32", tmp_path)
    assert "TensorRT does not support fold.onnx:" in done.stderr
    assert "node 'fold' (Col2Im): UNSUPPORTED_NODE" in done.stderr
    assert not (tmp_path / "x.engine").exists()


def test_interrupted_while_an_engine_is_built(built: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(built, tmp_path / "engines"))
    before = engines(copy)
    arguments = [*RANDOM, "--fp16", "--target", "rtx", "--optimization-level", "0"]
    env = os.environ | environment(toolchain(), "tensorrt_rtx") | {"PYTHONUNBUFFERED": "1"}
    command = [*BUILD, *arguments, "--output", str(copy)]
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=pipe, stderr=both, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "mivolo: building the fp16 engine" in line:
                time.sleep(0.2)
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        process.wait(60)
    assert process.returncode == 130, rest
    assert "Interrupted. Everything published so far is complete" in rest
    after = engines(copy)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"vgg16", "resnet50"}
    assert build(copy, *arguments).count("publishing") == 2


@pytest.mark.slow
@pytest.mark.parametrize("only", ["vgg16", "resnet50", "mivolo"])
def test_full_size_networks(tmp_path: Path, only: str) -> None:
    build(tmp_path / "e", "--weights", "random", "--fp16", "--target", "rtx", "--only", only)
    (engine,) = engines(tmp_path / "e").values()
    assert engine.reduced_share > 0.7


@pytest.mark.slow
def test_fitted_demo_experts(tmp_path: Path) -> None:
    build(tmp_path / "e", "--weights", "demo", "--fp16", "--target", "rtx")
    assert set(engines(tmp_path / "e")) == {"vgg16", "resnet50", "mivolo", "janus"}
