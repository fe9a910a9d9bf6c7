"""Every command with hostile arguments: an error, no traceback, nothing printed raw, no hang.

A pipe without a writer is among the arguments: whatever opens it unchecked waits for ever.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from PIL import Image

from runtime.detectors.names import DetectorFallbackWarning
from runtime.fusion_file import write_fusion
from tests.hostile_paths import hostile_paths, unprintable, with_path
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.tiny_engines import Tiny, write_engines

RUNTIME, CALIBRATE, EVALUATE = "runtime.__main__", "export.calibrate", "export.evaluate"
DIAGNOSE = "export.diagnose"
BUILD, DISTILL, TRITON = "export.build_engines", "export.distill", "export.triton_repository"
DEMO = "export.demo.__main__"
_FACES = ("--faces", "labels.csv", "--whole")
READ: dict[str, list[tuple[str, ...]]] = {
    RUNTIME: [
        ("predict", "{}"),
        ("predict", "--whole", "--json", "{}"),
        ("predict", "--whole", "light.png", "--engines", "{}"),
        ("predict", "light.png", "--detector", "centerface={}"),
        ("predict", "light.png", "--detector", "yunet={}"),
        ("predict", "light.png", "--detector", "{}"),
        ("label", "--faces", "whole", "light.png", "--output", "t.csv", "--engines", "{}"),
        ("doctor", "--engines", "{}"),
        ("serve", "--engines", "{}"),
        ("serve", "--engines", "engines", "--keys", "{}"),
        ("serve", "--engines", "engines", "--detector", "centerface={}"),
    ],
    CALIBRATE: [
        ("--predictions", "{}", "--experts", "a", "bb", "--output", "o"),
        ("--predictions", "{}.csv", "--experts", "a", "bb", "--output", "o"),
        ("--faces", "{}", "--output", "o"),
        ("--predictions", "pred.csv", "--truth", "{}", "--output", "o"),
        ("--published", "{}", "--experts", "a", "bb", "--output", "o"),
        ("--predictions", "pred.csv", "--keep-fusion", "{}", "--output", "o"),
        (*_FACES, "--engines", "{}", "--output", "o"),
        ("--predictions", "pred.csv", "--experts", "{}", "--output", "o"),
        ("--faces", "{}", "--layout", "fgnet", "--output", "o"),
        ("--faces", "{}", "--layout", "caf", "--output", "o"),
        ("--faces", "labels.csv", "--columns", "image={}", "--output", "o"),
    ],
    EVALUATE: [
        ("--predictions", "pred.csv", "--fusion", "{}"),
        ("--predictions", "{}", "--fusion", "fusion.json"),
        ("--predictions", "pred.csv", "--fusion", "fusion.json", "--compare", "{}"),
        (*_FACES, "--engines", "{}", "--fusion", "fusion.json", "--policy"),
    ],
    BUILD: [
        ("--plan", "--experts", "{}"),
        ("--experts", "one.toml", "--checkpoint", "a={}", "--output", "o"),
        ("--plan", "--experts", "one.toml", "--only", "{}"),
    ],
    DISTILL: [
        ("--faces", "{}", "--output", "o", "--checkpoint", "x"),
        ("--faces", "folder0", "--output", "o", "--checkpoint", "{}"),
        ("--faces", "folder0", "--output", "o", "--checkpoint", "x", "--experts", "{}"),
        ("--faces", "folder0", "--output", "o", "--checkpoint", "x", "--name", "{}"),
    ],
    TRITON: [("--engines", "{}", "--device", "cpu")],
    DIAGNOSE: [("--engines", "{}"), ("{}", "--engines", "engines")],
    DEMO: [("portraits", "--engines", "{}"), ("show", "{}")],
    "benchmarks.latency": [
        ("--engines", "{}"),
        ("--compare", "{}"),
        ("--pictures", "{}", "--seconds", "0.01", "--engines", "nothing"),
    ],
    "benchmarks.load": [("--engines", "{}")],
    "benchmarks.photographs": [
        ("--sources", "a={}"),
        ("--sources", "{}"),
        ("--sources", "a=labels.csv", "--exclude", "{}"),
    ],
    "benchmarks.scaling": [("--engines", "{}", "--workers", "1", "--photographs", "1")],
    "benchmarks.opening": [("--engines", "{}")],
    "benchmarks.cpu_limit": [("--engines", "{}")],
    "benchmarks.variant_search": [("--engines", "{}")],
    "benchmarks.attacks": [("--engines", "{}", "--kind", "no such kind")],
    "benchmarks.several_pictures": [
        ("--predictions", "{}", "--fusion", "fusion.json"),
        ("--predictions", "pred.csv", "--fusion", "{}"),
        ("--copies", "{}", "--engines", "engines"),
    ],
    "benchmarks.faces_refused": [
        ("--faces", "{}"),
        ("--faces", "folder0", "--engines", "{}"),
    ],
    "benchmarks.reduced_photographs": [
        ("{}", "--output", "o"),
        ("folder0", "--output", "o", "--exclude", "{}"),
    ],
}
"""What is read from a path that holds nothing of use: status not 0."""
WRITTEN: dict[str, list[tuple[str, ...]]] = {
    RUNTIME: [
        ("predict", "--whole", "light.png", "--engines", "engines", "--draw", "{}"),
        ("label", "--faces", "whole", "light.png", "--engines", "engines", "--output", "{}.csv"),
        ("label", "--faces", "whole", "light.png", "--engines", "engines", "--output", "{}/t.csv"),
    ],
    EVALUATE: [("--predictions", "pred.csv", "--fusion", "fusion.json", "--bootstrap", "100",
                "--output", "{}/o")],
    TRITON: [("--engines", "engines", "--device", "cpu", "--output", "{}/o")],
    BUILD: [
        ("--plan", "--experts", "one.toml", "--output", "{}/o"),
        ("--plan", "--experts", "one.toml", "--checkpoint", "a={}"),
    ],
    DEMO: [("draw", "{}/o"), ("portraits", "--engines", "engines", "--output", "{}")],
    "benchmarks.latency": [("--engines", "nothing", "--json", "{}", "--plot", "{}")],
    "benchmarks.load": [("--engines", "nothing", "--json", "{}")],
    "benchmarks.gpu_check": [("--engines", "nothing", "--output", "{}/o")],
}  # fmt: skip
"""What is written to a path that may or may not be usable: any status, but no traceback."""
WORDS = ("", "\0", "\udcff", "\u202e", "-1", "nan", "1e999", "9" * 5_000, "0x10", "x" * 300)
NUMBERS: dict[str, list[tuple[str, ...]]] = {
    RUNTIME: [
        ("predict", "light.png", "--threshold={}"),
        ("predict", "light.png", "--device={}"),
        ("predict", "light.png", "--precision={}"),
        *(("serve", "--engines", "nothing", f"--{name}={{}}") for name in (
            "port", "host", "max-body-bytes", "max-image-bytes", "max-pixels", "max-decode-bytes",
            "max-decode-seconds", "max-images", "max-faces", "max-requests", "max-connections",
            "max-header-seconds", "max-deadline-ms", "max-batch", "max-wait-ms", "queue-limit",
            "workers", "decoders", "notice-seconds", "drain-seconds", "new-key",
        )),
    ],
    CALIBRATE: [
        ("--predictions", "nothing.csv", "--experts", "a", "--output", "o", f"--{name}={{}}")
        for name in ("thresholds", "challenge", "bootstrap", "seed", "groups", "columns")
    ],
    EVALUATE: [
        ("--predictions", "nothing.csv", "--fusion", "nothing.json", "--policy", f"--{name}={{}}")
        for name in ("max-false-positive", "youngest", "floor")
    ],
    BUILD: [
        ("--plan", "--experts", "one.toml", f"--{name}={{}}")
        for name in ("optimization-level", "checkpoint", "only", "weights")
    ],
    DISTILL: [
        ("--faces", "nothing", "--output", "o", "--checkpoint", "x", f"--{name}={{}}")
        for name in ("epochs", "held-back", "seed", "name")
    ],
    DIAGNOSE: [
        ("--engines", "nothing", f"--{name}={{}}")
        for name in ("precision", "target", "optimization-level", "memory-gib")
    ],
    TRITON: [
        ("--engines", "nothing", f"--{name}={{}}") for name in ("instances", "queue-delay-us")
    ],
    "benchmarks.latency": [("--engines", "nothing", f"--{n}={{}}") for n in ("seconds", "threads")],
    "benchmarks.attacks": [
        ("--engines", "nothing", f"--{name}={{}}")
        for name in ("rounds", "max-cpu-seconds", "max-mb", "max-slowdown")
    ],
    "benchmarks.scaling": [
        ("--engines", "nothing", f"--{name}={{}}")
        for name in ("workers", "photographs", "rounds", "core-hour")
    ],
    "benchmarks.opening": [("--engines", "nothing", "--rounds={}")],
}  # fmt: skip
"""Words in place of numbers and names: status not 0, by the word or by what is missing."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: object
    text: str


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with small valid files of every kind."""
    monkeypatch.chdir(tmp_path)
    write_engines(tmp_path / "engines", {"a": Tiny(), "bb": Tiny(slope=50.0)})
    Image.new("RGB", (20, 20), (200, 200, 200)).save("light.png")
    Path("labels.csv").write_text("image,age\nlight.png,30\n")
    rows = (f"{20 + i % 50},{21 + i % 50},{19 + i % 47}" for i in range(100))
    Path("pred.csv").write_text("\n".join(("age,a,bb", *rows)))
    Path("one.toml").write_text(
        '[experts.a]\narchitecture = "onnx"\ncheckpoint = "engines/a/a.fp32.onnx"\n'
    )
    rows_of = {name: Row(-5.0) for name in ("a", "bb")}
    write_fusion(Path("fusion.json"), pivot_tables(rows_of))
    Path("folder0").mkdir()
    Path("h").mkdir()
    return tmp_path


def outcome(module: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Runs a command in this process; whatever it raises but SystemExit fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DetectorFallbackWarning)
        try:
            status = importlib.import_module(module).main(arguments)
        except SystemExit as error:
            status = error.code
    captured = capsys.readouterr()
    return Outcome(status, captured.out + captured.err)


def check(found: Outcome, what: object) -> None:
    assert "Traceback" not in found.text, what
    assert not set(unprintable(found.text)), (what, found.text[:300])
    assert "name\nline" not in found.text, what
    assert len(found.text) < 300_000, what


def tries(table: Mapping[str, list[tuple[str, ...]]]) -> list[ParameterSet]:
    return [
        pytest.param(module, command, id=f"{module}-{number}")
        for module, commands in table.items()
        for number, command in enumerate(commands)
    ]


QUICK = ("pipe", "loop", "evil name")


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("module", "command"), tries(READ))
def test_what_cannot_be_read_ends_in_an_error(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    module: str,
    command: tuple[str, ...],
    quick: bool,
) -> None:
    for what, path in hostile_paths(place / "h").items():
        if quick and what not in QUICK:
            continue
        found = outcome(module, with_path(command, path), capsys)
        check(found, (what, command))
        assert found.status not in (0, None), (what, command, found.text[:300])


@pytest.mark.slow
@pytest.mark.parametrize(("module", "command"), tries(WRITTEN))
def test_what_cannot_be_written_ends_in_an_error(
    place: Path, capsys: pytest.CaptureFixture[str], module: str, command: tuple[str, ...]
) -> None:
    for what, path in hostile_paths(place / "h").items():
        if what != "endless device":  # whatever is written there succeeds
            check(outcome(module, with_path(command, path), capsys), (what, command))
    assert Path("/dev/zero").is_char_device()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("module", "command"), tries(NUMBERS))
def test_words_in_place_of_numbers_end_in_an_error(
    capsys: pytest.CaptureFixture[str], module: str, command: tuple[str, ...]
) -> None:
    for word in WORDS:
        found = outcome(module, [part.replace("{}", word) for part in command], capsys)
        check(found, (word[:20], command))
        if "new-key" not in command[-1]:
            assert found.status not in (0, None), (word[:20], command, found.text[:300])
