"""OpenVINO equals ONNX Runtime and rejects graphs that break the contract."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import AgeMoE, PrecisionWarning
from runtime.backends import ExpertVariant
from runtime.backends.onnx import OnnxCpuSession
from runtime.backends.openvino import OpenVinoSession
from runtime.backends.openvino_graph import has_bfloat16, has_exact_int8, import_openvino
from runtime.backends.variants import choose_variant
from runtime.errors import BackendError, ContractError
from runtime.manifest_file import read_manifest
from tests.runtime.tiny_engines import Tiny, write_engines


def _session(kind: type[Any], folder: Path, tiny: Tiny, **options: object) -> Any:
    write_engines(folder, {"tiny": tiny})
    expert = read_manifest(folder).experts["tiny"]
    return kind(ExpertVariant("tiny", expert, expert.artifacts[0], folder), threads=1, **options)


def _faces(tiny: Tiny, count: int = 3) -> dict[str, Any]:
    shape = (count, tiny.side, tiny.side, 3)
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, shape, np.uint8) for name in tiny.inputs}


@pytest.mark.usefixtures("no_thread_left")
@pytest.mark.parametrize(
    "tiny", [Tiny(), Tiny(inputs=("face", "person"), outputs=("age_years", "age_probs"))]
)
def test_outputs_equal_onnx_runtime(tmp_path: Path, tiny: Tiny) -> None:
    faces = _faces(tiny)
    found = {}
    for kind in (OnnxCpuSession, OpenVinoSession):
        session = _session(kind, tmp_path, tiny)
        found[kind] = session.enqueue(faces).result(timeout=10)
        session.close()
    wanted, answer = found[OnnxCpuSession], found[OpenVinoSession]
    assert set(answer.outputs) == set(tiny.outputs)
    assert answer.times.execute > 0
    for name, values in wanted.outputs.items():
        assert answer.outputs[name].dtype == np.float32
        np.testing.assert_allclose(answer.outputs[name], values, atol=1e-4)


@pytest.mark.usefixtures("no_thread_left")
def test_uses_the_given_number_of_threads(tmp_path: Path) -> None:
    for batches in (1, 2):
        session = _session(OpenVinoSession, tmp_path, Tiny(), batches=batches)  # with threads=1
        compiled = session._requests.own.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == batches
        assert compiled.get_property("NUM_STREAMS") == batches
        session.close()


@pytest.mark.usefixtures("no_thread_left")
def test_batches_at_the_same_time_have_requests_of_their_own(tmp_path: Path) -> None:
    tiny = Tiny()
    many = [_faces(tiny, 1 + n % 3) for n in range(20)]
    session = _session(OpenVinoSession, tmp_path, tiny)
    one_by_one = [session.enqueue(faces).result(timeout=10) for faces in many]
    session.close()
    session = _session(OpenVinoSession, tmp_path, tiny, batches=2)
    started = [session.enqueue(faces) for faces in many]
    for wanted, pending in zip(one_by_one, started, strict=True):
        answer = pending.result(timeout=10)
        np.testing.assert_array_equal(answer.outputs["age_years"], wanted.outputs["age_years"])
    session.close()


@pytest.mark.usefixtures("no_thread_left")
def test_answers_do_not_share_memory(tmp_path: Path) -> None:
    tiny = Tiny()
    session = _session(OpenVinoSession, tmp_path, tiny)
    black = {"face": np.zeros((1, tiny.side, tiny.side, 3), np.uint8)}
    first = session.enqueue(black).result(timeout=10).outputs["age_years"]
    session.enqueue({"face": black["face"] + 255}).result(timeout=10)
    session.close()
    np.testing.assert_allclose(first, [tiny.offset], atol=1e-4)


_FIRST_TENSOR_ACCESS_IN_MANY_THREADS = """
import faulthandler, sys, threading
import numpy as np
from runtime.backends.openvino_graph import import_openvino

faulthandler.dump_traceback_later(60, exit=True)
openvino = import_openvino()
pixels = openvino.opset1.parameter([1, 4], np.uint8, name="pixels")
model = openvino.Model([openvino.opset1.convert(pixels, "f32")], [pixels])
compiled = openvino.Core().compile_model(model, "CPU")
tensors = [compiled.create_infer_request().get_tensor(compiled.inputs[0]) for _ in range(8)]
sys.setswitchinterval(1e-6)
started = False

def access(tensor):
    while not started:
        pass
    tensor.data

threads = [threading.Thread(target=access, args=(tensor,), daemon=True) for tensor in tensors]
for thread in threads:
    thread.start()
