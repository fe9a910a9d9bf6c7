"""Draws the faces of `make demo` and shows their estimates as a table and a contact sheet.

python -m export.demo draw FOLDER      draws faces unknown to the demo experts, in three sets:
                                       labeled/ for calibration, unseen/ for evaluation, gallery/
                                       (with one photograph) for the contact sheet
python -m export.demo show FOLDER      reads FOLDER/estimates.jsonl and FOLDER/evaluation.json,
                                       prints a table and writes the contact sheet
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from export.demo.sheet import Entry, contact_sheet, evaluation_summary
from export.faces.drawn import DrawnFace, drawn_faces
from runtime.files import replacing, write_json, write_whole

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
"""Left, top, right, bottom of the face in scikit-image's astronaut."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the two steps."""
    parser = argparse.ArgumentParser(
        prog="python -m export.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", choices=("draw", "show"))
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--output", type=Path, default=Path("demo.png"), help="contact sheet (default demo.png)"
    )
    parsed = parser.parse_args(arguments)
    if parsed.step == "draw":
        _draw(parsed.folder)
    else:
        _show(parsed.folder, parsed.output)
    return 0


def _draw(folder: Path) -> None:
    from skimage.data import astronaut

    _draw_set(folder / "labeled", drawn_faces(_LABELED_FACES, seed=_LABELED_SEED, size=_SIZE))
    _draw_set(folder / "unseen", drawn_faces(_UNSEEN_FACES, seed=_UNSEEN_SEED, size=_SIZE))
    faces = drawn_faces(_GALLERY_FACES, seed=_GALLERY_SEED, size=_SIZE)
    truth = _draw_set(folder / "gallery", sorted(faces, key=lambda face: face.age_years))
    photograph = Image.fromarray(astronaut())  # type: ignore[no-untyped-call]
    photograph.crop(_PHOTOGRAPH_BOX).save(folder / "gallery" / _PHOTOGRAPH)
    write_json(folder / _TRUTH, truth)


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


def _show(folder: Path, output: Path) -> None:
    truth = json.loads((folder / _TRUTH).read_text(encoding="utf-8"))
    lines = (folder / _ESTIMATES).read_text(encoding="utf-8").splitlines()
    entries = [
        Entry(Path(estimate["path"]), estimate, truth.get(Path(estimate["path"]).name))
        for estimate in map(json.loads, lines)
    ]
    from export.build.console import make_console
    from export.demo.table import estimates_table

    summary = evaluation_summary(json.loads((folder / _EVALUATION).read_text(encoding="utf-8")))
    make_console().print(estimates_table(entries))
    print(summary)
    with replacing(output) as temporary:
        contact_sheet(entries, summary).save(temporary, "PNG", optimize=True)
    print(f"Wrote the contact sheet: {output}")


if __name__ == "__main__":
    sys.exit(main())
