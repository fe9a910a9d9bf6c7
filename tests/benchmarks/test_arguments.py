"""What both benchmarks' command lines refuse, and how they end when interrupted."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks import latency, load
from benchmarks.arguments import INTERRUPTED


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
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], command: ModuleType, option: str, value: str
) -> None:
    with pytest.raises(SystemExit) as refused:
        command.main([option, value])
    assert refused.value.code == command.REFUSED
    assert f"argument {option}: must be" in capsys.readouterr().err


@pytest.mark.parametrize("command", [latency, load])
def test_an_interrupted_run_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: ModuleType
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measure", interrupted)
    assert command.main([]) == INTERRUPTED
    assert "Interrupted" in capsys.readouterr().err
