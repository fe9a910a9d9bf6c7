"""The engine step of a build, with a fake builder that has the real API's restrictions."""

from __future__ import annotations

import functools
import logging
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from export.build import parity
from export.build.options import BuildOptions, resolve_options
from export.build.pipeline import BuildError, build
from export.build.plan import plan
from export.build.tensorrt import build_engine
from export.build.tensorrt_target import EngineOptions, EngineTarget
from export.config.contract import Images, Outputs
from export.errors import GraphError
from export.faces.verification import verification_images
from runtime.backends import ExpertVariant
from runtime.manifest import Artifact, BatchProfile, InputSpec, Manifest, file_intact
from runtime.manifest_file import read_manifest
from tests.export.fake_builder import CACHE_MARK, STEPS, MemoryPoolType, fake_tensorrt, gpu
from tests.export.small import experts_toml, small_module, write_checkpoint
from tests.export.test_pipeline import Quiet, names_built

pytestmark = pytest.mark.conversion

Options = Callable[..., BuildOptions]


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Simulates TensorRT and a GPU whose engines give the outputs of their ONNX files."""
    library = fake_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setattr("export.build.tensorrt_target.cuda_devices", gpu)
    monkeypatch.setattr(
        parity, "check_engine", functools.partial(parity.check_engine, run=onnx_outputs)
    )
    monkeypatch.setattr(parity, "verification_images", drawn)
    return library


@functools.cache
def drawn(inputs: tuple[InputSpec, ...], *, few: bool) -> Images:
    """The verification faces, drawn once for all tests."""
    return verification_images(inputs, few=few)


def onnx_outputs(engine: ExpertVariant, images: Images, off: float = 0.0) -> Outputs:
    name, artifact = engine.name, engine.artifact
    assert file_intact(engine.folder, artifact.files[0])
    twin = engine.folder / name / f"{name}.{artifact.precision}.onnx"
    outputs = parity._outputs(twin, list(engine.expert.outputs), images, frugal=False)
    return outputs | {"age_years": outputs["age_years"] + np.float32(off)}


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX files of one small expert, built on a machine without TensorRT."""
    folder = tmp_path_factory.mktemp("sources")
    write_checkpoint(folder / "v.safetensors", small_module("vgg16"))
    experts_toml(folder, vgg16="v.safetensors")
    build(
        resolve_options(output=folder / "engines", experts_file=folder / "experts.toml", fp16=True),
        Quiet(),
    )
    return folder


@pytest.fixture
def options(built_once: Path, tmp_path: Path) -> Options:
    """Returns a factory of options for a private copy."""
    shutil.copytree(built_once, tmp_path, dirs_exist_ok=True)

    def made(target: str = "tensorrt", **changes: Any) -> BuildOptions:
        wanted: dict[str, Any] = {"fp16": True, "experts_file": tmp_path / "experts.toml"}
        return resolve_options(output=tmp_path / "engines", target=target, **wanted | changes)

    return made


def engines(folder: Path) -> list[Artifact]:
    artifacts = read_manifest(folder).experts["vgg16"].artifacts
    return [artifact for artifact in artifacts if artifact.backend != "onnx"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "vgg16").iterdir())


def test_from_onnx_to_a_bound_engine(options: Options, tensorrt: Any) -> None:
    wanted = options(workspace_gib=1.5, optimization_level=5)
    assert [p.reason for p in plan(wanted)] == ["", "", "not built yet"]
    assert plan(wanted)[2].path == "vgg16/vgg16.fp16.trt11.4-sm90.engine"
    (row,) = build(wanted, Quiet()).rows
    single, half, engine = row.expert.artifacts
    assert engine.files[0].path == plan(wanted)[2].path
    assert engine.binding is not None
    assert engine.binding.tensorrt == "11.4.0.106"
    assert engine.binding.compute_capability == "9.0"
    assert engine.binding.onnx_sha256 == half.sha256
    assert engine.binding.flags == {"optimization_level": "5", "workspace_gib": "1.5"}
    assert engine.reduced_share > 0.5
    assert engine.parity is not None
    assert engine.parity.faces == 20
    assert 0.0 < engine.parity.max_years < 0.5
    (config,) = tensorrt.Builder.built
    assert config.builder_optimization_level == 5
    assert config.pools == {MemoryPoolType.WORKSPACE: 3 << 29}
    assert "TF32" not in config.flags
    plan_bytes = (wanted.output / engine.files[0].path).read_bytes()
    assert plan_bytes.startswith(b"plan for [1, 8, 32] ")
    assert single.parity is not None
    assert not (wanted.output / ".staging").exists()


