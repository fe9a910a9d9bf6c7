from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.build.differences import Tolerance, compared
from export.build.parity import TOLERANCES, check_parity
from export.config.contract import Outputs, Signature
from export.config.settings import AgeHead, Normalization
from export.errors import ParityError
from export.experts.cnn.network import cnn_expert, cnn_module
from export.experts.cnn.settings import CnnSettings
from export.faces.verification import verification_images
from runtime.geometry import Geometry

GRID = (0.0, 1.0, 2.0, 3.0)
LIMITS = Tolerance(0.001, 0.001, 1e-4)
STRICT = Tolerance(0.001, 0.001, 1e-4, differing_share=0.05)


def outputs(shares: list[float], ages: list[float]) -> Outputs:
    """Probabilities of 2 and 3 years, and ages."""
    shares_of_three = np.array(shares)
    probabilities = np.zeros((len(shares), 4), np.float32)
    probabilities[:, 3], probabilities[:, 2] = shares_of_three, 1.0 - shares_of_three
    return {"age_years": np.array(ages, np.float32), "age_probs": probabilities}


def test_whole_years_are_compared_by_their_expectation() -> None:
    one, other = outputs([0.50001, 0.2], [3.0, 2.0]), outputs([0.49999, 0.2], [2.0, 2.0])
    parity, problem = compared(one, other, LIMITS, GRID)
    assert not problem
    assert parity.max_years == pytest.approx(2e-5, rel=0.02)
    assert parity.differing_share == 0.5
    assert "1 at most" in compared(one, other, LIMITS, None)[1]
    assert "50% of the whole-number ages differ" in compared(one, other, STRICT, GRID)[1]


def test_nan_equals_nan_only() -> None:
    nan = float("nan")
    assert compared(outputs([0.9], [nan]), outputs([0.9], [nan]), STRICT, GRID)[1] == ""
    assert compared(outputs([0.9], [nan]), outputs([0.9], [3.0]), STRICT, GRID)[1]


def test_probabilities_of_whole_years_are_limited_as_others() -> None:
    found, reference = outputs([0.9], [3.0]), outputs([0.902], [3.0])
    assert "0.002 at most" in compared(found, reference, LIMITS, GRID)[1]


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
