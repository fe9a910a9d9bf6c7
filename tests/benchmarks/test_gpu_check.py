"""`benchmarks/gpu_check.py` on the simulated GPU, complete or with parts missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check
from runtime.backends.gpu import tensorrt
from runtime.manifest_file import read_manifest, write_manifest
from tests.gpu.simulator import SimulatedGpu, simulated_gpu
from tests.gpu.small_experts import THREE, build_experts

GPU_SECTIONS = (
    "Parity with the CPU",
    "Lanes against a sequence",
    "CUDA graphs against plain launches",
)
pytestmark = pytest.mark.usefixtures("no_thread_left")


def command(*arguments: str) -> tuple[int, str]:
    """Replaces other processes, which do not see the simulated GPU."""
    if "--json" in arguments:
        Path(arguments[-1]).write_text('{"figures": 1}')
    return 0, f"output of {arguments[1]}"


@contextmanager
def machine(folder: Path, monkeypatch: pytest.MonkeyPatch, **facts: Any) -> Iterator[SimulatedGpu]:
    """A simulated machine, and engines that were built on a complete one."""
    monkeypatch.setattr(gpu_check, "_command", command)
    monkeypatch.setattr(gpu_check, "_ROUNDS", 4)
    with simulated_gpu() as gpu:
        experts = build_experts(gpu, folder / "engines", THREE).experts
        manifest = replace(read_manifest(folder / "engines"), experts=experts)
        write_manifest(folder / "engines", manifest)
    with simulated_gpu(**facts) as gpu:
        yield gpu


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    """Exit status, the report's facts, and its sections by title."""
    places = ("--engines", str(folder / "engines"), "--output", str(folder / "report"))
    status = gpu_check.main([*places, "--seconds", "0.2", *arguments])
    report = json.loads((folder / "report" / "report.json").read_text())
    return status, report["facts"], {s["title"]: s for s in report["sections"]}


@pytest.mark.parametrize("library", ["cuda-python", "pycuda"])
def test_every_section_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    graphs = library == "cuda-python"
    with machine(tmp_path, monkeypatch, library=library) as gpu:
        status, facts, sections = run(tmp_path)
        assert gpu.leaks() == []
    found = {title: section["status"] for title, section in sections.items()}
    recorded = "CUDA graphs against plain launches"
    assert found.pop("Build") == "not run"
    assert found.pop(recorded) == ("ok" if graphs else "failed")
    assert set(found.values()) == {"ok"}
    assert status == (0 if graphs else 1)
    assert "Simulated GPU 0" in facts["gpu"]
    assert "numpy" in facts["machine"]["versions"]
    parity = sections["Parity with the CPU"]["figures"]
    assert {p["backend"].split()[0] for p in parity.values()} == {"tensorrt"}
    assert max(p["max_years"] for p in parity.values()) == 0.0
    lanes = sections["Lanes against a sequence"]
    assert lanes["figures"].keys() == {"batch 1", "batch 8"}
    assert "alpha tensorrt" in lanes["text"]
    soak = sections["Soak"]["figures"]
    assert soak["answers"] > 0
    assert (soak["wrong"], soak["errors"]) == (0, {})
    assert sections["Benchmark"]["figures"] == {"figures": 1}
    text = (tmp_path / "report" / "report.md").read_text()
    assert all(f"## {title}: " in text for title in sections)
    assert "output of benchmarks/latency.py" in text


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"devices": 0}, "finds no device"),
        ({"library": "none"}, "CUDA cannot be used from Python"),
    ],
)
def test_without_a_gpu_its_sections_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], reason: str
) -> None:
    with machine(tmp_path, monkeypatch, **facts):
        status, _, sections = run(tmp_path)
    assert status == 0
    for title in GPU_SECTIONS:
        assert sections[title]["status"] == "not run"
        assert reason in sections[title]["text"]
    assert "alpha onnx-cpu" in sections["Soak"]["text"]
    assert "runs on the CPU instead of TensorRT" in sections["Soak"]["text"]


def test_without_gpu_software_its_sections_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = "The ONNX Runtime installed was built without CUDA."
    monkeypatch.setattr(gpu_check, "cuda_provider_problem", lambda: problem)
    with machine(tmp_path, monkeypatch, tensorrt=None):
        _, _, sections = run(tmp_path)
    for title in GPU_SECTIONS:
        assert sections[title]["status"] == "not run"
        assert problem in sections[title]["text"]
        assert "package tensorrt cannot be imported" in sections[title]["text"]


def test_experts_on_the_cpu_fail_the_sections_about_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine(tmp_path, monkeypatch, tensorrt=None, onnx_cuda=False):
        status, _, sections = run(tmp_path)
    assert status == 1
    for title in GPU_SECTIONS:
        assert sections[title]["status"] == "failed"
        assert "did not put expert 'alpha' on the GPU" in sections[title]["text"]


def test_graphs_are_not_compared_without_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine(tmp_path, monkeypatch, tensorrt=None):
        _, _, sections = run(tmp_path)
    assert sections[GPU_SECTIONS[-1]]["status"] == "not run"
    assert "No expert runs on TensorRT" in sections[GPU_SECTIONS[-1]]["text"]
    assert sections["Lanes against a sequence"]["status"] == "ok"


def test_errors_in_the_soak_are_counted_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = tensorrt.TensorRTLane.enqueue

    def sometimes(lane: Any, bucket: int, executed: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 50 and lane._expert.name == "beta":  # after the 48 of the serial run
            raise RuntimeError("a fault in the middle")
        real(lane, bucket, executed)

    with machine(tmp_path, monkeypatch):
        monkeypatch.setattr(gpu_check, "_SECTIONS", {"Soak": gpu_check._soak})
        monkeypatch.setattr(tensorrt.TensorRTLane, "enqueue", sometimes)
        status, _, sections = run(tmp_path)
    assert status == 1
    assert sections["Soak"]["status"] == "failed"
    assert "a fault in the middle" in sections["Soak"]["text"]


def test_wrong_answers_fail_the_soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with machine(tmp_path, monkeypatch):
        monkeypatch.setattr(gpu_check, "_SECTIONS", {"Soak": gpu_check._soak})
        monkeypatch.setattr(gpu_check, "_TOLERANCE_YEARS", -1.0)
        _, _, sections = run(tmp_path)
    assert sections["Soak"]["status"] == "failed"
    assert sections["Soak"]["figures"]["wrong"] > 0


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_device_without_a_gpu_is_refused(
    tmp_path: Path, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main(["--device", device, "--output", str(tmp_path)])
    assert device in capsys.readouterr().err