def test_a_second_run_builds_nothing(options: Options, tensorrt: Any) -> None:
    assert names_built(build(options(), Quiet())) == ["vgg16"]
    before = (options().output / "manifest.json").read_bytes()
    assert names_built(build(options(), Quiet())) == []
    assert (options().output / "manifest.json").read_bytes() == before
    assert {p.reason for p in plan(options())} == {""}
    assert len(tensorrt.Builder.built) == 1


@pytest.mark.parametrize(
    ("change", "reason"), [("version", "TensorRT"), ("gpu", "GPU"), ("flags", "flags")]
)
def test_only_the_engine_is_built_again(
    options: Options, tensorrt: Any, monkeypatch: pytest.MonkeyPatch, change: str, reason: str
) -> None:
    build(options(), Quiet())
    if change == "version":
        tensorrt.__version__ = "11.5.0.1"
    if change == "gpu":
        monkeypatch.setattr("export.build.tensorrt_target.cuda_devices", lambda: gpu("8.9"))
    wanted = options(optimization_level=1) if change == "flags" else options()
    assert [p.reason for p in plan(wanted)] == ["", "", f"changed: {reason}"]
    assert {p.reason for p in plan(options(force=True))} == {"--force"}
    build(wanted, Quiet())
    assert len(tensorrt.Builder.built) == 2
    (after,) = engines(wanted.output)
    assert [n for n in names(wanted.output) if n.endswith(".engine")] == [
        Path(after.files[0].path).name
    ]


def test_an_engine_of_another_graph_is_removed(
    options: Options, tensorrt: Any, tmp_path: Path
) -> None:
    build(options(), Quiet())
    del tensorrt
    build(options("onnx", force=True), Quiet())  # the same graph, and no TensorRT here
    assert len(engines(options().output)) == 1
    other = write_checkpoint(tmp_path / "other.safetensors", small_module("vgg16", seed=9))
    build(options("onnx", checkpoints=[f"vgg16={other}"]), Quiet())
    assert engines(options().output) == []
    assert not [name for name in names(options().output) if name.endswith(".engine")]


def test_another_largest_batch_is_another_engine(options: Options, tensorrt: Any) -> None:
    build(options(), Quiet())
    build(options(max_batch=4), Quiet())
    assert len(tensorrt.Builder.built) == 2
    (engine,) = engines(options().output)
    assert (options().output / engine.files[0].path).read_bytes().startswith(b"plan for [1, 4, 4]")


def test_without_fp16_the_engine_is_fp32(options: Options, tensorrt: Any) -> None:
    build(options(), Quiet())
    build(options(fp16=False), Quiet())
    assert [(e.precision, e.reduced_share) for e in engines(options().output)] == [
        ("fp16", pytest.approx(0.75, abs=0.1)),
        ("fp32", 0.0),
    ]
    assert len(tensorrt.Builder.built) == 2


