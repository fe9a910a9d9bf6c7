"""Experts whose ages are rounded in the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.build.parity import TOLERANCES, check_parity
from export.config.contract import Signature
from export.config.settings import AgeHead, Normalization
from export.errors import ParityError
from export.experts.cnn.network import cnn_expert, cnn_module
from export.experts.cnn.settings import CnnSettings
from export.faces.verification import verification_images
from runtime.geometry import Geometry

pytestmark = pytest.mark.conversion


def test_rounded_experts_pass_and_changed_ones_fail(tmp_path: Path) -> None:
    head = AgeHead(round_years=True)
    settings = CnnSettings(64, 64, Normalization(), head, width_factor=0.125)
    expert = cnn_expert(cnn_module("vgg16", settings), settings, Geometry())
    signature: Signature = expert.signature
    assert signature.whole_years
    path = tmp_path / "graph.onnx"
    expert.write_onnx(path)
    images = verification_images(signature.inputs)
    reference = expert.reference(images)
    assert (reference["age_years"] == np.rint(reference["age_years"])).all()
    parity = check_parity(path, "fp32", images, reference, age_grid=signature.age_grid)
    assert parity.max_years <= TOLERANCES["fp32"].max_years
    reference["age_probs"] = np.roll(reference["age_probs"], 1, axis=1)
    with pytest.raises(ParityError):
        check_parity(path, "fp32", images, reference, age_grid=signature.age_grid)
