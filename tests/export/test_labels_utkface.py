"""Names of UTKFace's pictures, some of which lack the gender or the race."""

from __future__ import annotations

from pathlib import Path

from export.calibration.labels import read_faces


def test_names_without_gender_or_race_are_read(tmp_path: Path) -> None:
    names = {
        "25_0_1_20170116174525125.jpg.chip.jpg": (25.0, {"gender": "male", "race": "black"}),
        "39_1_20170116174525125.jpg.chip.jpg": (39.0, {"gender": "female"}),
        "61_3_20170109150557335.jpg.chip.jpg": (61.0, {"race": "indian"}),
    }
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = {face.name: (face.age_years, face.groups) for face in read_faces(tmp_path)}
    assert found == names
