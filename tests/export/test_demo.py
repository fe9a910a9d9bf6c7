"""The demo experts are fitted, exported and loaded like others, and beat guessing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import export.build.demo_weights
from export.build.experts_file import DEMO_EXPERTS, read_experts
from export.build.options import BuildOptions, resolve_options
from export.build.pipeline import build
from export.demo import __main__ as demo
from export.demo.chart import Entry
from export.demo.sheet import contact_sheet, evaluation_summary
from export.faces.drawn import drawn_faces
from runtime import AgeEstimate, AgeMoE, PlaceholderWeightsWarning
from tests.export.test_pipeline import Quiet

UNSEEN_SEED = 99


def errors_years(engines: Path, count: int) -> dict[str, np.ndarray]:
    """Returns signed errors on unseen faces: of each expert, `fused`, and the mean as `guess`."""
    faces = list(drawn_faces(count, seed=UNSEEN_SEED, size=192))
    truth = np.array([face.age_years for face in faces])
    with pytest.warns(PlaceholderWeightsWarning, match="demo experts"):
        moe = AgeMoE(engines)
    with moe:
        estimates = moe.predict([face.image for face in faces])
    found = [e for e in estimates if isinstance(e, AgeEstimate)]
    assert len(found) == count
    ages = {n: np.array([e.experts[n].age_years for e in found]) for n in moe.experts}
    ages["fused"] = np.array([e.age_years for e in found])
    ages["guess"] = np.full(count, truth.mean())
    return {name: values - truth for name, values in ages.items()}


def assert_better_than_guessing(errors: dict[str, np.ndarray], share: float) -> None:
    guess = np.abs(errors["guess"]).mean()
    for name, error in errors.items():
        if name != "guess":
            assert np.abs(error).mean() < share * guess, (name, np.abs(error).mean(), guess)


def demo_options(output: Path) -> BuildOptions:
    return resolve_options(output=output, weights="demo", only=["vgg16", "resnet50"])


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns an engines folder of CNN demo experts fitted on few faces."""
    output = tmp_path_factory.mktemp("demo") / "engines"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(export.build.demo_weights, "FITTING_FACES", 300)
        export.build.demo_weights.fitting_faces.cache_clear()
        build(demo_options(output), Quiet())
        export.build.demo_weights.fitting_faces.cache_clear()
    return output


@pytest.mark.slow
def test_experts_fitted_on_few_faces_beat_guessing(engines: Path) -> None:
    errors = errors_years(engines, 60)
    assert_better_than_guessing(errors, 0.85)
    assert np.corrcoef(errors["vgg16"], errors["resnet50"])[0, 1] < 0.9  # their errors differ


@pytest.mark.conversion
def test_checkpoints_are_ordinary_and_recognized(engines: Path, tmp_path: Path) -> None:
    checkpoint = engines / "checkpoints" / "resnet50.demo.safetensors"
    table = DEMO_EXPERTS.read_text().split("[experts.resnet50]")[1].split("[experts.")[0]
    settings = DEMO_EXPERTS.read_text().split("[experts.resnet50.geometry]")[1].split("[")[0]
    text = f"[experts.resnet50]\ncheckpoint = '{checkpoint}'\n{table}"
    (tmp_path / "experts.toml").write_text(f"{text}\n[experts.resnet50.geometry]{settings}")
    report = build(
        resolve_options(output=tmp_path / "out", experts_file=tmp_path / "experts.toml"), Quiet()
    )
    assert report.rows[0].expert.source.kind == "checkpoint"
    ours = (tmp_path / "out" / "resnet50" / "resnet50.fp32.onnx").read_bytes()
    assert ours == (engines / "resnet50" / "resnet50.fp32.onnx").read_bytes()


@pytest.mark.conversion
def test_a_second_run_fits_nothing(engines: Path) -> None:
    quiet = Quiet()
    report = build(demo_options(engines), quiet)
    assert all(row.reused for row in report.rows)
    assert not [what for _, what in quiet.stages if "fitting" in what]


EVALUATION = {
    "faces": 300,
    "experts": ["a", "b"],
    "mae": {"fused": 8.04, "a": {"corrected": 9.96}, "b": {"corrected": 12.0}},
    "coverage": {"90": 0.897},
}


def test_the_summary_compares_with_the_best_expert() -> None:
    assert evaluation_summary(EVALUATION) == (
        "On 300 unseen drawn faces: mean absolute error fused 8.0 years, "
        "best single expert 10.0 (a); "
        "the 90 % interval covers 90%."
    )


def entry_of(path: Path, age: float, truth: float | None) -> Entry:
    expert = {"age_years": age + 2, "corrected_years": age + 1, "weight": 1.0}
    return Entry(
        path,
        {"age_years": age, "low_years": age - 9, "high_years": age + 9, "experts": {"a": expert}},
        truth,
    )


def test_the_contact_sheet_is_drawn(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "teal").save(tmp_path / "face.png")
    entries = [
        entry_of(tmp_path / "face.png", 30.0, 33.0),
        entry_of(tmp_path / "face.png", 99.0, None),
    ]
    sheet = contact_sheet(entries, evaluation_summary(EVALUATION))
    assert sheet.width > 1000
    assert len(sheet.getcolors(1 << 20) or []) > 50


def test_draw_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, output = tmp_path / "demo", tmp_path / "demo.png"
    assert demo.main(["draw", str(folder)]) == 0
    pictures = sorted((folder / "gallery").glob("*.png"))
    assert len(pictures) == 12
    labels = (folder / "unseen" / "labels.csv").read_text().splitlines()
    assert labels[0] == "image,age"
    assert len(labels) == 1 + len(list((folder / "unseen").glob("*.png")))
    truth = json.loads((folder / "truth.json").read_text())
    assert set(truth) == {p.name for p in pictures} - {"photograph.png"}
    lines: Sequence[str] = [
        json.dumps({"path": str(p), **entry_of(p, 50.0, None).estimate}) for p in pictures
    ]
    (folder / "estimates.jsonl").write_text("\n".join(lines))
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    assert demo.main(["show", str(folder), "--output", str(output)]) == 0
    assert "drawn-001.png" in capsys.readouterr().out
    with Image.open(output) as sheet:
        assert sheet.format == "PNG"


@pytest.mark.slow
def test_every_demo_expert_beats_guessing_clearly(tmp_path: Path) -> None:
    build(resolve_options(output=tmp_path, weights="demo", fp16=True), Quiet())
    errors = errors_years(tmp_path, 200)
    assert set(errors) == {*read_experts(DEMO_EXPERTS, []), "fused", "guess"}
    assert_better_than_guessing(errors, 0.75)
