"""`make demo`'s own part: faces to estimate, and the picture and table of what was said.

python -m export.demo draw FOLDER      drawn faces the demo experts have not seen, one photograph
python -m export.demo show FOLDER      reads FOLDER/estimates.jsonl, prints a table, writes a sheet
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from export.demo.faces import drawn_faces
from export.demo.sheet import Entry, contact_sheet
from runtime.files import replacing, write_json

_FACES = 11
_UNSEEN_SEED = 7
_SIZE = 192
_TRUTH = "truth.json"
_ESTIMATES = "estimates.jsonl"
_PHOTOGRAPH = "photograph.png"
_PHOTOGRAPH_BOX = (150, 20, 330, 200)
"""Left, top, right, bottom of the face in scikit-image's astronaut."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the two steps."""
    parser = argparse.ArgumentParser(prog="python -m export.demo", description=__doc__)
    parser.add_argument("step", choices=("draw", "show"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path("demo.png"), help="the contact sheet")
    parsed = parser.parse_args(arguments)
    if parsed.step == "draw":
        _draw(parsed.folder)
    else:
        _show(parsed.folder, parsed.output)
    return 0


def _draw(folder: Path) -> None:
    from skimage.data import astronaut

    folder.mkdir(parents=True, exist_ok=True)
    faces = sorted(drawn_faces(_FACES, seed=_UNSEEN_SEED, size=_SIZE), key=lambda f: f.age_years)
    truth = {}
    for number, face in enumerate(faces, start=1):
        name = f"drawn-{number:02}.png"
        Image.fromarray(face.image).save(folder / name)
        truth[name] = face.age_years
    photograph = Image.fromarray(astronaut())  # type: ignore[no-untyped-call]
    photograph.crop(_PHOTOGRAPH_BOX).save(folder / _PHOTOGRAPH)
    write_json(folder / _TRUTH, truth)


def _show(folder: Path, output: Path) -> None:
    truth = json.loads((folder / _TRUTH).read_text(encoding="utf-8"))
    lines = (folder / _ESTIMATES).read_text(encoding="utf-8").splitlines()
    entries = [
        Entry(Path(said["path"]), said, truth.get(Path(said["path"]).name))
        for said in map(json.loads, lines)
    ]
    from export.demo.table import estimates_table
    from export.display import make_console

    make_console().print(estimates_table(entries))
    with replacing(output) as temporary:
        contact_sheet(entries).save(temporary, "PNG", optimize=True)
    print(f"The same as a picture: {output}")


if __name__ == "__main__":
    sys.exit(main())
