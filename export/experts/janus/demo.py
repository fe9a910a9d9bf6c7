"""The demo Janus: a tiny vision tower and language model with a tokenizer for one prompt.

Its body is random. Only the output layer's rows for digits are fitted, on drawn faces: by the
chain rule the probability of an age is a product of next-token probabilities, so that fitting
their product to a bell around the true age is a convex softmax regression over all rows of the
answers' trie. For images without a face the target is an answer that is no number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from export.experts.janus.files import JanusTokenizer, read_folder
from export.experts.janus.placeholder import write_configuration, write_tokenizer
from export.experts.janus.prompt import AgePrompt, build_prompt
from export.experts.janus.prompt_head import JanusAgeExpert
from export.experts.janus.settings import JanusSettings
from export.experts.janus.weights import RandomJanus, load_expert
from runtime.geometry import Pixels, fit

_LABEL_STD_YEARS = 4.0
_PENALTY = 0.01
_FILTER_SIDE = 4
"""Side of the random filters that are interpolated to the patch size: smooth, as trained ones."""
_GAINS = {
    "position_embedding": 2.0,
    "vision_model.encoder.layers.0.self_attn.q_proj": 4.0,
    "self_attn.o_proj": 3.0,
}
"""Factors on random weights whose names contain these: they make attention prefer some positions,
and give the image an influence beside the text."""
_NO_FACES = 150
_BATCH = 64


def fit_demo_janus(
    settings: JanusSettings, folder: Path, faces: Pixels, ages_years: NDArray[np.float64]
) -> Mapping[str, Tensor]:
    """Fits the output layer and writes the checkpoint's files other than the weights.

    Args:
        settings: of the expert.
        folder: of the checkpoint; it exists.
        faces: to be fitted on, uint8 (N, size, size, 3), RGB.
        ages_years: of the faces, (N,).

    Returns:
        All weights of the checkpoint.
    """
    drawn = RandomJanus(settings.size)
    write_configuration(folder, drawn)
    write_tokenizer(folder, settings.question)
    found = read_folder(folder)
    question = replace(settings.question, readout="expectation")
    prompt = build_prompt(JanusTokenizer(folder), question, found.image)
    state = _body(drawn)
    expert = load_expert(found, state, prompt)
    side = found.recipe.size
    images = np.stack([fit(face, side, side, found.recipe.geometry) for face in faces])
    hidden = _hidden(expert, np.concatenate([images, _no_faces(images)]))
    state["lm_head.weight"] = _fitted(hidden, ages_years, prompt, drawn.language.vocabulary)
    return state


def _body(drawn: RandomJanus) -> dict[str, Tensor]:
    """Returns random weights with some gains, and smooth filters for the patches."""
    state = {
        key: value * math.prod(gain for part, gain in _GAINS.items() if part in key)
        for key, value in drawn.items()
    }
    key = "model.vision_model.embeddings.patch_embedding.weight"
    channels, colors, side, _ = state[key].shape
    coarse = drawn[key][:, :, :_FILTER_SIDE, :_FILTER_SIDE] * side / _FILTER_SIDE
    smooth = F.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
    state[key] = smooth.reshape(channels, colors, side, side).contiguous()
    return {name: value.float().contiguous() for name, value in state.items()}


def _hidden(expert: JanusAgeExpert, images: Pixels) -> NDArray[np.float64]:
    """Returns the inputs of the output layer at every row of the trie, (N, R, C)."""
    with torch.inference_mode():
        batches = [
            expert.hidden(expert.tokens(torch.from_numpy(images[start : start + _BATCH])))
            for start in range(0, len(images), _BATCH)
        ]
    return torch.cat(batches).double().numpy()


def _no_faces(images: Pixels) -> Pixels:
    """Returns noise, single colors, and faces with shuffled tiles, uint8 (M, size, size, 3)."""
    rng = np.random.default_rng(2)
    count, side = _NO_FACES // 3, images.shape[1]
    noise = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    plain = np.broadcast_to(rng.integers(0, 256, (count, 1, 1, 3), np.uint8), noise.shape)
    tiles = images[:count].reshape(count, 6, side // 6, 6, side // 6, 3).swapaxes(2, 3)
    shuffled = rng.permuted(tiles.reshape(count, 36, -1), axis=1)
    shuffled = shuffled.reshape(count, 6, 6, side // 6, side // 6, 3).swapaxes(2, 3)
    return np.concatenate([noise, plain, shuffled.reshape(noise.shape)])


def _fitted(
    hidden: NDArray[np.float64],
    ages_years: NDArray[np.float64],
    prompt: AgePrompt,
    vocabulary: int,
) -> Tensor:
    """Returns the output layer, float32 (V, C): rows for tokens of answers, zero for all others.

    Args:
        hidden: (N + M, R, C), the faces first.
        ages_years: (N,).
        prompt: whose trie has R rows.
        vocabulary: V.
    """
    tokens = sorted({token for answer in prompt.age_token_ids for token in answer})
    targets = torch.tensor(_targets(ages_years, len(hidden), prompt, tokens))
    others = np.log(vocabulary - len(tokens))
    flat = hidden.reshape(-1, hidden.shape[-1])
    # The same problem in whitened coordinates, in which L-BFGS needs few steps. The penalty stays
    # on the weights themselves, so that rounding has little effect.
    spread = np.linalg.cholesky(flat.T @ flat / len(flat) + 1e-6 * np.eye(flat.shape[1]))
    to_raw = torch.tensor(np.linalg.inv(spread))
    x = (torch.tensor(flat) @ to_raw.T).reshape(hidden.shape)
    weight = torch.zeros(len(tokens), x.shape[-1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = F.pad(x @ weight.T, (0, 1), value=float(others))
        penalty = 0.5 * _PENALTY * (weight @ to_raw).square().sum()
        value = (penalty - (targets * torch.log_softmax(logits, -1)).sum()) / len(x)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    layer = torch.zeros(vocabulary, x.shape[-1])
    layer[tokens] = (weight.detach() @ to_raw).float()
    return layer


def _targets(
    ages_years: NDArray[np.float64], count: int, prompt: AgePrompt, tokens: list[int]
) -> NDArray[np.float64]:
    """Returns the target probabilities, (count, R, K + 1): each row, then each token or none."""
    distance = (np.array(prompt.ages) - ages_years[:, None]) / _LABEL_STD_YEARS
    bell = np.exp(-0.5 * distance**2)
    bell /= bell.sum(axis=1, keepdims=True)
    steps = np.zeros((prompt.rows, len(tokens) + 1, len(prompt.ages)))
    column = {token: position for position, token in enumerate(tokens)}
    rows = _rows(prompt)
    for age, answer in enumerate(prompt.age_token_ids):
        for length, token in enumerate(answer):
            steps[rows[answer[:length]], column[token], age] = 1.0
        if answer in rows and rows[answer] in prompt.tree.ends:
            steps[rows[answer], -1, age] = 1.0
    targets = np.zeros((count, *steps.shape[:2]))
    targets[: len(ages_years)] = np.einsum("na,rka->nrk", bell, steps)
    targets[len(ages_years) :, 0, -1] = 1.0
    return targets


def _rows(prompt: AgePrompt) -> Mapping[tuple[int, ...], int]:
    """Returns the row of each prefix of an answer."""
    prefixes: list[tuple[int, ...]] = [()]
    for token, parent in zip(prompt.tree.node_ids, prompt.tree.parents, strict=True):
        prefixes.append((*prefixes[parent], token))
    return {prefix: row for row, prefix in enumerate(prefixes)}
