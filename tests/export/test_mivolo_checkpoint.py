"""Both published checkpoint formats, and the errors for other files."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from export.errors import CheckpointError
from export.experts.mivolo.module import (
    AgeScale,
    MiVoloExpert,
    MiVoloSpec,
    build_mivolo,
    random_mivolo,
    spec_from_checkpoint,
)
from export.experts.mivolo.network import VARIANTS
from tests.export.mivolo_fixtures import IMDB, noise_images, spec

SCALE = {"min_age": 1, "max_age": 95, "avg_age": 48}
V2_SCALE = {"min_age": 0, "max_age": 122, "avg_age": 61.0}


def state_of(spec: MiVoloSpec) -> dict[str, Tensor]:
    return dict(random_mivolo(spec, seed=7).network.state_dict())


def assert_same(expert: MiVoloExpert, expected: MiVoloExpert) -> None:
    images = noise_images(expected, 2)
    with torch.inference_mode():
        assert torch.equal(expert(*images)[0], expected(*images)[0])


@pytest.mark.parametrize("with_gender", [True, False])
@pytest.mark.parametrize("with_person", [True, False])
def test_pth_tar(*, with_person: bool, with_gender: bool) -> None:
    expected = spec(with_person=with_person, with_gender=with_gender)
    published = random_mivolo(expected, seed=7)
    state = published.network.state_dict() | {"fds.running_mean": torch.zeros(3)}
    metadata = SCALE | {"no_gender": not with_gender, "with_persons_model": with_person}
    found = spec_from_checkpoint(state, metadata)
    assert found == expected
    assert_same(build_mivolo(found, state), published)


def test_v2() -> None:
    expected = MiVoloSpec(VARIANTS["demo"], AgeScale(0, 122, 61), 96)
    published = random_mivolo(expected, seed=7)
    state = {f"mivolo.model.{k}": t for k, t in published.network.state_dict().items()}
    config = V2_SCALE | {"in_chans": 6, "input_size": 96, "num_classes": 3, "only_age": False}
    found = spec_from_checkpoint(state, config)
    assert found == expected
    assert_same(build_mivolo(found, state), published)


def test_prefix_of_distributed_training_and_half_weights() -> None:
    state = {
        f"module.{k}": t.half() if t.is_floating_point() else t for k, t in state_of(spec()).items()
    }
    expert = build_mivolo(spec_from_checkpoint(state, SCALE), state)
    assert {t.dtype for t in expert.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model."]
)
def test_wrappers_are_removed(wrapper: str) -> None:
    published = random_mivolo(spec(), seed=7)
    state = {f"{wrapper}{k}": t for k, t in published.network.state_dict().items()}
    state[f"{wrapper}fds.running_mean"] = torch.zeros(3)
    assert spec_from_checkpoint(state, SCALE) == spec()
    assert_same(build_mivolo(spec(), state), published)


@pytest.mark.parametrize("counters", ["missing", "more"])
def test_counters_of_training_steps_do_not_matter(counters: str) -> None:
    published = random_mivolo(spec(), seed=7)
    state = dict(published.network.state_dict())
    if counters == "missing":
        state = {k: t for k, t in state.items() if not k.endswith("num_batches_tracked")}
        assert len(state) < len(published.network.state_dict())
    else:
        state |= {"norm.num_batches_tracked": torch.tensor(9), "n_averaged": torch.tensor(4)}
    assert spec_from_checkpoint(state, SCALE) == spec()
    assert_same(build_mivolo(spec(), state), published)


def test_an_age_scale_of_tensors() -> None:
    tensors = {key: torch.tensor(value) for key, value in SCALE.items()}
    state = state_of(spec())
    assert spec_from_checkpoint(state, tensors | {"no_gender": torch.tensor([0])}) == spec()
    assert spec_from_checkpoint(state | tensors, {}) == spec()
    assert_same(build_mivolo(spec(), state | tensors), build_mivolo(spec(), state))
    with pytest.raises(CheckpointError, match=r"max_age is tensor.* not a number"):
        spec_from_checkpoint(state, SCALE | {"max_age": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="no_gender: the metadata has 1, the tensors have Fa"):
        spec_from_checkpoint(state, SCALE | {"no_gender": torch.tensor(1)})


@pytest.mark.parametrize(
    ("options", "entries"),
    [({}, 290), ({"with_gender": False}, 290), ({"with_person": False}, 260)],
)
def test_d1_has_the_published_entries(options: dict[str, bool], entries: int) -> None:
    expected = spec("d1", 224, **options)
    with torch.device("meta"):
        state = MiVoloExpert(expected).network.state_dict()
    assert len(state) == entries
    assert spec_from_checkpoint(state, SCALE) == expected


@pytest.mark.parametrize("variant", ["d1", "d2", "d3", "d4", "d5", "demo"])
def test_every_variant_is_recognized(variant: str) -> None:
    expected = spec(variant, 224)
    with torch.device("meta"):
        state = MiVoloExpert(expected).network.state_dict()
    assert spec_from_checkpoint(state, SCALE) == expected


def test_age_scale_is_never_assumed() -> None:
    state = state_of(spec())
    with pytest.raises(CheckpointError, match=r"lacks min_age, max_age, avg_age.*age_scale"):
        spec_from_checkpoint(state, {})
    with pytest.raises(CheckpointError, match="lacks avg_age"):
        spec_from_checkpoint(state, {"min_age": 1, "max_age": 95, "avg_age": None})
    assert spec_from_checkpoint(state, {}, (1, 95, 48)).ages == IMDB
    assert spec_from_checkpoint(state, SCALE, (1, 95, 48)).ages == IMDB


@pytest.mark.parametrize(
    ("metadata", "scale", "message"),
    [
        (SCALE, (0, 122, 61), "age_scale is .* the checkpoint has"),
        (SCALE | {"max_age": 1}, None, "min_age < max_age, got 1 and 1"),
        (SCALE | {"max_age": "old"}, None, "max_age is 'old', not a number"),
        (SCALE | {"no_gender": True}, None, "no_gender: the metadata has True"),
        (SCALE | {"with_persons_model": False}, None, "with_persons_model"),
        (SCALE | {"input_size": 384}, None, "input_size: the metadata has 384, .* 64"),
    ],
)
def test_contradictions_are_rejected(
    metadata: dict[str, object], scale: tuple[float, float, float] | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        spec_from_checkpoint(state_of(spec()), metadata, scale)


@pytest.mark.parametrize("state", [{}, {"conv1.weight": torch.zeros(64, 3, 7, 7)}])
def test_another_architecture_is_rejected(state: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"not a MiVOLO checkpoint: .*pos_embed"):
        spec_from_checkpoint(state, SCALE)


def test_an_unknown_size_lists_the_known_ones() -> None:
    state = state_of(spec()) | {"network.2.1.norm1.weight": torch.zeros(128)}
    with pytest.raises(
        CheckpointError, match=r"\(1, 2, 2, 1\) blocks.*known are d1 \(4, 4, 8, 2\)"
    ):
        spec_from_checkpoint(state, SCALE)


def test_wrong_tensors_are_listed_up_to_a_limit() -> None:
    state = state_of(spec())
    missing = [state.pop(name) for name in sorted(state)[:9]]
    state |= {"extra.weight": missing[0], "norm.bias": torch.zeros(7)}
    with pytest.raises(CheckpointError) as caught:
        build_mivolo(spec(), state)
    lines = str(caught.value).splitlines()
    assert lines[0] == "The checkpoint does not fit this MiVOLO:"
    assert lines[1].startswith("- 9 missing: aux_head.bias")
    assert lines[1].endswith(", …")
    assert lines[2] == "- 1 unexpected: extra.weight"
    assert lines[3] == "- 1 of another shape: norm.bias is (7,), wanted (128,)"


@pytest.mark.parametrize("size", [0, -16, 100, 225])
def test_indivisible_input_sizes_are_rejected(size: int) -> None:
    with pytest.raises(CheckpointError, match=f"multiple of 16 pixels, got {size}"):
        spec(input_size=size)


@pytest.mark.parametrize(
    "change",
    [
        {"network.x.weight": torch.ones(1)},
        {"network.": torch.ones(1)},
        {"network.9.0.norm2.weight": torch.ones(1)},
        {"network.2.0.norm1.weight": torch.tensor(1.0)},
        {"pos_embed": torch.ones(3)},
        {"head.weight": torch.tensor(1.0)},
    ],
)
def test_odd_names_and_shapes_are_checkpoint_errors(change: dict[str, Tensor]) -> None:
    state = state_of(spec()) | change
    with pytest.raises(CheckpointError):
        build_mivolo(spec_from_checkpoint(state, {}, (1.0, 95.0, 48.0)), state)
