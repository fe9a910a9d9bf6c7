"""MiVOLO with uint8 inputs and years as output, built from both published checkpoint formats.

Checkpoints are passed in as tensors and metadata; nothing is read from disk.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.checkpoints.loading import describe_mismatch
from export.checkpoints.state import WRAPPERS, is_counter, plain_state, scalar
from export.config.settings import Normalization
from export.errors import CheckpointError
from export.experts.mivolo.network import PATCH, VARIANTS, MiVoloNet, VoloShape
from export.graph.preprocessing import Normalize
from runtime.printing import bullets

SIZE_STEP = 2 * PATCH
"""Pixels of input per position of the positional embedding."""

V2_WRAPPER = "mivolo."
"""Prefix of all names in v2 files, before `model.`."""

TRAINING_ONLY = "fds."
"""Feature distribution smoothing: in some checkpoints, unused after training."""

_BLOCK = re.compile(r"network\.(\d{1,3})\.([^.]+)\.")
"""A stage and a block in it."""

AGE_KEYS = ("min_age", "max_age", "avg_age")


@dataclass(frozen=True, slots=True)
class AgeScale:
    """The scale of the network's output: years = `raw * (max_years - min_years) + avg_years`."""

    min_years: float
    max_years: float
    avg_years: float

    @property
    def years_per_unit(self) -> float:
        """Years per unit of the network's output."""
        return self.max_years - self.min_years

    def __post_init__(self) -> None:
        """Validates the scale."""
        if not self.min_years < self.max_years:
            raise CheckpointError(
                f"MiVOLO's age scale needs min_age < max_age, "
                f"got {self.min_years:g} and {self.max_years:g}."
            )


@dataclass(frozen=True, slots=True)
class MiVoloSpec:
    """Configuration of a MiVOLO: everything but its weights."""

    shape: VoloShape
    ages: AgeScale
    input_size: int = 224
    """Side of the square images, pixels."""
    with_person: bool = True
    """Face and person (6 channels), or the face alone (3)."""
    with_gender: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return ("face", "person") if self.with_person else ("face",)

    def __post_init__(self) -> None:
        """Validates that the grids divide the image."""
        if self.input_size <= 0 or self.input_size % SIZE_STEP:
            raise CheckpointError(
                f"MiVOLO's input size must be a multiple of {SIZE_STEP} pixels, "
                f"got {self.input_size}."
            )


class MiVoloExpert(nn.Module):
    """MiVOLO from uint8 images to years."""

    def __init__(self, spec: MiVoloSpec) -> None:
        """Creates the expert; weights are loaded into `network` afterwards."""
        super().__init__()
        self.spec = spec
        self.input_names = spec.inputs
        self.output_names = ("age_years", "gender_probs") if spec.with_gender else ("age_years",)
        self.network = MiVoloNet(
            spec.shape,
            with_person=spec.with_person,
            input_size=spec.input_size,
            columns=3 if spec.with_gender else 1,
        )
        self.normalize = Normalize(Normalization())
        # Products select columns: a slice of a dynamic batch costs TensorRT a dozen layers.
        # The softmax of two genders is the sigmoid of their difference.
        years = torch.eye(3 if spec.with_gender else 1)[:, -1:] * spec.ages.years_per_unit
        self.register_buffer("to_years", years, persistent=False)
        versus = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [0.0, 0.0]])
        self.register_buffer("versus", versus, persistent=False)
        self.to_years: Tensor
        self.versus: Tensor

    def forward(self, face: Tensor, person: Tensor | None = None) -> tuple[Tensor, ...]:
        """Predicts ages.

        Args:
            face: uint8 (N, H, W, 3), RGB; black if missing.
            person: the same, for a model of face and person.

        Returns:
            `age_years` float32 (N,) and, if the model has it, `gender_probs` float32 (N, 2):
            male, female, as perceived.
        """
        images = [face] if person is None else [face, person]
        self._check(images)
        raw = self.network(*(self.normalize(image) for image in images))
        years = (raw @ self.to_years).reshape(-1) + self.spec.ages.avg_years
        return (years, (raw @ self.versus).sigmoid()) if self.spec.with_gender else (years,)

    def _check(self, images: list[Tensor]) -> None:
        size = self.spec.input_size
        found = [tuple(image.shape[1:]) for image in images]
        if found != [(size, size, 3)] * len(self.input_names):
            raise ValueError(
                f"This MiVOLO takes {' and '.join(self.input_names)} of shape "
                f"(N, {size}, {size}, 3), got {found} after the batch."
            )


def spec_from_checkpoint(
    state: Mapping[str, Tensor],
    metadata: Mapping[str, object],
    age_scale: tuple[float, float, float] | None = None,
) -> MiVoloSpec:
    """Derives a checkpoint's configuration from its tensors and metadata.

    Args:
        state: the tensors, named as in the file; also an age scale that was saved among them.
        metadata: the other entries of a `.pth.tar`, or `config.json`; a tensor of one element
            counts as its number.
        age_scale: (min_age, max_age, avg_age) for a checkpoint without one.

    Returns:
        The specification for `build_mivolo`.

    Raises:
        CheckpointError: the file is no MiVOLO, or its metadata contradicts its tensors.
    """
    metadata = {key: scalar(value) for key, value in {**_scale_in(state), **metadata}.items()}
    weights = network_weights(state)
    spec = MiVoloSpec(
        shape=_shape(weights),
        ages=_ages(metadata, age_scale),
        input_size=SIZE_STEP * _positions(weights["pos_embed"]),
        with_person="patch_embed.conv1.0.weight" in weights,
        with_gender=weights["head.weight"].shape[:1] != (1,),
    )
    _check_metadata(spec, metadata)
    return spec


