"""Outputs of engines for parity, computed by the runtime itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.build import parity
from tests.gpu.simulator import simulated_gpu
from tests.gpu.small_experts import build_experts


def test_the_runtime_itself_runs_the_engine(tmp_path: Path) -> None:
    """Uses the simulated GPU, whose engines take smaller batches than the given one."""
    with simulated_gpu() as simulated:
        built = build_experts(simulated, tmp_path)
        expert = built.experts["beta"]
        views = built.views(20)
        images = {spec.name: views[spec] for spec in expert.inputs}
        found = parity.runtime_outputs(built.variant("beta"), images)
        expected = built.expected("beta", views)
    assert set(found) == set(expert.outputs)
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-4)
