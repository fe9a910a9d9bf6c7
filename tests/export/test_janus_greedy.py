"""The greedy readout equals greedy decoding, one token at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from export.experts.janus.expert import JANUS_FP32_OPERATORS
from export.experts.janus.files import JanusTokenizer
from export.experts.janus.prompt import AgePrompt
from export.experts.janus.prompt_head import GreedyReadout, JanusAgeExpert
from export.experts.janus.spellings import spelled_ages
from export.experts.janus.weights import RandomJanus, load_expert
from export.graph.checks import check_graph
from export.variants import fp16
from tests.export.janus_fixtures import (
    OPTIONS,
    Model,
    export_onnx,
    faces,
    reference_model,
    settings,
    signature,
    tiny_prompt,
    write_tokenizer,
)
from tests.trt_cpu import trt_report

GREEDY = replace(OPTIONS, readout="greedy")
OUTPUTS = ["age_years", "age_probs", "answer_mass"]
NAN = float("nan")


class Talkative(RandomJanus):
    """A random Janus that often writes digits and spaces."""

    def __init__(self, seed: int, tokenizer: JanusTokenizer) -> None:
        super().__init__("tiny", seed)
        spellings = tokenizer.tokens().items()
        self._numbers = [i for token, i in spellings if re.fullmatch("Ġ?[0-9]*", token)]

    def __getitem__(self, key: str) -> torch.Tensor:
        tensor = super().__getitem__(key)
        if key == "lm_head.weight":
            tensor[self._numbers] *= 1.3 if len(self._numbers) > 50 else 2.0
        return tensor


def written(
    model: Model, prompt: AgePrompt, tokenizer: JanusTokenizer, pixels: torch.Tensor
) -> str:
    """The beginning of what the model writes about one picture, token by token."""
    model.model.config.image_token_id = prompt.image_id
    spelling = {i: token for token, i in tokenizer.tokens().items()}
    image = (prompt.image_id,) * prompt.image_tokens
    ids, text = [*prompt.before_ids, *image, *prompt.after_ids], ""
    for _ in range(8):
        with torch.no_grad():
            logits = model(torch.tensor([ids]), pixels, logits_to_keep=1).logits[0, -1]
        token = int(logits.argmax())
        text += spelling.get(token, "?").replace("Ġ", " ")
        if not re.fullmatch(" ?[0-9]*", text):
            break
        ids.append(token)
    return text


def number_in(text: str, ages: tuple[int, int]) -> float:
    """The age in years that a text starts with; NaN if there is none."""
    found = re.match(" ?([0-9]+)", text)
    if found is None or str(int(found[1])) != found[1]:
        return NAN
    years = int(found[1])
    return float(years) if ages[0] <= years <= ages[1] else NAN


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("merged", [False, True], ids=["single_digits", "merged_digits"])
def test_ages_are_those_that_greedy_decoding_writes(
    tmp_path: Path, seed: int, *, merged: bool
) -> None:
    tokenizer = write_tokenizer(tmp_path, merged=merged)
    checkpoint = Talkative(seed, tokenizer)
    model, face = reference_model(checkpoint), faces(4, seed=seed)
    found = []
    for prefix, ages in product(("", " ", " I am"), ((0, 100), (18, 150))):
        prompt = tiny_prompt(tokenizer, replace(GREEDY, answer_prefix=prefix, ages=ages))
        expert = load_expert(settings(checkpoint), checkpoint, prompt)
        with torch.no_grad():
            texts = [written(model, prompt, tokenizer, expert.pixels(one[None])) for one in face]
            expected = [number_in(text, ages) for text in texts]
            single = [float(expert(one[None])[0]) for one in face]
            batch = expert(face[:3])[0].tolist()
        np.testing.assert_array_equal(single, expected, err_msg=str(texts))
        np.testing.assert_array_equal(batch, expected[:3], err_msg=str(texts))
        found += expected
    assert np.isnan(found).any()
    assert np.isfinite(found).any()


@pytest.mark.parametrize("merged", [False, True], ids=["single_digits", "merged_digits"])
@pytest.mark.parametrize("ages", [(0, 100), (7, 12), (0, 150), (99, 99)])
def test_every_path_of_the_trie(tmp_path: Path, ages: tuple[int, int], *, merged: bool) -> None:
    tokenizer = write_tokenizer(tmp_path, merged=merged)
    prompt = tiny_prompt(tokenizer, replace(GREEDY, ages=ages))
    assert prompt.spelled is not None
    readout = GreedyReadout(prompt.spelled, prompt.spelled_ages, prompt.digit_ids, 512)
    spelling = {i: token.replace("Ġ", " ") for token, i in tokenizer.tokens().items()}
    likely = [i for i, token in spelling.items() if re.fullmatch(" ?[0-9]*", token)]
    generator = np.random.default_rng(ages[1])
    shape = (40_000 // readout.rows, readout.rows)
    anything = generator.random(shape) < 0.4
    chosen = np.where(
        anything, generator.integers(512, size=shape), generator.choice(likely, shape)
    )
    logits = torch.from_numpy(generator.normal(0, 1, (*chosen.shape, 512)).astype(np.float32))
    logits.scatter_(2, torch.from_numpy(chosen)[..., None], 9.0)
    found = readout(logits.reshape(-1, 512)).numpy()
    rows = _rows(prompt)
    expected = [number_in(_walk(row, rows, spelling), ages) for row in chosen]
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(expected).any()
    assert np.isnan(expected).any()


def _rows(prompt: AgePrompt) -> dict[tuple[int, ...], int]:
    prefixes: list[tuple[int, ...]] = [()]
    for token, parent in zip(prompt.tree.node_ids, prompt.tree.parents, strict=True):
        prefixes.append((*prefixes[parent], token))
    return {prefix: row for row, prefix in enumerate(prefixes)}


def _walk(
    chosen: NDArray[np.int64], rows: Mapping[tuple[int, ...], int], spelling: Mapping[int, str]
) -> str:
    """The text that follows the largest logits; "?" beyond the rows that are known."""
    ids: tuple[int, ...] = ()
    while ids in rows:
        ids = (*ids, int(chosen[rows[ids]]))
        text = "".join(spelling.get(token, "?") for token in ids)
        if not re.fullmatch(" ?[0-9]*", text):
            return text
    return f"{text}0000"  # what is written is longer than any age


def test_the_trie_holds_what_the_probabilities_need_first(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path, merged=False)
    plain, greedy = tiny_prompt(tokenizer), tiny_prompt(tokenizer, GREEDY)
    assert greedy.tree.node_ids[:10] == plain.tree.node_ids
    assert greedy.tree.edges == plain.tree.edges
    assert greedy.tree.rows == plain.rows
    assert greedy.rows == 1 + 2 * 101 + 1  # a space before every age, and the space alone
    for found, expected in zip(_outputs(greedy)[1:], _outputs(plain)[1:], strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def _outputs(prompt: AgePrompt) -> list[NDArray[np.float32]]:
    checkpoint = RandomJanus("tiny")
    with torch.no_grad():
        expert = load_expert(settings(checkpoint), checkpoint, prompt)
        return [output.numpy() for output in expert(faces(2))]


def test_spellings_without_a_token_per_digit() -> None:
    vocabulary = {"<0x31>": 0, "2": 1, "<0x32>": 2, "▁2": 3, "▁": 4, "x": 5, "12": 6, "▁▁1": 7}
    found = spelled_ages(vocabulary, range(1, 13))
    one, two = (0,), (1,)
    expected = {one: 1, two: 2, (3,): 2, (4, 0): 1, (4, 1): 2, (0, 1): 12, (6,): 12}
    expected |= {(4, 0, 1): 12, (4, 6): 12, (0, 0): 11, (4, 0, 0): 11}
    assert found == expected


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> JanusAgeExpert:
    tokenizer = write_tokenizer(tmp_path_factory.mktemp("tokenizer"), merged=True)
    checkpoint = Talkative(2, tokenizer)
    prompt = tiny_prompt(tokenizer, replace(GREEDY, answer_prefix=""))
    expert = load_expert(settings(checkpoint), checkpoint, prompt)
    return expert.requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def graph(expert: JanusAgeExpert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(expert, OUTPUTS, tmp_path_factory.mktemp("graph") / "janus.onnx")


@pytest.mark.conversion
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_onnx_runtime_agrees_with_torch(expert: JanusAgeExpert, graph: Path, batch: int) -> None:
    check_graph(graph, signature(OUTPUTS))
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    face = faces(batch, seed=2)
    found = session.run(OUTPUTS, {"face": face.numpy()})
    expected = [output.numpy() for output in expert(face)]
    np.testing.assert_array_equal(found[0], expected[0])
    if batch == 8:
        assert 0.0 < np.isnan(expected[0]).mean() < 1.0
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.conversion
def test_half_precision_keeps_the_largest_logit(graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    fp16.fp16_from_fp32(graph, path, JANUS_FP32_OPERATORS)
    types = fp16.tensor_types(path)
    (choice,) = (n for n in onnx.load(str(path)).graph.node if n.op_type == "ArgMax")
    assert types[choice.input[0]] == "fp32"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["age_years"], {"face": faces(8, seed=2).numpy()})
    whole = found[np.isfinite(found)]
    assert len(whole)
    np.testing.assert_array_equal(whole, np.rint(whole))


@pytest.mark.tensorrt
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_tensorrt_builds_the_graph(graph: Path, tmp_path: Path, *, half: bool) -> None:
    path = graph
    if half:
        path = tmp_path / "half.onnx"
        fp16.fp16_from_fp32(graph, path, JANUS_FP32_OPERATORS)
    report = trt_report(path)
    assert report.errors == ()
    assert report.plan_bytes > 0
