"""Command-line errors and interruption of the benchmarks."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks import latency, load
from benchmarks.options import REFUSED
from runtime.commands import INTERRUPTED


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (latency, "--batch", "0"),
        (latency, "--batch", "1.5"),
        (latency, "--threads", "0"),
        (latency, "--seconds", "nan"),
        (latency, "--seconds", "soon"),
        (latency, "--json", "/nowhere/now.json"),
        (latency, "--plot", "/"),
        (load, "--callers", "0"),
        (load, "--rate", "0"),
        (load, "--rate", "nan"),
        (load, "--seconds", "-1"),
        (load, "--json", "/"),
        (load, "--max-batch", "0"),
    ],
)
def test_invalid_options_are_refused_before_measuring(
    capsys: pytest.CaptureFixture[str], command: ModuleType, option: str, value: str
) -> None:
    with pytest.raises(SystemExit) as refused:
        command.main([option, value])
    assert refused.value.code == REFUSED
    assert f"argument {option}: must be" in capsys.readouterr().err


@pytest.mark.parametrize("command", [latency, load])
def test_interruption_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: ModuleType
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measure", interrupted)
    assert command.main([]) == INTERRUPTED
    assert "Interrupted" in capsys.readouterr().err
