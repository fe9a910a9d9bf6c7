"""`python -m runtime predict` on whole photographs and `… label`, in this process."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import labeler
from runtime.__main__ import main
from runtime.label_tables import journal_of
from runtime.resume_log import ResumeLog
from tests.runtime.photo_samples import astronaut, grace, tiny_centerface, tiny_yunet
from tests.runtime.tiny_engines import Tiny, add_detector, write_engines


@pytest.fixture(autouse=True)
def folder(empty_folder: Path) -> Path:
    """A fresh working directory with engines and pictures of two, one and no people."""
    write_engines(empty_folder / "engines", {"a": Tiny(), "bb": Tiny(slope=50.0)})
    (empty_folder / "photos").mkdir()
    pictures = {
        "empty": np.full((40, 60, 3), 99, np.uint8),
        "one": astronaut(),
        "two": np.hstack([grace()[:512], astronaut()]),
    }
    for name, image in pictures.items():
        Image.fromarray(image).save(empty_folder / f"photos/{name}.png")
    return empty_folder


HAAR = ("--detector", "haar")
LABEL = ("label", "photos", *HAAR, "--output", "ages.csv")
EMPTY = "photos/empty.png: no face found (--whole takes the picture as one face)"


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    output = capsys.readouterr()
    return status, output.out, output.err


def test_photographs_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ran(capsys, "predict", *HAAR, "photos/two.png", "photos/empty.png")
    assert status == 1  # a photograph without a face has no age
    lines = out.splitlines()
    assert lines[0] == "photos/two.png: 2 faces, from left to right"
    assert "1. " in lines[1]
    assert re.match(r"  1\. 2\d\d×2\d\d pixels at 1[45]\d, (9\d|1\d\d)$", lines[1])
    assert "years" in lines[2]
    assert lines[-1] == EMPTY
    assert err.startswith("detector: haar haarcascade_frontalface_default.xml (sha256 ")


def test_photographs_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ran(capsys, "predict", "--json", *HAAR, "photos/one.png", "gone.png")
    assert (status, err) == (1, "")
    one, gone = map(json.loads, out.splitlines())
    (face,) = one["faces"]
    assert face["box"] == pytest.approx([176, 64, 98, 98], abs=10)
    assert set(face["experts"]) == {"a", "bb"}
    assert "sha256" in one["detector"]
    assert gone["error"] == "There is no picture at gone.png."


@pytest.mark.filterwarnings("always::runtime.DetectorFallbackWarning")
def test_the_default_detector_is_the_folders_or_the_fallback_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = ran(capsys, "predict", "photos/one.png")
    assert status == 0
    assert err.startswith("warning: engines has no face detector: OpenCV's Haar cascade finds")
    assert "\ndetector: haar " in err
    add_detector(folder / "engines", tiny_centerface(folder / "colors.onnx"))
    status, out, err = ran(capsys, "predict", "photos/empty.png")
    assert (status, out) == (1, f"{EMPTY}\n")
    assert err.startswith("detector: centerface colors.onnx (sha256 ")
    ran(capsys, "label", "photos/empty.png", "--output", "ages.csv")
    assert "no face found" in (folder / "ages.csv").read_text(encoding="utf-8")


def test_the_old_spelling_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "photos/one.png", "--photo"])
    assert "--photo is now the default, so leave it out" in capsys.readouterr().err


def test_a_drawing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, _ = ran(capsys, "predict", *HAAR, "photos/two.png", "--draw", "drawn.png")
    assert status == 0
    with Image.open(folder / "drawn.png") as drawn:
        assert drawn.size == (1024, 512)


def test_yunet_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_yunet(folder / "bright.onnx")
    status, out, err = ran(capsys, "predict", "photos/empty.png", "--detector", f"yunet:{model}")
    assert (status, out) == (1, f"{EMPTY}\n")
    assert "yunet bright.onnx (sha256 " in err
    status, _, err = ran(
        capsys, "predict", "photos/one.png", "--detector", f"yunet:{model}#sha256=12"
    )
    assert status == 1
    assert "expected 12" in err


@pytest.mark.parametrize(
    "options",
    [
        ["--photo"],
        ["--whole", "--box", "0,0,5,5"],
        ["--person-box", "0,0,5,5"],
        ["--whole", "--draw", "out.png"],
        ["--box", "0,0,5,5", "--draw", "out.png"],
        ["--draw", "out.gif"],
        ["--draw", "no/out.png"],
        ["--draw", "./photos/one.png"],
        ["photos/two.png", "--draw", "out.png"],
        ["photos/two.png", "--whole", "--person-box", "0,0,5,5"],
        ["--detector", "dlib"],
    ],
)
def test_misuse_is_explained(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["predict", "photos/one.png", *options])
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_label_writes_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ran(capsys, *LABEL)
    assert (status, out) == (0, "")
    assert err.startswith("ages.csv: 3 faces in 3 photographs\n")  # no progress of a short job
    assert "1 photograph without a face, 0 bad" in err
    with (folder / "ages.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["path"]).stem, row["face"], row["error"]) for row in rows] == [
        ("empty", "", "no face found"),
        ("one", "0", ""),
        ("two", "0", ""),
        ("two", "1", ""),
    ]
    assert float(rows[2]["x"]) < float(rows[3]["x"])


def test_label_lists_bad_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.csv").write_text("path\nphotos/one.png\ngone.png\n", encoding="utf-8")
    status, _, err = ran(capsys, "label", "list.csv", "--faces", "whole", "--output", "ages.csv")
    assert status == 1
    assert "  gone.png: There is no picture at gone.png." in err
    assert ran(capsys, *LABEL)[2].startswith("error: ages.csv e")
    assert ran(capsys, *LABEL, "--overwrite")[0] == 0


def test_label_resumes_after_ctrl_c(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labeler, "BATCH_SIZE", 1)
    add, added = ResumeLog.add, 0

    def add_one(self: ResumeLog, batch: object) -> None:
        nonlocal added
        if added:
            raise KeyboardInterrupt
        added += 1
        add(self, batch)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ResumeLog, "add", add_one)
        status, _, err = ran(capsys, *LABEL, "--faces", "whole")
    assert status == 130
    assert "kept in ages.csv.journal" in err
    assert journal_of(folder / "ages.csv").exists()
    status, _, err = ran(capsys, *LABEL, "--faces", "whole")
    assert status == 0
    assert "3 faces in 3 photographs" in err


def test_an_existing_table_is_found_before_the_engines_are_opened(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "ages.csv").write_text("precious", encoding="utf-8")
    status, _, err = ran(capsys, *LABEL, "--engines", "nowhere")
    assert (status, "ages.csv exists" in err, "nowhere" in err) == (1, True, False)


def test_ray_without_its_package(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "runtime.serving.ray_labeling", None)
    status, _, err = ran(capsys, *LABEL, "--ray", "auto")
    assert status == 1
    assert "agemoe-runtime[ray]" in err
