"""The benchmark of bulk labeling."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import labeling
from benchmarks.labeling import CROP, DECODE, FIND, PREDICT, START, labeled, main, parts
from tests.runtime.photo_samples import astronaut, tiny_centerface
from tests.runtime.tiny_engines import Tiny, add_detector, write_engines

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Engines, and a photograph whose reds the detector takes for a face."""
    engines = write_engines(tmp_path / "engines", {"a": Tiny()})
    add_detector(engines, tiny_centerface(tmp_path / "colors.onnx"))
    (tmp_path / "photos").mkdir()
    Image.fromarray(astronaut()).save(tmp_path / "photos/one.png")
    return tmp_path


def test_a_run_and_its_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = labeled(ROOT, folder / "engines", str(folder / "photos"))
    assert run.wall > 0.0
    assert run.processor > 0.0
    assert run.peak_bytes > 10_000_000
    assert len(run.table) == 64
    monkeypatch.setattr(labeling, "_start", lambda *_: run.processor)  # takes six runs
    seconds = parts(str(folder / "engines"), [str(folder / "photos/one.png")])
    assert seconds[START] == run.processor
    assert set(seconds) == {START, DECODE, FIND, CROP, PREDICT}
    assert all(own >= 0.0 for own in seconds.values())


def test_what_cannot_be_labeled_is_an_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [str(folder / "photos"), "--engines", str(folder / "engines"), "--rounds", "1"]
    for nothing in (folder, folder / "gone"):
        assert main([*options, "--against", str(nothing)]) == 2
        assert "is no checkout of this project" in capsys.readouterr().err
    (folder / "runtime").mkdir()
    assert main([*options, "--against", str(folder)]) == 2
    assert "cannot label" in capsys.readouterr().err
