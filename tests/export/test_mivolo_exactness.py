"""The whole network against `reference_mivolo`, in PyTorch and as ONNX."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export.experts.mivolo.module import MiVoloExpert, MiVoloSpec, random_mivolo
from tests.export.mivolo_fixtures import (
    noise_images,
    reference,
    run_onnx,
    spec,
    v2_spec,
    write_onnx,
)

TOLERANCE_YEARS = 1e-3
BATCHES = [1, 3, 8]

SMALL = [
    pytest.param(spec(), id="face+person+gender"),
    pytest.param(spec(input_size=96, with_person=False, with_gender=False), id="face-96"),
]
OTHERS = [
    pytest.param(spec(with_gender=False), id="face+person"),
    pytest.param(spec(with_person=False), id="face+gender"),
    pytest.param(spec(input_size=16), id="smallest"),
    pytest.param(spec("d2", 32), id="d2"),
]
FULL = [
    pytest.param(spec("d1", 224), id="d1-224"),
    pytest.param(spec("d1", 224, with_person=False), id="d1-224-face"),
    pytest.param(v2_spec(), id="v2"),
]


def check(expert: MiVoloExpert, path: Path) -> None:
    write_onnx(expert, path)
    for batch in BATCHES:
        images = noise_images(expert, batch, seed=batch)
        years, genders = reference(expert, images)
        outputs = run_onnx(path, expert, images)
        np.testing.assert_allclose(outputs[0], years, atol=TOLERANCE_YEARS, rtol=0)
        for found in outputs[1:]:
            np.testing.assert_allclose(found, genders, atol=1e-5)
    assert_simple(path)


def assert_simple(path: Path) -> None:
    """Asserts that no operator needs shape arithmetic or is unsupported by TensorRT."""
    found = Counter(node.op_type for node in onnx.load(path).graph.node)
    excluded = {"Col2Im", "Shape", "Slice", "Split", "Squeeze", "Unsqueeze", "Pad", "Expand"}
    assert not excluded & found.keys(), found


@pytest.mark.conversion
@pytest.mark.parametrize("variant", SMALL)
def test_small_onnx_is_exact(variant: MiVoloSpec, tmp_path: Path) -> None:
    check(random_mivolo(variant, seed=1), tmp_path / "mivolo.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("variant", FULL)
def test_full_onnx_is_exact(variant: MiVoloSpec, tmp_path: Path) -> None:
    check(random_mivolo(variant, seed=1), tmp_path / "mivolo.onnx")


@pytest.mark.parametrize("variant", OTHERS)
@pytest.mark.parametrize("batch", BATCHES)
def test_other_modes_and_sizes_are_exact(variant: MiVoloSpec, batch: int) -> None:
    expert = random_mivolo(variant, seed=2)
    images = noise_images(expert, batch)
    with torch.inference_mode():
        found = expert(*images)
    for output, expected in zip(found, reference(expert, images), strict=False):
        np.testing.assert_allclose(output, expected, atol=TOLERANCE_YEARS, rtol=0)


def test_the_person_has_an_influence() -> None:
    expert = random_mivolo(spec())
    face, person = noise_images(expert, 2)
    with torch.inference_mode():
        with_person, without = expert(face, person)[0], expert(face, torch.zeros_like(person))[0]
    assert with_person[0] != without[0]
    assert with_person[1] == without[1], "the last person of `noise_images` is black"


def test_random_weights_are_deterministic_and_varied() -> None:
    first, again, other = (random_mivolo(spec(), seed) for seed in (4, 4, 5))
    images = noise_images(first, 3)
    with torch.inference_mode():
        assert torch.equal(first(*images)[0], again(*images)[0])
        assert not torch.equal(first(*images)[0], other(*images)[0])
    tensors = first.network.state_dict().values()
    assert all(t.std() > 0 for t in tensors if t.is_floating_point() and t.numel() > 1)


@pytest.mark.parametrize("size", [48, 80])
def test_another_image_size_is_rejected(size: int) -> None:
    images = [torch.zeros(1, size, size, 3, dtype=torch.uint8)] * 2
    with pytest.raises(ValueError, match=r"face and person of shape \(N, 64, 64, 3\)"):
        random_mivolo(spec())(*images)


def test_a_missing_person_is_rejected() -> None:
    with pytest.raises(ValueError, match="face and person"):
        random_mivolo(spec())(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
