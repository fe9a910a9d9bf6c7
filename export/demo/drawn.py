"""The demo of the four architectures on drawn faces: its faces, and what it shows of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from export.build.console import make_console
from export.demo.chart import Entry
from export.demo.portraits import PORTRAITS
from export.demo.sheet import contact_sheet, evaluation_summary
from export.demo.table import estimates_table
from export.errors import ExportError
from export.faces.drawn import DrawnFace, drawn_faces
from runtime.files import parse_json, read_json, read_text, replacing, write_json, write_whole

_GALLERY_FACES, _GALLERY_SEED = 11, 7
_LABELED_FACES, _LABELED_SEED = 400, 2
_UNSEEN_FACES, _UNSEEN_SEED = 300, 3
_SIZE = 192
_LABELS = "labels.csv"
_TRUTH = "truth.json"
_ESTIMATES = "estimates.jsonl"
_EVALUATION = "evaluation.json"
_PHOTOGRAPH = "photograph.png"
_PHOTOGRAPH_BOX = (150, 20, 330, 200)
"""Left, top, right, bottom of the face in the first of the portraits."""


def draw(folder: Path) -> None:
    """Draws faces unknown to the demo experts, in three sets.

    They are labeled/ for calibration, unseen/ for evaluation, and gallery/, with one photograph,
    for the contact sheet.
    """
    _draw_set(folder / "labeled", drawn_faces(_LABELED_FACES, seed=_LABELED_SEED, size=_SIZE))
    _draw_set(folder / "unseen", drawn_faces(_UNSEEN_FACES, seed=_UNSEEN_SEED, size=_SIZE))
    faces = drawn_faces(_GALLERY_FACES, seed=_GALLERY_SEED, size=_SIZE)
    truth = _draw_set(folder / "gallery", sorted(faces, key=lambda face: face.age_years))
    with Image.open(PORTRAITS[0].path()) as photograph:
        photograph.convert("RGB").crop(_PHOTOGRAPH_BOX).save(folder / "gallery" / _PHOTOGRAPH)
    write_json(folder / _TRUTH, truth)


def show(folder: Path, output: Path) -> None:
    """Prints the table and writes the contact sheet.

    Args:
        folder: as `draw` left it, with the output of `agemoe predict --json` as
            estimates.jsonl and that of `agemoe evaluate --json` as evaluation.json.
        output: the contact sheet, a PNG.
    """
    try:
        truth = read_json(folder / _TRUTH)
        lines = read_text(folder / _ESTIMATES).splitlines()
        entries = [
            Entry(Path(estimate["path"]), estimate, truth.get(Path(estimate["path"]).name))
            for estimate in map(parse_json, lines)
        ]
        summary = evaluation_summary(read_json(folder / _EVALUATION))
        table, sheet = estimates_table(entries), contact_sheet(entries, summary)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ExportError(
            f"{folder} is not as `draw`, `predict --json` and `evaluate --json` leave it "
            f"({error}). Run: make demo-architectures"
        ) from error
    console = make_console()
    console.print(table)
    console.print(summary)
    with replacing(output) as temporary:
        sheet.save(temporary, "PNG", optimize=True)
    console.print(f"Wrote the contact sheet: {output}")


def _draw_set(folder: Path, faces: Iterable[DrawnFace]) -> dict[str, float]:
    """Writes faces and labels.csv and returns the ages in years by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    ages = {}
    for number, face in enumerate(faces, start=1):
        name = f"drawn-{number:03}.png"
        Image.fromarray(face.image).save(folder / name, compress_level=1)
        ages[name] = face.age_years
    rows = [f"{name},{age:.3f}" for name, age in ages.items()]
    write_whole(folder / _LABELS, "\n".join(["image,age", *rows, ""]).encode())
    return ages
