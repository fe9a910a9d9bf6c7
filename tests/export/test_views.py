"""`views = ["flip"]`: the mean over a face and its mirror image, for every architecture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from export.build.keys import build_key, changed_since
from export.build.options import BuildOptions, resolve_options
from export.build.parity import check_parity
from export.config.architecture import ExpertConfig
from export.config.contract import BuiltExpert, Images, Outputs
from export.config.settings import AgeHead
from export.errors import GraphError, OptionsError
from export.experts.janus.settings import read_janus
from export.experts.registry import ARCHITECTURES, build_expert
from export.faces.verification import in_batches, verification_images
from export.graph.checks import check_graph
from export.variants.fp16 import fp16_from_fp32
from runtime.geometry import Geometry
from runtime.json_reader import JsonReader
from tests.export.golden import demo_config, given_file
from tests.export.test_onnx_file import Network, settings, write


def with_views(config: ExpertConfig) -> ExpertConfig:
    return replace(config, views=("flip",))


def demo_expert(name: str, views: tuple[str, ...]) -> BuiltExpert:
    checkpoint = given_file() if name == "onnx" else None
    return build_expert(replace(demo_config(name), views=views), checkpoint)


def run(path: Path, expert: BuiltExpert, images: Images) -> Outputs:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = list(expert.signature.outputs)
    rows = [session.run(names, dict(batch)) for batch in in_batches(images)]
    return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}


QUICK = {"resnet50", "janus"}
"""The others take a minute."""


def flipped(images: Images) -> Images:
    return {name: np.ascontiguousarray(np.flip(array, axis=2)) for name, array in images.items()}


@pytest.mark.conversion
@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in ARCHITECTURES
    ],
)
def test_the_graph_averages_both_views(tmp_path: Path, name: str) -> None:
    plain, both = demo_expert(name, ()), demo_expert(name, ("flip",))
    one, two, half = (tmp_path / f"{kind}.onnx" for kind in ("one", "two", "half"))
    plain.write_onnx(one)
    both.write_onnx(two)
    check_graph(two, both.signature)
    images = verification_images(both.signature.inputs)
    straight, mirror = run(one, plain, images), run(one, plain, flipped(images))
    found = run(two, both, images)
    assert tuple(found) == plain.signature.outputs == both.signature.outputs
    for output, values in found.items():
        wanted = (straight[output].astype(np.float64) + mirror[output]) / 2.0
        tolerance = 1e-4 if output == "age_years" else 1e-6
        np.testing.assert_allclose(values, wanted, atol=tolerance, err_msg=output)
    np.testing.assert_allclose(
        run(two, both, flipped(images))["age_years"], found["age_years"], atol=1e-4
    )
    reference = both.reference(images)
    check_parity(two, "fp32", images, reference)
    if name == "onnx":  # that graph is the mean over all pixels: no weights, and symmetric
        return
    assert np.abs(straight["age_years"] - mirror["age_years"]).max() > 0.05
    fp16_from_fp32(two, half, both.signature.fp32_operators)
    check_parity(half, "fp16", images, reference, two)


@pytest.mark.conversion
def test_ages_are_rounded_after_the_mean(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = write(tmp_path / "given.onnx", Network(5, "NCHW", flat=False, softmax=False))
    head = AgeHead(age_grid=(0.0, 200.0, 500.0, 700.0, 900.0), round_years=True)  # views differ
    config = ExpertConfig("e", "onnx", None, Geometry(), settings(head=head), ("flip",))
    expert = build_expert(config, source)
    path = tmp_path / "two.onnx"
    expert.write_onnx(path)
    check_graph(path, expert.signature)
    images = verification_images(expert.signature.inputs)
    check_parity(path, "fp32", images, expert.reference(images), age_grid=head.age_grid)
    unrounded = replace(config, settings=settings(head=replace(head, round_years=False)))
    views = [
        build_expert(replace(unrounded, views=()), source).reference(pictures)["age_years"]
        for pictures in (images, flipped(images))
    ]
    mean = (views[0].astype(np.float64) + views[1]) / 2.0
    clear = np.abs(mean - np.floor(mean) - 0.5) > 1e-3
    ages = run(path, expert, images)["age_years"]
    np.testing.assert_array_equal(ages[clear], np.around(mean)[clear])
    early = (np.around(views[0]) + np.around(views[1])) / 2.0
    assert not np.array_equal(ages, early)


def toml(folder: Path, text: str) -> Path:
    (folder / "given.onnx").write_bytes(given_file().read_bytes())
    path = folder / "experts.toml"
    path.write_text(
        f"[experts.mine]\narchitecture = 'onnx'\ncheckpoint = 'given.onnx'\n"
        f"head = 'regression'\n{text}\n"
    )
    return path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("views = ['turn']", "views[0]: must be one of flip, got 'turn'"),
        ("views = 'flip'", "views: must be a list, got 'flip'"),
        ("views = ['flip', 'flip']", "views: must name each view once"),
    ],
)
def test_views_are_validated(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(OptionsError) as caught:
        resolve_options(output=tmp_path, experts_file=toml(tmp_path, text))
    assert problem in str(caught.value)


@pytest.mark.parametrize(("text", "views"), [("", ()), ("views = ['flip']", ("flip",))])
def test_views_are_read(tmp_path: Path, text: str, views: tuple[str, ...]) -> None:
    (config,) = resolve_options(output=tmp_path, experts_file=toml(tmp_path, text)).experts
    assert config.views == views


def test_other_views_are_built_again() -> None:
    plain = demo_config("vgg16")
    options = BuildOptions((plain,), "random", Path())
    keys = [build_key(config, options, "fp32", None) for config in (plain, with_views(plain))]
    assert changed_since(*keys) == ["options", "exporter"]


def janus_problems(**keys: Any) -> list[str]:
    problems: list[str] = []
    read_janus(JsonReader({"architecture": "janus", **keys}, "experts.janus", problems))
    return problems


def test_one_written_answer_has_no_mean() -> None:
    (problem,) = janus_problems(views=["flip"], readout="greedy")
    assert problem.startswith("experts.janus.views: readout = 'greedy' writes one number")
    assert janus_problems(views=["flip"]) == []
    assert janus_problems(readout="greedy") == []
    config = demo_config("janus")
    question = replace(config.settings.question, readout="greedy")
    greedy = replace(config, settings=replace(config.settings, question=question))
    with pytest.raises(GraphError, match="there is no mean of answers"):
        build_expert(with_views(greedy), None)
