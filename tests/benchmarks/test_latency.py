"""`python benchmarks/latency.py` on tiny engines: what it writes, prints and decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import comparing, latency
from runtime import AgeMoE, Face
from runtime.geometry import Geometry
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


def test_the_report_says_what_ran_where(report: dict[str, Any]) -> None:
    assert report["schema_version"] == latency.SCHEMA_VERSION
    assert report["benchmark"] == "latency"
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["versions"]["onnxruntime"]
    assert len(report["load_average"]["before"]) == 3
    assert {e["backend"] for e in report["experts"].values()} == {"onnx-cpu"}
    assert {len(e["sha256"]) for e in report["experts"].values()} == {64}
    assert report["settings"]["concurrency"] in ("lanes", "sequence")


def test_the_report_holds_every_batch_and_way(report: dict[str, Any]) -> None:
    assert tuple(report["batches"]) == BATCHES
    for size, batch in report["batches"].items():
        assert batch["faces"] == int(size)
        assert set(batch["ways"]) == {"sequence", "lanes"}
        assert {len(samples) for samples in batch["samples_seconds"].values()} == {batch["rounds"]}
        stages = batch["ways"]["sequence"]["stages"]
        assert set(stages) == {"decode", "geometry", "stack", "experts", "fuse"}
        assert set(batch["ways"]["lanes"]["execute"]) == {"a", "b"}
        assert batch["answers"]["lanes against sequence"] == {"a": 0.0, "b": 0.0}


def test_the_report_tells_of_a_fresh_process(report: dict[str, Any]) -> None:
    seconds = report["opening"]["median_seconds"]
    assert set(seconds) == {"import", "open", "first_answer", "second_answer", "whole"}
    parts = seconds["import"] + seconds["open"] + seconds["first_answer"]
    assert seconds["whole"] > 0.5 * parts
    assert report["opening"]["peak_bytes"] > 10_000_000
    assert report["gpu_bytes"] is None or report["gpu_bytes"] >= 0


def test_the_picture_is_a_png(folder: Path, report: dict[str, Any]) -> None:
    assert report
    assert (folder / "now.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_printed(report: dict[str, Any]) -> None:
    from benchmarks import text

    printed = text.latency(report)
    for said in ("own overhead:", "overlap", "batch of 3", "onnx-cpu", "fresh process", "p99"):
        assert said in printed


def rewritten(path: Path, report: dict[str, Any], factor: float, rounds: int = 40) -> Path:
    """The report as it would be had everything taken `factor` times as long."""
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
def test_comparing(
    tmp_path: Path, report: dict[str, Any], factor: float, slower: int, faster: int
) -> None:
    base = comparing.read_report(rewritten(tmp_path / "base.json", report, 1.0))
    new = comparing.read_report(rewritten(tmp_path / "new.json", report, factor))
    found = comparing.compare(base, new)
    assert set(found.changes) >= {"batch 1, lanes", "batch 3, sequence", "batch 1, sequence/a"}
    assert len(found.changes) == 8
    assert (len(found.slower), len(found.faster)) == (slower, faster)
    assert found.notes == []


def test_a_slower_run_has_an_exit_status(
    tmp_path: Path, report: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = rewritten(tmp_path / "base.json", report, 1.0)
    for factor, status in ((1.5, latency.SLOWER), (0.9, 0)):
        new = json.loads(rewritten(tmp_path / "new.json", report, factor).read_text())
        monkeypatch.setattr(latency, "measure", lambda _, new=new: new)
        assert latency.main(["--compare", str(base)]) == status


def test_what_cannot_be_compared_is_refused(tmp_path: Path, report: dict[str, Any]) -> None:
    other = {**report, "machine": {**report["machine"], "processor": "Abacus"}}
    with pytest.raises(ValueError, match="processor: 'Abacus' then"):
        comparing.compare(other, report)
    with pytest.raises(ValueError, match="no batch size in common"):
        comparing.compare({**report, "batches": {}}, report)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match=r"not written by latency\.py"):
        comparing.read_report(tmp_path / "x.json")


def test_other_engines_are_noted(report: dict[str, Any]) -> None:
    experts = {**report["experts"], "a": {**report["experts"]["a"], "sha256": "0" * 64}}
    found = comparing.compare({**report, "experts": experts}, report)
    assert any("a's file: 000000000000 then" in note for note in found.notes)


@pytest.mark.parametrize(
    ("arguments", "said"),
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
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    filled = [argument.format(engines=folder / "engines") for argument in arguments]
    assert latency.main([*filled, "--seconds", "0"]) == latency.REFUSED
    assert said in capsys.readouterr().err


def test_many_faces_of_one_picture_decode_it_once(folder: Path) -> None:
    from benchmarks.pictures import drawn_face

    picture = drawn_face(0).image
    boxes = [(10.0 * n, 5.0 * n, 60.0 + n, 80.0) for n in range(32)]
    with AgeMoE(folder / "engines") as moe:
        estimates = moe.predict([Face(picture, box=box) for box in boxes])
        stages = moe.stats().stages
    assert len(estimates) == 32
    assert stages["decode"].count == 1
    assert stages["experts"].count == 1
