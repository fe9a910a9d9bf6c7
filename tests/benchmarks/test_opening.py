"""The benchmark of opening."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.opening import main, opening
from tests.runtime.tiny_engines import Tiny, write_engines


def test_a_fresh_process_reports_what_opening_took(tmp_path: Path) -> None:
    engines = write_engines(tmp_path, {"a": Tiny()})
    found = opening({"engines": str(engines), "verify": False})
    assert set(found) == {"wall", "processor", "peak_bytes"}
    assert found["wall"] > 0
    assert found["peak_bytes"] > 10_000_000


def test_what_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot open the engines"):
        opening({"engines": str(tmp_path)})


def test_another_precision_than_the_requested_one_is_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = write_engines(tmp_path, {"a": Tiny()})
    assert main(["--engines", str(engines), "--precision", "int8"]) == 2
    assert "a has no int8 variant, and FP32 would be measured" in capsys.readouterr().err
