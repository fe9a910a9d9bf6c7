"""Damaged files end in an error of this project, whichever reader gets them.

The quick share is 300 mutants; `-m slow` tries 20,000, as does `MUTANTS`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from export.build.experts_file import PUBLIC, read_configuration
from export.calibration.csv_tables import read_csv
from runtime.errors import PicklableError
from runtime.fusion_file import read_fusion
from runtime.label_lists import listed_faces
from runtime.manifest_file import read_manifest
from runtime.printing import MOST_LISTED
from runtime.serving.keys import new_key, read_keys
from tests.export.damage import mutants
from tests.hostile_paths import EVIL, unprintable
from tests.runtime.tiny_engines import Tiny, write_engines

MUTANTS, QUICK = 20_000, 300
VALUES = [
    b"0..99999999999", b"1" + b"0" * 400, b"9" * 5_000, b"0x" + b"f" * 9_000, b"nan", b"-inf",
    b"1e999", b"null", b"true", b"[]", b"{}", b'""', b"[" * 3_000, b"{" * 3_000,
    b'{"a":' * 3_000, b'"\\ud800"', b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"../../etc/passwd", b"/",
    b"n" * 300, b'"' + EVIL.encode("utf-8", "surrogateescape") + b'"', b"a." * 3_000 + b"a=1\n",
    b"2026-99-99", b'"""', b"'", b";", b"\t", b",,,,,,,", b"\r", b"-1", b"0",
]  # fmt: skip


def configuration(path: Path) -> None:
    problems: list[str] = []
    read_configuration(path, problems)
    assert len(problems) <= MOST_LISTED


def samples(folder: Path) -> dict[str, tuple[Path, bytes, Callable[[Path], object]]]:
    """Returns a valid file of each kind, and its reader."""
    write_engines(folder, {"a": Tiny(outputs=("age_years", "age_probs")), "b": Tiny()})
    fusion = PUBLIC.with_suffix(".fusion.json").read_bytes()
    small = json.loads(fusion)
    small["provenance"] = {}
    faces = "path,x,y,w,h,score,turn\na.png,1,2,3,4,0.5,0\nb.png,1,2,3,4,,1\n"
    return {
        "manifest.json": (
            folder / "manifest.json",
            (folder / "manifest.json").read_bytes(),
            lambda path: read_manifest(path.parent),
        ),
        "fusion.json": (folder / "fusion.json", json.dumps(small).encode(), read_fusion),
        "experts.toml": (folder / "e.toml", PUBLIC.read_bytes(), configuration),
        "list": (folder / "l.csv", faces.encode(), lambda path: listed_faces([str(path)])),
        "labels": (folder / "t.csv", b'image;age\n"a.png";3\nb.png;4,5\n', read_csv),
        "keys": (folder / "keys", new_key("one", "user")[1].line().encode(), read_keys),
    }


@pytest.mark.parametrize("count", [QUICK, pytest.param(MUTANTS, marks=pytest.mark.slow)])
def test_damaged_files_end_in_errors_of_this_project(tmp_path: Path, count: int) -> None:
    kinds = samples(tmp_path)
    refused = dict.fromkeys(kinds, 0)
    for number, (kind, (path, data, read)) in enumerate(kinds.items()):
        path.write_bytes(data)
        read(path)
        for mutant in mutants(data, count // len(kinds), random.Random(number), VALUES):
            path.write_bytes(mutant)
            message = ""
            try:
                read(path)
            except PicklableError as error:
                refused[kind] += 1
                message = str(error)
            assert not list(unprintable(message)), mutant
            assert len(message) < 300_000
    assert all(refused[kind] for kind in kinds if kind != "experts.toml"), refused