started = True
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("_", range(4))
def test_simultaneous_first_accesses_do_not_deadlock(_: int) -> None:
    # Without the workaround in `import_openvino`, each of these hangs every other time.
    command = [sys.executable, "-c", _FIRST_TENSOR_ACCESS_IN_MANY_THREADS]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("broken", ["rank", "no_output", "size"])
def test_rejects_a_graph_that_breaks_the_contract(tmp_path: Path, broken: str) -> None:
    with pytest.raises(ContractError, match="tiny"):
        _session(OpenVinoSession, tmp_path, Tiny(broken=broken))


def test_rejects_a_file_that_is_not_a_graph(tmp_path: Path) -> None:
    write_engines(tmp_path, {"tiny": Tiny()})
    expert = read_manifest(tmp_path).experts["tiny"]
    (tmp_path / expert.artifacts[0].files[0].path).write_bytes(b"no graph")
    with pytest.raises(ContractError, match="cannot load"):
        OpenVinoSession(ExpertVariant("tiny", expert, expert.artifacts[0], tmp_path), threads=1)


@pytest.mark.usefixtures("no_thread_left")
def test_bfloat16_runs_or_is_rejected(tmp_path: Path) -> None:
    tiny = Tiny(precisions=("bf16",))
    if not has_bfloat16():
        with pytest.raises(BackendError, match="no bfloat16 products"):
            _session(OpenVinoSession, tmp_path, tiny)
        return
    session = _session(OpenVinoSession, tmp_path, tiny)
    assert session.backend == "openvino-cpu-bf16"
    ages = session.enqueue(_faces(tiny)).result(timeout=10).outputs["age_years"]
    session.close()
    assert ages.shape == (3,)


needs_vnni = pytest.mark.skipif(not has_exact_int8(), reason="this CPU has no VNNI")


@needs_vnni
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other CPUs add products in 32 bits")
@pytest.mark.parametrize(("instructions", "exact"), [("AVX2_VNNI", True), ("AVX2", False)])
def test_int8_products_overflow_without_vnni(instructions: str, *, exact: bool) -> None:
    script = "from runtime.backends.openvino_graph import has_exact_int8; print(has_exact_int8())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
    )
    assert done.stdout.strip() == str(exact)


def test_int8_is_rejected_where_products_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.backends.openvino.has_exact_int8", lambda: False)
    write_engines(tmp_path, {"a": Tiny(precisions=("fp32", "int8"))})
    with pytest.raises(BackendError, match=r"has no VNNI.*precision='auto'"):
        AgeMoE(tmp_path, precision="int8")
    with AgeMoE(tmp_path) as moe:
        assert moe.backends == {"a": "onnx-cpu"}


@needs_vnni
def test_each_expert_runs_in_a_variant_that_was_built(tmp_path: Path) -> None:
    write_engines(tmp_path, {"a": Tiny(precisions=("fp32", "int8")), "b": Tiny()})
    face = np.full((8, 8, 3), 102, np.uint8)
    said = (
        "precision='int8' was requested, but expert 'b' runs in fp32: .* Rebuild: .* build --int8 "
    )
    with pytest.warns(PrecisionWarning, match=said):
        moe = AgeMoE(tmp_path, precision="int8")
    with moe:
        assert moe.backends == {"a": "openvino-cpu", "b": "onnx-cpu"}
        assert moe.predict(face).age_years == pytest.approx(40.0, abs=1e-3)
    with AgeMoE(tmp_path) as moe:
        assert moe.backends == {"a": "onnx-cpu", "b": "onnx-cpu"}


def test_gpu_backends_do_not_run_openvino_artifacts(tmp_path: Path) -> None:
    write_engines(tmp_path, {"a": Tiny(precisions=("bf16", "int8"))})
    expert = read_manifest(tmp_path).experts["a"]
    for kind in ("cuda", "tensorrt"):
        for precision in ("auto", "bf16", "int8"):
            with pytest.raises(BackendError, match="has no file for"):
                choose_variant(Path("engines"), "a", expert, kind, precision)


def test_more_bfloat16_than_the_build_measured_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.backends.openvino.has_bfloat16", lambda: True)
    monkeypatch.setattr("runtime.backends.openvino.bfloat16_share", lambda _: 0.02)
    with pytest.raises(ContractError, match=r"computes 2% .* measured 0%"):
        _session(OpenVinoSession, tmp_path, Tiny(precisions=("bf16",)))


def test_a_missing_openvino_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"agemoe-runtime\[openvino\]"):
        import_openvino()


def test_openvino_sends_no_telemetry() -> None:
    script = (
        "import sys; from runtime.backends.openvino_graph import import_openvino; "
        "import_openvino().Core(); "
        "print([n for n, module in sys.modules.items() if module and 'openvino_telemetry' in n])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == "[]"
