"""`python -m runtime predict` and `… doctor`, in this process."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime import (
    AgeEstimate,
    AgeMoE,
    AgeMoEError,
    ExpertAge,
    ImageError,
    PhotoFace,
    Policy,
    write_policy,
)
from runtime.__main__ import main
from runtime.console import photo_line, photo_text
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


@pytest.mark.haar
def test_doctor_finds_no_problems(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_fusion(engines / "fusion.json", FusionTables.identity(["a", "bb"]))
    status, out, _ = ran(capsys, "doctor")
    assert status == 0, out
    assert "CPUExecutionProvider" in out
    assert "variants this CPU can run:" in out
    assert "calibrated for a, bb" in out
    assert "works: a on onnx-cpu, bb on onnx-cpu" in out
    assert not any(line.startswith("!") for line in out.splitlines())


@pytest.mark.haar
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


def with_policy(engines: Path, **terms: Any) -> Policy:
    with AgeMoE(engines) as moe:
        policy = Policy(binding=moe.binding, uncalibrated=True, **terms)
    write_policy(engines / "policy.json", policy)
    return policy


def finding(out: str, topic: str) -> str:
    """Returns the mark and the text of one entry of the doctor."""
    found = re.search(rf"^([ !]) {topic} +(.*(?:\n {{8,}}.*)*)", out, re.MULTILINE)
    assert found, out
    return f"{found[1]}{found[2]}"


@pytest.mark.haar
def test_doctor_describes_the_policy(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finding(ran(capsys, "doctor")[1], "policy").startswith(" no policy.json: no decisions")
    policy = with_policy(engines, floor=16.0)
    text = f" {policy.id}: threshold 18, challenge 25, floor 16, fits the engines and their"
    assert finding(ran(capsys, "doctor")[1], "policy").startswith(text)
    assert policy.binding is not None
    other = Policy(binding=replace(policy.binding, detector="centerface"), uncalibrated=True)
    write_policy(engines / "policy.json", other)
    status, out, _ = ran(capsys, "doctor")
    assert status == 1
    assert finding(out, "policy").startswith(f"!{other.id}: threshold 18")
    assert "faces were found by centerface, now by haar" in out
    (engines / "policy.json").write_text("{}")
    status, out, _ = ran(capsys, "doctor")
    assert status == 1
    assert finding(out, "policy").startswith("!engines/policy.json has")


def test_predict_with_a_policy(engines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = with_policy(engines, floor=16.0)
    paths = ["dark.png", "light.png", "none.png"]
    status, out, _ = ran(capsys, "predict", "--whole", "--policy", *paths)
    assert status == 1  # a picture is missing
    decided = [line.strip() for line in out.splitlines() if "(policy" in line]
    assert decided[0] == f"fail: 15.0 years are below the floor of 16. (policy {policy.id})"
    assert decided[1] == (f"pass: 60.0 years reach the challenge age of 25. (policy {policy.id})")
    assert decided[2].startswith("refer: ")
    _, out, _ = ran(capsys, "predict", "--whole", "--policy", "--json", *paths)
    decisions = [json.loads(line)["decision"] for line in out.splitlines()]
    assert [decision["outcome"] for decision in decisions] == ["fail", "pass", "refer"]
    assert {decision["policy"] for decision in decisions} == {policy.id}
    status, out, _ = ran(capsys, "predict", "--whole", "dark.png", "--json")
    assert "decision" not in json.loads(out)


def test_each_face_of_a_photograph_has_its_own_decision() -> None:
    ages = {"a": ExpertAge(30.0, 30.0, 1.0)}
    results: list[AgeEstimate | AgeMoEError] = [AgeEstimate(age, ages) for age in (30.0, 20.0)]
    results.append(ImageError("too small"))
    faces = [PhotoFace((4.0, 4.0, 9.0, 9.0), result=result) for result in results]
    policy = Policy(uncalibrated=True)
    line = json.loads(photo_line("photo.png", faces, "centerface", policy))
    outcomes = ["pass", "refer", "refer"]
    assert [face["decision"]["outcome"] for face in line["faces"]] == outcomes
    text = photo_text("photo.png", faces, policy)
    assert [row.split(":")[0].strip() for row in text.splitlines() if policy.id in row] == outcomes
    assert "decision" not in photo_line("photo.png", faces, "centerface")
    assert "policy" not in photo_text("photo.png", faces)


def test_a_photograph_without_a_face_is_referred() -> None:
    policy = Policy()
    decision = json.loads(photo_line("photo.png", [], "centerface", policy))["decision"]
    assert (decision["outcome"], decision["reasons"][0]["code"]) == ("refer", "no_estimate")
    text = photo_text("photo.png", [], policy)
    assert text.endswith(f"  refer: No face was found in the picture. (policy {policy.id})")
    assert "decision" not in json.loads(photo_line("photo.png", [], "centerface"))
    assert "policy" not in photo_text("photo.png", [])


@pytest.mark.parametrize("absent", [True, False])
def test_predict_refuses_a_policy_of_other_engines(
    engines: Path, capsys: pytest.CaptureFixture[str], absent: bool
) -> None:
    if not absent:
        with_policy(engines)
        write_fusion(engines / "fusion.json", FusionTables.identity(["a", "bb"]))
    status, out, err = ran(capsys, "predict", "--whole", "--policy", "dark.png")
    assert (status, out) == (1, "")
    assert "policy.json has 1 problem" in err
    assert ("cannot be read" if absent else "other fusion tables") in err


def test_whole_pictures_are_no_faces_of_the_policys_detector(
    engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with AgeMoE(engines) as moe:
        binding = replace(moe.binding, detector="centerface")
    write_policy(engines / "policy.json", Policy(binding=binding, uncalibrated=True))
    status, _, err = ran(capsys, "predict", "--whole", "--policy", "dark.png")
    assert status == 1
    assert "faces were found by centerface, now by none: each picture is one face" in err
    status, out, _ = ran(capsys, "predict", "--box", "0,0,20,20", "--policy", "dark.png")
    assert status == 0
    assert "refer: 15.0 years" in out


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
    assert "--max-cut-off: must be a number within 0..1" in capsys.readouterr().err


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
    monkeypatch.setattr("runtime.startup.Detectors.chosen", lambda _self, _name: nothing)
    found, _, err = ran(capsys, "predict", "--whole", "dark.png", *accept)
    assert found == status
    assert ("the detector finds no face there" in err) == (not accept)
