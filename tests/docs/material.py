"""What the tutorials start from: an engines folder, a photograph, tables with intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from runtime.fusion import Spread
from runtime.fusion_file import write_fusion
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.photo_samples import astronaut
from tests.runtime.tiny_engines import SHA, Tiny, write_engines

EXPERTS = ("dlib_age", "faceapi")


def write_material(folder: Path) -> Path:
    """Writes `engines` and `photo.jpg` to a folder, which is returned."""
    engines = folder / "engines"
    write_engines(engines, {EXPERTS[0]: Tiny(), EXPERTS[1]: Tiny(slope=60.0, offset=10.0)})
    quantiles = {frozenset(EXPERTS): np.tile([-9.0, -6.0, 0.0, 6.0, 9.0], (101, 1))}
    tables = pivot_tables(
        dict.fromkeys(EXPERTS, Row(source_sha256=SHA)),
        spread=Spread((0.025, 0.05, 0.5, 0.95, 0.975), quantiles),
    )
    write_fusion(engines / "fusion.json", tables)
    Image.fromarray(astronaut()).resize((256, 256)).save(folder / "photo.jpg", quality=92)
    return folder
