"""The light head: attention pooling over Janus's image tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from export.errors import CheckpointError
from export.experts.janus.light_head import LightAgeExpert, LightHead, load_light_expert
from export.experts.janus.weights import SHAPES, RandomJanus
from export.graph.checks import check_graph
from tests.export.janus_fixtures import (
    export_onnx,
    faces,
    reference_model,
    settings,
    signature,
)

AGES = range(101)
WIDTH = SHAPES["tiny"][0].aligner_width


def _head(seed: int = 0) -> LightHead:
    torch.manual_seed(seed)
    return LightHead(WIDTH, AGES)


def _expert(head: LightHead) -> LightAgeExpert:
    checkpoint = RandomJanus("tiny")
    return load_light_expert(settings(checkpoint), checkpoint, head.state_dict(), AGES)


def test_size_for_the_published_model() -> None:
    with torch.device("meta"):
        head = LightHead(SHAPES["1B"][0].aligner_width, AGES)
    assert 2.3e6 < sum(p.numel() for p in head.parameters()) < 2.5e6


def test_tokens_equal_those_of_transformers() -> None:
    expert, face = _expert(_head()), faces(2)
    with torch.no_grad():
        expected = reference_model(RandomJanus("tiny")).model.get_image_features(
            expert.pixels(face)
        )
        torch.testing.assert_close(expert.tokens(face), expected.pooler_output, rtol=0, atol=1e-5)


def test_the_head_is_read_from_safetensors(tmp_path: Path) -> None:
    save_file(_head().state_dict(), tmp_path / "light.safetensors")
    checkpoint = RandomJanus("tiny")
    head = load_file(tmp_path / "light.safetensors")
    loaded = load_light_expert(settings(checkpoint), checkpoint, head, AGES)
    with torch.no_grad():
        for found, expected in zip(loaded(faces(2)), _expert(_head())(faces(2)), strict=True):
            assert torch.equal(found, expected)


def test_probabilities_and_expectation() -> None:
    expert = _expert(_head())
    with torch.no_grad():
        age_years, age_probs = expert(faces(3))
    assert age_probs.shape == (3, 101)
    torch.testing.assert_close(age_probs.sum(1), torch.ones(3))
    torch.testing.assert_close(age_years, age_probs @ torch.arange(101.0))


@pytest.mark.conversion
@pytest.mark.parametrize("batch", [1, 5])
def test_onnx_runtime_agrees_with_torch(tmp_path: Path, batch: int) -> None:
    expert, face = _expert(_head()), faces(batch)
    path = export_onnx(expert, ["age_years", "age_probs"], tmp_path / "light.onnx")
    check_graph(path, signature(["age_years", "age_probs"]))
    outputs = onnxruntime.InferenceSession(str(path)).run(None, {"face": face.numpy()})
    with torch.no_grad():
        for ours, expected in zip(outputs, expert(face), strict=True):
            np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_a_head_for_other_ages_is_rejected() -> None:
    head = LightHead(WIDTH, range(18, 80)).state_dict()
    checkpoint = RandomJanus("tiny")
    with pytest.raises(CheckpointError, match=r"does not fit 101 ages.*fc2.bias is \(62,\)"):
        load_light_expert(settings(checkpoint), checkpoint, head, AGES)