def test_an_engine_that_differs_is_not_published(
    options: Options, tensorrt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del tensorrt
    wrong = functools.partial(onnx_outputs, off=2.0)
    real = parity.check_engine.func  # type: ignore[attr-defined]
    monkeypatch.setattr(parity, "check_engine", functools.partial(real, run=wrong))
    monkeypatch.setitem(sys.modules, "polygraphy", None)
    with pytest.raises(BuildError, match=r"(?s)'vgg16' differs .* [12]\.\d+ years.*diagnose"):
        build(options(diagnose=True), Quiet())
    assert engines(options().output) == []


def test_timings_are_shared_and_a_damaged_cache_is_discarded(
    options: Options, tensorrt: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cache = options().output / "timing.cache"
    build(options(), Quiet())
    assert cache.read_bytes() == CACHE_MARK + b"one more "
    build(options(optimization_level=4), Quiet())
    assert cache.read_bytes() == CACHE_MARK + b"one more " * 2
    cache.write_bytes(b"\0garbage")
    with caplog.at_level(logging.WARNING, "agemoe"):
        build(options(optimization_level=2), Quiet())
    assert "timing.cache is damaged" in caplog.text
    assert "TensorRT: some kernels are slow" in caplog.text
    assert cache.read_bytes() == CACHE_MARK + b"one more "
    assert len(tensorrt.Builder.built) == 3


def check_nothing_written_and_rerun(options: Options, tensorrt: Any, before: Manifest) -> None:
    assert tensorrt.Builder.built == []
    assert read_manifest(options().output) == before
    tensorrt.Builder.pause.set()
    assert names_built(build(options(), Quiet())) == ["vgg16"]


@pytest.mark.slow  # a real signal, which can end a worker of xdist
def test_interrupted_nothing_is_written_and_a_rerun_completes(
    options: Options, tensorrt: Any
) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    before = read_manifest(options().output)
    tensorrt.Builder.pause.clear()

    class Interrupting(Quiet):
        def advance(self, share: float) -> None:
            main = threading.main_thread().ident
            assert main is not None
            assert main != threading.get_ident()
            if share == 1 / STEPS:
                signal.pthread_kill(main, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(options(), Interrupting())
    check_nothing_written_and_rerun(options, tensorrt, before)


def test_a_canceled_build_stops_and_writes_nothing(
    options: Options, tensorrt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_manifest(options().output)
    tensorrt.Builder.pause.clear()
    result = Future.result

    def interrupted(future: Future[object], timeout: float | None = None) -> object:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return result(future, timeout)

    with monkeypatch.context() as patched:
        patched.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build(options(), Quiet())
    check_nothing_written_and_rerun(options, tensorrt, before)


def test_a_tensorrt_that_does_not_start_reports_the_reason(options: Options, tensorrt: Any) -> None:
    tensorrt.Builder.starts = False
    with pytest.raises(BuildError, match=r"does not start .* error: 35\. .*newer NVIDIA driver"):
        build(options(), Quiet())


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_only_rtx_engines_are_built_for_cuda_graphs(
    built_once: Path, tensorrt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    del tensorrt
    library = fake_tensorrt("1.7.1", name)
    monkeypatch.setitem(sys.modules, name, library)
    build_engine(
        built_once / "engines" / "vgg16" / "vgg16.fp32.onnx",
        tmp_path / "x.engine",
        "fp32",
        BatchProfile(),
        EngineOptions(EngineTarget(name, "1.7.1", None, can_run=False)),
        tmp_path / "timing.cache",
        lambda _: None,
    )
    (config,) = library.Builder.built
    assert config.flags == ({"REQUIRE_USER_ALLOCATION"} if name == "tensorrt_rtx" else set())


def test_the_error_contains_the_log_of_the_builder(options: Options, tensorrt: Any) -> None:
    tensorrt.Builder.fails = "no kernel for this"
    with pytest.raises(BuildError, match=r"no engine from vgg16.fp16.onnx: no kernel for this"):
        build(options(), Quiet())


def engine_of(path: Path, precision: str, tmp_path: Path) -> float:
    target = EngineTarget("tensorrt", "11.4.0.106", "9.0", can_run=False)
    return build_engine(
        path,
        tmp_path / "x.engine",
        precision,
        BatchProfile(),
        EngineOptions(target),
        tmp_path / "timing.cache",
        lambda _: None,
    )


def test_an_fp32_graph_declared_as_fp16_is_rejected(
    built_once: Path, tensorrt: Any, tmp_path: Path
) -> None:
    folder = built_once / "engines" / "vgg16"
    assert engine_of(folder / "vgg16.fp16.onnx", "fp16", tmp_path) > 0.6
    with pytest.raises(
        GraphError, match=r"half precision and is not: 0% of .* are, and 0% of its conv"
    ):
        engine_of(folder / "vgg16.fp32.onnx", "fp16", tmp_path)
    assert len(tensorrt.Builder.built) == 1


def test_an_unsupported_node_is_named(tensorrt: Any, tmp_path: Path) -> None:
    del tensorrt
    shape = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Col2Im", ["x", "s", "b"], ["y"], name="fold")],
        "fold",
        [shape("x", onnx.TensorProto.FLOAT, ["batch", 9, 4])],
        [shape("y", onnx.TensorProto.FLOAT, ["batch", 1, 6, 6])],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "fold.onnx")
    with pytest.raises(GraphError, match=r"node 'fold' \(Col2Im\): UNSUPPORTED_NODE: false"):
        engine_of(tmp_path / "fold.onnx", "fp32", tmp_path)