def build_mivolo(spec: MiVoloSpec, state: Mapping[str, Tensor]) -> MiVoloExpert:
    """Creates the expert with a checkpoint's weights; all are used and none may be missing.

    Counters of training steps are no weights.

    Raises:
        CheckpointError: the names or shapes are not those of `spec`.
    """
    expert = MiVoloExpert(spec)
    weights = network_weights(state)
    wanted = {k: t for k, t in expert.network.state_dict().items() if not is_counter(k)}
    mismatch = describe_mismatch("this MiVOLO", weights, wanted)
    if mismatch:
        raise CheckpointError(
            *mismatch, "Pass a file published for MiVOLO or its volo_d1 variants."
        )
    expert.network.load_state_dict(weights, strict=False)  # without the counters
    return expert.eval()


def random_mivolo(spec: MiVoloSpec, seed: int = 0) -> MiVoloExpert:
    """Creates an expert with random parameters and statistics."""
    expert = MiVoloExpert(spec)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in expert.network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(_random_values(name, tensor, generator))
    return expert.eval()


def network_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames tensors as in the network; omits those that prediction does not need."""
    tensors = {name: tensor for name, tensor in state.items() if name not in AGE_KEYS}
    return dict(plain_state(tensors, wrappers=(*WRAPPERS, V2_WRAPPER), unused=(TRAINING_ONLY,)))


def _positions(embedding: Tensor) -> int:
    """Returns the number of rows of the positional embedding (1, rows, columns, channels)."""
    if embedding.ndim != 4:
        raise CheckpointError(
            f"This is not a MiVOLO checkpoint: pos_embed has the shape {tuple(embedding.shape)}, "
            f"expected (1, rows, columns, channels)."
        )
    return embedding.shape[1]


def _scale_in(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the age scale of a file that holds it beside its tensors."""
    return {key: state[key] for key in AGE_KEYS if key in state}


def _shape(weights: Mapping[str, Tensor]) -> VoloShape:
    """Recognizes a known size; weights do not determine the heads of an unknown one."""
    needed = ("pos_embed", "head.weight", "network.1.proj.weight", "network.0.0.norm1.weight")
    if missing := [name for name in needed if name not in weights]:
        found = ", ".join(sorted(weights)[:3]) or "nothing"
        raise CheckpointError(
            f"This is not a MiVOLO checkpoint: {', '.join(missing)} missing; found {found}, … "
            f"({len(weights)} tensors). Pass the .pth.tar or the v2 .safetensors of MiVOLO."
        )
    blocks = {(int(m[1]), m[2]) for name in weights if (m := _BLOCK.match(name))}
    stages = sorted({stage for stage, _ in blocks} - {1})
    layers = tuple(sum(stage == own for stage, _ in blocks) for own in stages)
    norms = [weights.get(f"network.{stage}.0.norm1.weight") for stage in stages]
    dims = tuple(0 if norm is None else norm.numel() for norm in norms)
    for shape in VARIANTS.values():
        if (shape.layers, shape.embed_dims) == (layers, dims):
            return shape
    known = ", ".join(f"{name} {s.layers} {s.embed_dims}" for name, s in VARIANTS.items())
    raise CheckpointError(f"No MiVOLO has {layers} blocks of {dims} channels; known are {known}.")


def _ages(metadata: Mapping[str, object], given: tuple[float, float, float] | None) -> AgeScale:
    found = {key: metadata[key] for key in AGE_KEYS if metadata.get(key) is not None}
    if missing := [key for key in AGE_KEYS if key not in found]:
        if given is None:
            raise CheckpointError(
                f"The checkpoint lacks {', '.join(missing)}, and a wrong scale shifts every age. "
                "Set age_scale = [min_age, max_age, avg_age] to the published values."
            )
        return AgeScale(*given)
    scale = AgeScale(*(_number(key, found[key]) for key in AGE_KEYS))
    if given is not None and AgeScale(*given) != scale:
        raise CheckpointError(
            f"age_scale is {list(given)}, but the checkpoint has "
            f"{[scale.min_years, scale.max_years, scale.avg_years]}. Omit age_scale."
        )
    return scale


def _number(key: str, value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise CheckpointError(
            f"The checkpoint's {key} is {value!r}, not a number. "
            "Use the metadata that was published with these tensors."
        ) from None


def _check_metadata(spec: MiVoloSpec, metadata: Mapping[str, object]) -> None:
    """Raises an error if the metadata, in either format, contradicts the tensors."""
    facts = {
        "no_gender": not spec.with_gender,
        "only_age": not spec.with_gender,
        "with_persons_model": spec.with_person,
        "in_chans": 6 if spec.with_person else 3,
        "input_size": spec.input_size,
        "num_classes": 3 if spec.with_gender else 1,
    }
    problems = [
        f"{key}: the metadata has {metadata[key]}, the tensors have {fact}"
        for key, fact in facts.items()
        if metadata.get(key) is not None and metadata[key] != fact
    ]
    if problems:
        raise CheckpointError(
            "The checkpoint contradicts itself:",
            *bullets(problems),
            "Use the metadata that was published with these tensors.",
        )


def _random_values(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draws values with statistics like those of a trained network, so that no term vanishes."""
    noise = torch.randn(like.shape, generator=generator)
    if name.endswith("running_var"):
        return 0.5 + noise.square()
    if name.endswith("weight") and ("norm" in name or like.ndim == 1):
        return 1 + 0.2 * noise
    if like.ndim < 2 or name in ("pos_embed", "cls_token"):
        return 0.2 * noise
    return noise / math.sqrt(like[0].numel())
