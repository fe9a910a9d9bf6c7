"""One pass over the trie equals a separate forward pass per answer, up to rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from export.experts.janus.prompt import AgePrompt
from export.experts.janus.trie import Termination
from export.experts.janus.weights import RandomJanus
from tests.export.janus_fixtures import (
    OPTIONS,
    brute_force,
    faces,
    reference_model,
    tiny_expert,
    tiny_prompt,
    write_tokenizer,
)


def _norm_in_own_precision(norm: LlamaRMSNorm, x: torch.Tensor) -> torch.Tensor:
    variance = x.pow(2).mean(-1, keepdim=True)
    return norm.weight * (x * torch.rsqrt(variance + norm.variance_epsilon))


@pytest.mark.parametrize("merged", [False, True], ids=["single_digits", "merged_digits"])
@pytest.mark.parametrize("prefix", ["", " ", " I am", " I am "])
def test_probabilities_equal_those_of_separate_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, *, merged: bool
) -> None:
    # transformers rounds norms to float32 even in a float64 model
    monkeypatch.setattr(LlamaRMSNorm, "forward", _norm_in_own_precision)
    tokenizer = write_tokenizer(tmp_path, merged=merged)
    prompt = tiny_prompt(tokenizer, replace(OPTIONS, answer_prefix=prefix))
    _compare(prompt, torch.float64, batch=2, tolerance=1e-12)


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("termination", ["where_extended", "all"])
def test_float32_and_batches(tmp_path: Path, batch: int, termination: Termination) -> None:
    tokenizer = write_tokenizer(tmp_path, merged=False)
    prompt = tiny_prompt(tokenizer, replace(OPTIONS, termination=termination))
    _compare(prompt, torch.float32, batch=batch, tolerance=1e-5, strict=termination == "all")


def _compare(
    prompt: AgePrompt, dtype: torch.dtype, *, batch: int, tolerance: float, strict: bool = False
) -> None:
    expert = tiny_expert(prompt).to(dtype)
    reference = reference_model(RandomJanus("tiny")).to(dtype)
    face = faces(batch)
    pixels = expert.pixels(face)
    with torch.no_grad():
        age_years, age_probs, answer_mass = (out.numpy() for out in expert(face))
    separate = brute_force(reference, prompt, pixels, strict=strict)
    mass = separate.sum(1)
    expected = separate / mass[:, None]
    assert expected.std(0).max() > 1e-4 or batch == 1  # the image has an influence
    np.testing.assert_allclose(age_probs, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(answer_mass, mass, rtol=0, atol=tolerance)
    np.testing.assert_allclose(age_years, expected @ prompt.ages, rtol=0, atol=100 * tolerance)
