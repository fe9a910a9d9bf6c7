"""The benchmark of opening."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.opening import opening
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
