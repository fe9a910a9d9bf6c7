"""The fusion tables that the preset `public` ships."""

from __future__ import annotations

from base64 import b64decode

import numpy as np

from export.build.experts_file import PRESETS
from runtime.fusion_file import read_fusion

NAMES = ("dlib_age", "faceapi")


def test_the_shipped_tables_fuse_both_experts_and_give_intervals() -> None:
    tables = read_fusion(PRESETS / "public.fusion.json")
    assert tuple(tables.experts) == NAMES
    assert not tables.provenance["fell_back"]
    assert tables.provenance["faces"] == 596
    seen = tables.provenance["fitted_faces"]
    assert isinstance(seen, dict)
    assert len(b64decode(seen["rows"])) == 5 * 596
    ages = np.repeat(np.linspace(2.0, 78.0, 20)[:, None], 2, axis=1)
    fused = tables.fuse(NAMES, ages)
    assert (fused.weights > 0.02).all()
    np.testing.assert_allclose(fused.age_years, ages[:, 0], atol=12.0)
    assert tables.spread is not None
    assert set(tables.spread.quantiles_years) == {
        frozenset(names) for names in (NAMES, NAMES[:1], NAMES[1:])
    }
    report = (PRESETS / "public.report.md").read_text()
    assert "From 596 labeled faces" in report
    assert "![" not in report
