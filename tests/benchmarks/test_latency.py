"""`python benchmarks/latency.py` on tiny engines: report, output, comparison."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import comparison, latency, reports
from benchmarks.options import REFUSED, drawn_face
from benchmarks.plots import _apart
from runtime import AgeMoE, Face, ImageLimits
from runtime.geometry import Geometry
from runtime.images import load_rgb
from tests.runtime.tiny_engines import Tiny, write_engines

BATCHES = ("1", "3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latency")
    person = Geometry(fit="letterbox", interpolation="opencv_bilinear")
    experts = {"a": Tiny(), "b": Tiny(50.0, 10.0, inputs=("face", "person"), geometry=person)}
    write_engines(folder / "engines", experts)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    arguments = [
        *("--engines", str(folder / "engines"), "--batch", *BATCHES, "--seconds", "0.5"),
        *("--json", str(folder / "now.json"), "--plot", str(folder / "now.png")),
    ]
    assert latency.main(arguments) == 0
    found: dict[str, Any] = json.loads((folder / "now.json").read_text(encoding="utf-8"))
    return found


def test_report_describes_machine_and_experts(report: dict[str, Any]) -> None:
    assert report["schema_version"] == comparison.SCHEMA_VERSION
    assert report["benchmark"] == "latency"
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["versions"]["onnxruntime"]
    assert len(report["load_average"]["before"]) == 3
    assert {e["backend"] for e in report["experts"].values()} == {"onnx-cpu"}
    assert {len(e["sha256"]) for e in report["experts"].values()} == {64}
    assert report["settings"]["concurrency"] in ("lanes", "sequence")


def test_report_holds_every_batch_and_configuration(report: dict[str, Any]) -> None:
    assert tuple(report["batches"]) == BATCHES
    for size, batch in report["batches"].items():
        assert batch["faces"] == int(size)
        assert set(batch["ways"]) == {"sequence", "lanes"}
        assert {len(samples) for samples in batch["samples_seconds"].values()} == {batch["rounds"]}
        stages = batch["ways"]["sequence"]["stages"]
        assert set(stages) == {"decode", "geometry", "stack", "experts", "fuse"}
        assert set(batch["ways"]["lanes"]["execute"]) == {"a", "b"}
        assert batch["answers"]["lanes against sequence"] == {"a": 0.0, "b": 0.0}


def test_report_holds_cold_starts(report: dict[str, Any]) -> None:
    seconds = report["opening"]["median_seconds"]
    assert set(seconds) == {"import", "open", "first_answer", "second_answer", "whole"}
    parts = seconds["import"] + seconds["open"] + seconds["first_answer"]
    assert seconds["whole"] > 0.5 * parts
    assert report["opening"]["peak_bytes"] > 10_000_000
    assert report["gpu_bytes"] is None or report["gpu_bytes"] >= 0


def test_plot_is_a_png(folder: Path, report: dict[str, Any]) -> None:
    assert report
    assert (folder / "now.png").read_bytes().startswith(b"\x89PNG")


def test_printed_report(report: dict[str, Any]) -> None:
    printed = reports.latency(report)
    for part in ("own overhead:", "overlap", "batch of 3", "onnx-cpu", "fresh process", "p99"):
        assert part in printed


def rewritten(path: Path, report: dict[str, Any], factor: float, rounds: int = 40) -> Path:
    """Writes the report with all durations multiplied by `factor`."""
    copy = json.loads(json.dumps(report))
    for batch in copy["batches"].values():
        for name, seconds in batch["samples_seconds"].items():
            scale = 1.0 if name == "yardstick" else factor
            middle = sorted(seconds)[len(seconds) // 2]
            batch["samples_seconds"][name] = [
                scale * middle * (1 + 1e-3 * (i % 7)) for i in range(rounds)
            ]
    path.write_text(json.dumps(copy), encoding="utf-8")
    return path


@pytest.mark.parametrize(("factor", "slower", "faster"), [(1.0, 0, 0), (1.4, 8, 0), (0.6, 0, 8)])
def test_comparison(
    tmp_path: Path, report: dict[str, Any], factor: float, slower: int, faster: int
) -> None:
    base = comparison.read_report(rewritten(tmp_path / "base.json", report, 1.0))
    new = comparison.read_report(rewritten(tmp_path / "new.json", report, factor))
    found = comparison.compare(base, new)
    assert set(found.changes) >= {"batch 1, lanes", "batch 3, sequence", "batch 1, sequence/a"}
    assert len(found.changes) == 8
    assert (len(found.slower), len(found.faster)) == (slower, faster)
    assert found.notes == []


def test_a_slower_run_has_its_own_exit_status(
    tmp_path: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = rewritten(tmp_path / "base.json", report, 1.0)
    for factor, status in ((1.5, latency.SLOWER), (0.9, 0)):
        new = json.loads(rewritten(tmp_path / "new.json", report, factor).read_text())
        monkeypatch.setattr(latency, "measure", lambda _, new=new: new)
        assert latency.main(["--compare", str(base)]) == status


def test_incomparable_reports_are_refused(tmp_path: Path, report: dict[str, Any]) -> None:
    other = {**report, "machine": {**report["machine"], "processor": "Abacus"}}
    with pytest.raises(ValueError, match="processor: 'Abacus' then"):
        comparison.compare(other, report)
    with pytest.raises(ValueError, match="no batch size in common"):
        comparison.compare({**report, "batches": {}}, report)
    (tmp_path / "old.json").write_text('{"benchmark": "latency", "schema_version": 0}')
    with pytest.raises(ValueError, match="schema version 0, this is 1"):
        comparison.read_report(tmp_path / "old.json")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not written by latency\.py"):
        comparison.read_report(tmp_path / "x.json")


def test_different_engine_files_are_noted(report: dict[str, Any]) -> None:
    experts = {**report["experts"], "a": {**report["experts"]["a"], "sha256": "0" * 64}}
    found = comparison.compare({**report, "experts": experts}, report)
    assert any("a's file: 000000000000 then" in note for note in found.notes)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--engines", "nowhere"], "manifest.json"),
        (["--engines", "{engines}", "--experts", "c"], "holds a, b"),
        (["--engines", "{engines}", "--device", "tensorrt"], ""),
        (["--engines", "{engines}", "--baseline", "onnx"], "run on onnx-cpu."),
        (["--engines", "{engines}", "--baseline", "pytorch"], "describes no tiny"),
        (["--compare", "nowhere.json"], "nowhere.json"),
    ],
)
def test_refusals(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    filled = [argument.format(engines=folder / "engines") for argument in arguments]
    assert latency.main([*filled, "--seconds", "0.1"]) == REFUSED
    assert reason in capsys.readouterr().err


def test_labels_do_not_overlap() -> None:
    found = _apart({"a": 400.0, "b": 404.0, "c": 100.0}, 30.0)
    assert found == {"c": 100.0, "a": 400.0, "b": 430.0}
    assert _apart({"a": 1.0, "b": 1.0, "c": 1.5}, 1.0) == {"a": 1.0, "b": 2.0, "c": 3.0}


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Iterator[AgeMoE]:
    with AgeMoE(folder / "engines") as moe:
        yield moe


def _kept(picture: bytes, folder: Path, kind: str) -> Any:
    """Returns the same picture in another form that `predict` accepts."""
    if kind == "bytes":
        return picture
    path = folder / "picture.jpg"
    path.write_bytes(picture)
    if kind in ("str", "path"):
        return str(path) if kind == "str" else path
    image = Image.open(io.BytesIO(picture))
    return image if kind == "pil" else np.asarray(image)


@pytest.mark.parametrize("kind", ["bytes", "str", "path", "pil", "array"])
def test_a_picture_with_many_faces_is_decoded_once(
    tiny: AgeMoE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    decoded: list[object] = []

    def counted(source: Any, limits: ImageLimits) -> Any:
        decoded.append(source)
        return load_rgb(source, limits)

    monkeypatch.setattr("runtime.images.load_rgb", counted)
    encoded: Any = drawn_face(0).image
    picture = _kept(encoded, tmp_path, kind)
    boxes = [(10.0 * n, 5.0 * n, 60.0 + n, 80.0) for n in range(32)]
    pictures = [_kept(encoded, tmp_path, kind) for _ in boxes]  # the same path, 32 times
    if kind not in ("str", "path"):
        pictures = [picture] * len(boxes)  # the same object
    before = tiny.stats().stages["experts"].count
    shown = zip(pictures, boxes, strict=True)
    estimates = tiny.predict([Face(own, box=box) for own, box in shown])
    assert len(decoded) == 1
    assert tiny.stats().stages["experts"].count == before + 1
    alone = [tiny.predict(Face(picture, box=box)) for box in boxes[:3]]
    assert estimates[:3] == alone
