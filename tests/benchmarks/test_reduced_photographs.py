"""Reduced copies of labeled photographs, and their table of labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import reduced_photographs
from export.calibration.labels import read_faces
from runtime.images import ImageLimits, load_rgb


def test_each_photograph_is_written_once_per_factor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "small"
    photos.mkdir()
    for name in ("001A20", "001A30", "002A40"):
        Image.new("RGB", (160, 200)).save(photos / f"{name}.png")
    excluded = tmp_path / "excluded.csv"
    excluded.write_text("source,image\nphotos,002A40.png\nother,001A20.png\n")
    command = [str(photos), "--output", str(output), "--exclude", str(excluded)]
    assert reduced_photographs.main(command) == 0
    faces = read_faces(output / reduced_photographs.LABELS, groups=["group_reduced"])
    found = sorted(
        (
            face.age_years,
            face.subject,
            face.groups["group_reduced"],
            load_rgb(face.path, ImageLimits()).shape,
        )
        for face in faces
    )
    assert found == [  # a quarter would have less than 64 pixels
        (age, "photos-001", f"1/{factor}", (200 // factor, 160 // factor, 3))
        for age in (20.0, 30.0)
        for factor in (1, 2)
    ]
    assert reduced_photographs.main(command) == 2
    assert "is not empty" in capsys.readouterr().err
