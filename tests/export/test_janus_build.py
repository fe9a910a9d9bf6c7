"""Janus through the whole pipeline, from checkpoint folders to manifest and runtime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from export.build.demo_weights import write_demo_checkpoint
from export.build.experts_file import DEMO_EXPERTS, read_experts
from export.build.options import resolve_options
from export.build.pipeline import build
from export.config.architecture import ExpertConfig
from export.errors import CheckpointError
from export.experts.janus.expert import NO_ANSWER
from export.experts.janus.placeholder import write_configuration, write_tokenizer
from export.experts.janus.weights import RandomJanus
from export.experts.registry import build_expert, count_parameters
from export.faces.drawn import drawn_faces
from export.graph import weights
from runtime import (
    AgeEstimate,
    AgeMoE,
    PlaceholderWeightsWarning,
    PrecisionWarning,
    PredictionError,
)
from runtime.geometry import Resize
from runtime.manifest import Expert
from runtime.manifest_file import read_manifest
from tests.export.test_pipeline import Quiet

TOML = """
[experts.janus]
architecture = "janus"
checkpoint = {checkpoint!r}
size = "demo"
system_prompt = false
{more}
"""


def janus_config() -> ExpertConfig:
    """The configuration of the demo."""
    return read_experts(DEMO_EXPERTS, [])["janus"]


@pytest.fixture(scope="module")
def faces() -> tuple[np.ndarray, np.ndarray]:
    drawn = list(drawn_faces(300, seed=1, size=96))
    return np.stack([face.image for face in drawn]), np.array([face.age_years for face in drawn])


@pytest.fixture(scope="module")
def checkpoint(
    tmp_path_factory: pytest.TempPathFactory, faces: tuple[np.ndarray, np.ndarray]
) -> Path:
    """A demo Janus fitted on few faces."""
    folder = tmp_path_factory.mktemp("checkpoint") / "janus"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("export.build.demo_weights.fitting_faces", lambda: faces)
        write_demo_checkpoint(janus_config(), folder)
    return folder


def _build(
    folder: Path, checkpoint: Path, *, fp16: bool = False, int8: bool = False, more: str = ""
) -> Expert:
    file = folder / "experts.toml"
    file.write_text(TOML.format(checkpoint=str(checkpoint), more=more))
    options = resolve_options(output=folder / "engines", experts_file=file, fp16=fp16, int8=int8)
    build(options, Quiet())
    return read_manifest(folder / "engines").experts["janus"]


def test_the_demo_predicts_better_than_the_mean_age(
    checkpoint: Path, faces: tuple[np.ndarray, np.ndarray]
) -> None:
    expert = build_expert(janus_config(), checkpoint)
    unseen = list(drawn_faces(100, seed=99, size=96))
    found = expert.reference({"face": np.stack([face.image for face in unseen])})
    truth = np.array([face.age_years for face in unseen])
    error_of_the_mean = np.abs(truth - faces[1].mean()).mean()
    assert np.abs(found["age_years"] - truth).mean() < 0.75 * error_of_the_mean
    noise = np.random.default_rng(5).integers(0, 256, (20, 96, 96, 3), np.uint8)
    on_noise = expert.reference({"face": noise})["answer_mass"]
    assert np.median(on_noise) < 0.7 * np.median(found["answer_mass"])


@pytest.mark.conversion
def test_from_a_checkpoint_folder_to_an_estimate(checkpoint: Path, tmp_path: Path) -> None:
    expert = _build(tmp_path, checkpoint, fp16=True, more="geometry.crop_margin = 0.2")
    assert expert.outputs == ("age_years", "age_probs", "answer_mass")
    assert expert.source.kind == "checkpoint"
    geometry = expert.inputs[0].geometry
    assert (geometry.fit, geometry.interpolation) == ("pad_square", "pillow_bicubic")
    assert (geometry.pad_color, geometry.crop_margin) == ((127, 127, 127), 0.2)
    details = expert.details
    assert (details["head"], details["termination"]) == ("prompt", "where_extended")
    assert len(details["age_token_ids"]) == 101
    assert len(details["age_token_ids"]["57"]) == 2
    assert details["prompt_token_ids"]
    with AgeMoE(tmp_path / "engines") as moe:
        estimate = moe.predict(np.full((50, 80, 3), 90, np.uint8))
    assert isinstance(estimate, AgeEstimate)
    mass = estimate.experts["janus"].answer_mass
    assert mass is not None
    assert 0.0 < mass <= 1.0
    assert estimate.to_dict()["experts"]["janus"]["answer_mass"] == mass


@pytest.mark.conversion
def test_a_greedy_expert_answers_with_whole_numbers_or_not_at_all(
    checkpoint: Path, tmp_path: Path
) -> None:
    more = 'readout = "greedy"\ngeometry.before = [{resize = 64, interpolation = "pillow_lanczos"}]'
    expert = _build(tmp_path, checkpoint, fp16=True, int8=True, more=more)
    assert expert.whole_years
    assert expert.no_answer == NO_ANSWER
    assert expert.inputs[0].geometry.before == (Resize(64, 64, "pillow_lanczos"),)
    parities = {a.precision: a.parity for a in expert.artifacts}
    for precision, most in (("fp32", 0.001), ("fp16", 0.1)):
        parity = parities[precision]
        assert parity is not None
        assert parity.mean_years <= most
        assert parity.differing_share is not None
    assert parities["fp32"].differing_share == 0.0  # type: ignore[union-attr]
    people = [face.image for face in drawn_faces(6, seed=8, size=96)]
    noise = np.random.default_rng(5).integers(0, 256, (6, 96, 96, 3), np.uint8)
    with AgeMoE(tmp_path / "engines") as moe:
        results = moe.predict([*people, *noise])
    ages = [r.experts["janus"].age_years for r in results if isinstance(r, AgeEstimate)]
    errors = [r for r in results if isinstance(r, PredictionError)]
    assert len(ages) + len(errors) == 12
    assert ages == [float(round(age)) for age in ages]
    assert {reason for error in errors for reason in error.missing.values()} <= {NO_ANSWER}


@pytest.mark.conversion
def test_external_data_files_are_in_the_manifest(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "LARGEST_INLINE_BYTES", 1)
    expert = _build(tmp_path, checkpoint, fp16=True)
    for artifact in expert.artifacts:
        graph, data = (record.path for record in artifact.files)
        assert data == f"{graph}.data"
        assert artifact.files[1].size_bytes > artifact.files[0].size_bytes
        assert artifact.parity is not None
    with AgeMoE(tmp_path / "engines", precision="fp16") as moe:
        assert isinstance(moe.predict(np.zeros((96, 96, 3), np.uint8)), AgeEstimate)


@pytest.mark.slow
def test_parity_of_a_slow_expert_is_measured_on_few_faces(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.experts.janus.expert._LARGE_PARAMETERS", 1)
    expert = _build(tmp_path, checkpoint, fp16=True)
    assert [a.parity.faces for a in expert.artifacts if a.parity] == [3, 3]


@pytest.mark.conversion
def test_random_weights_need_no_files(tmp_path: Path) -> None:
    file = tmp_path / "experts.toml"
    file.write_text(TOML.format(checkpoint="", more="").replace("checkpoint = ''", ""))
    options = resolve_options(output=tmp_path / "out", experts_file=file, weights="random")
    build(options, Quiet())
    expert = read_manifest(tmp_path / "out").experts["janus"]
    assert expert.source.sha256 is None
    with (
        pytest.warns(PlaceholderWeightsWarning, match="random"),
        pytest.warns(PrecisionWarning, match="'janus' runs in fp32"),
        AgeMoE(tmp_path / "out", precision="int8"),
    ):
        pass


def test_parameters_are_counted_without_allocating_them() -> None:
    config = read_experts(DEMO_EXPERTS, [])["janus"]
    drawn = RandomJanus("demo")
    embeddings = drawn["model.language_model.embed_tokens.weight"].numel()
    assert count_parameters(config) == sum(t.numel() for t in drawn.values()) - embeddings


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "holds no model.safetensors"),
        ("tokenizer.json", "has no tokenizer.json"),
        ("preprocessor_config.json", "neither preprocessor_config.json"),
    ],
)
def test_a_folder_with_a_missing_file_is_rejected(
    tmp_path: Path, missing: str, message: str
) -> None:
    drawn, config = RandomJanus("demo"), janus_config()
    write_configuration(tmp_path, drawn)
    write_tokenizer(tmp_path, config.settings.question)
    save_file(dict(drawn), tmp_path / "model.safetensors")
    (tmp_path / missing).unlink()
    with pytest.raises(CheckpointError, match=message):
        build_expert(config, tmp_path)


def test_a_single_file_is_rejected(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="needs the whole folder"):
        build_expert(janus_config(), checkpoint / "model.safetensors")


def test_sharded_pytorch_files(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "sharded")
    state = load_file(tmp_path / "sharded" / "model.safetensors")
    (tmp_path / "sharded" / "model.safetensors").unlink()
    names = {key: f"pytorch_model-{index % 2}.bin" for index, key in enumerate(state)}
    for shard in set(names.values()):
        part = {key: state[key] for key in state if names[key] == shard}
        torch.save(part, tmp_path / "sharded" / shard)
    index = tmp_path / "sharded" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    config, face = janus_config(), np.zeros((1, 96, 96, 3), np.uint8)
    ours = build_expert(config, tmp_path / "sharded").reference({"face": face})
    whole = build_expert(config, checkpoint).reference({"face": face})
    np.testing.assert_array_equal(ours["age_probs"], whole["age_probs"])
    (tmp_path / "sharded" / "pytorch_model-1.bin").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 of 2 shards: pytorch_model-1.bin"):
        build_expert(config, tmp_path / "sharded")


@pytest.mark.slow
def test_int8_is_smaller_and_used_on_request(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expert = _build(tmp_path, checkpoint, int8=True)
    fp32, int8 = expert.artifacts
    assert int8.precision == "int8"
    assert int8.files[0].size_bytes < 0.5 * fp32.files[0].size_bytes
    assert int8.parity is not None
    assert 0.0 < int8.parity.mean_years < 5.0
    face = np.full((96, 96, 3), 90, np.uint8)
    ages = []
    for precision in ("auto", "int8"):
        with AgeMoE(tmp_path / "engines", precision=precision) as moe:
            estimate = moe.predict(face)
            assert isinstance(estimate, AgeEstimate)
            ages.append(estimate.age_years)
    assert 0.0 < abs(ages[0] - ages[1]) < 10.0
    monkeypatch.setattr(weights, "LARGEST_INLINE_BYTES", 1)
    (tmp_path / "external").mkdir()
    streamed = _build(tmp_path / "external", checkpoint, int8=True).artifacts[1]
    assert streamed.parity == int8.parity
