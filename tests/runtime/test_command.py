"""`python -m runtime predict` and `… doctor`, in this process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.__main__ import main
from runtime.fusion import FusionTables
from runtime.fusion_file import write_fusion
from tests.runtime.photo_samples import tiny_centerface
from tests.runtime.tiny_engines import Tiny, add_detector, write_engines


@pytest.fixture
def engines(empty_folder: Path) -> Path:
    """The default folder of a fresh working directory, beside two photographs."""
    write_engines(empty_folder / "engines", {"a": Tiny(), "bb": Tiny(slope=50.0)})
    for name, level in (("dark", 51), ("light", 204)):
        Image.new("RGB", (20, 20), (level, level, level)).save(empty_folder / f"{name}.png")
    return empty_folder / "engines"


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.mark.usefixtures("engines")
def test_predict_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ran(capsys, "predict", "--whole", "dark.png", "light.png")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "dark.png: the whole picture as one face"
    assert "15.0 years" in lines[1]
    assert "not calibrated" in lines[1]
    assert "a   raw  20.0, corrected  20.0, weight 0.50" in lines[2]
    assert "bb  raw  10.0" in lines[3]
    assert "60.0 years" in lines[5]


@pytest.mark.usefixtures("engines")
def test_predict_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ran(capsys, "predict", "--whole", "light.png", "dark.png", "--json")
    assert (status, err) == (0, "")
    light, dark = map(json.loads, out.splitlines())
    assert (light["path"], dark["path"]) == ("light.png", "dark.png")
    assert dark["box"] is None
    assert dark["age_years"] == pytest.approx(15.0)
    assert dark["experts"]["bb"]["weight"] == 0.5


@pytest.mark.usefixtures("engines")
def test_more_photographs_than_a_batch(capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["dark.png", "light.png"] * 35
    status, out, _ = ran(capsys, "predict", "--whole", *paths, "--json")
    assert status == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert [line["path"] for line in found] == paths
    assert [round(line["age_years"]) for line in found] == [15, 60] * 35


def test_a_box_is_cut_out(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[5:10, 5:10] = 255
    Image.fromarray(image).save(engines.parent / "spot.png")
    _, out, _ = ran(capsys, "predict", "spot.png", "--json", "--box", "5,5,5,5")
    assert json.loads(out)["age_years"] == pytest.approx(75.0)
    assert json.loads(out)["box"] == [5, 5, 5, 5]
    _, out, _ = ran(capsys, "predict", "spot.png", "--box", "5,5,5,5")
    assert out.startswith("spot.png: 1 face, 5×5 pixels at 5, 5 as given\n")


@pytest.mark.usefixtures("engines")
def test_a_bad_photograph_affects_only_the_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, err = ran(capsys, "predict", "--whole", "dark.png", "gone.png", "light.png")
    assert status == 1
    assert "15.0 years" in out
    assert "60.0 years" in out
    assert "gone.png\n  error: There is no picture at gone.png" in err
    status, out, err = ran(capsys, "predict", "--whole", "dark.png", "gone.png", "--json")
    assert (status, err) == (1, "")
    assert "no picture" in json.loads(out.splitlines()[1])["error"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "dark.png", "light.png", "--box", "0,0,5,5"],
        ["predict", "dark.png", "--box", "0,0,5"],
        ["predict", "dark.png", "--box", "a,b,c,d"],
        ["predict"],
        [],
    ],
)
@pytest.mark.usefixtures("engines")
def test_misuse_is_explained(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m runtime" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engines", "nowhere"], "there is no such file"),
        (["--device", "abacus"], "device='abacus' was requested"),
        (["--precision", "fp16"], "was built in fp32"),
        (["--box", "90,90,5,5"], "lies outside the picture"),
    ],
)
@pytest.mark.usefixtures("engines")
def test_an_error_is_one_line_without_a_traceback(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, out, err = ran(
        capsys,
        "predict",
        "dark.png",
        *(arguments if "--box" in arguments else ["--whole", *arguments]),
    )
    assert (status, out) == (1, "")
    assert "error: " in err
    assert message in err


@pytest.mark.filterwarnings("always::runtime.PlaceholderWeightsWarning")
def test_placeholder_weights_are_warned_of_on_the_terminal(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_engines(empty_folder / "engines", {"a": Tiny(kind="demo")})
    Image.new("RGB", (9, 9)).save(empty_folder / "p.png")
    status, _, err = ran(capsys, "predict", "--whole", "p.png")
    assert status == 0
    assert err.startswith("warning: a: demo experts")


def test_doctor_finds_no_problems(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fusion(engines / "fusion.json", FusionTables.identity(["a", "bb"]))
    status, out, _ = ran(capsys, "doctor")
    assert status == 0, out
    assert "CPUExecutionProvider" in out
    assert "variants this CPU can run:" in out
    assert "calibrated for a, bb" in out
    assert "works: a on onnx-cpu, bb on onnx-cpu" in out
    assert not any(line.startswith("!") for line in out.splitlines())


def test_doctor_describes_the_detector(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, "doctor")
    assert re.search(r"^  detector +none: OpenCV's Haar cascade finds the faces", out, re.MULTILINE)
    model = add_detector(engines, tiny_centerface(engines.parent / "colors.onnx"))
    status, out, _ = ran(capsys, "doctor")
    described = r"^  detector +centerface, pypi://made-up==1\.0/colors\.onnx \(MIT\), intact"
    assert status == 0, out
    assert re.search(described, out, re.MULTILINE)
    model.write_bytes(b"broken")
    status, out, _ = ran(capsys, "doctor")
    assert status == 1
    assert re.search(r"^! detector .*\(MIT\): .* has 6 bytes", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda e: (e / "a/a.fp32.onnx").unlink(), "is missing"),
        (lambda e: (e / "a/a.fp32.onnx").write_bytes(b"short"), "the manifest lists"),
        (lambda e: (e / "manifest.json").write_text("{}"), "problems"),
        (lambda e: (e / "manifest.json").unlink(), "there is no such file"),
        (lambda e: (e / "fusion.json").write_text("{"), "cannot be read"),
        (
            lambda e: write_fusion(e / "fusion.json", FusionTables.identity(["z"])),
            "experts.a: missing",
        ),
    ],
)
def test_doctor_finds_damage(
    engines: Path, capsys: pytest.CaptureFixture[str], damage: object, message: str
) -> None:
    assert callable(damage)
    damage(engines)
    status, out, _ = ran(capsys, "doctor", "--engines", str(engines))
    assert status == 1
    marked = [line for line in out.splitlines() if line.startswith("!")]
    assert marked
    assert message in out


@pytest.mark.usefixtures("engines")
def test_predict_refuses_below_the_limits(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("predict", "--whole", "dark.png")
    status, out, err = ran(capsys, *given, "--min-face-pixels", "21", "--min-contrast", "3")
    assert (status, out) == (1, "")
    assert "face size is 20 pixels, less than the required 21 pixels" in err
    assert "contrast is 0, less than the required 3" in err
    assert ran(capsys, *given, "--min-face-pixels", "20")[0] == 0
    with pytest.raises(SystemExit):
        main([*given, "--max-cut-off", "2"])
    assert "max_cut_off=2.0" in capsys.readouterr().err


@pytest.mark.parametrize(("accept", "status"), [((), 1), (("--accept-no-face",), 0)])
def test_predict_refuses_what_is_no_face(
    engines: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    accept: tuple[str, ...],
    status: int,
) -> None:
    del engines
    nothing = type("Nothing", (), {"provenance": "nothing", "detect": lambda _self, _image: []})()
    monkeypatch.setattr("runtime.agemoe.Detectors.chosen", lambda _self, _name: nothing)
    found, _, err = ran(capsys, "predict", "--whole", "dark.png", *accept)
    assert found == status
    assert ("the detector finds no face there" in err) == (not accept)
