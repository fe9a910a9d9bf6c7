"""The demo MiVOLO: a random body with a head fitted on portraits and whole people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.experts.mivolo.expert import mivolo_signature, random_spec
from export.experts.mivolo.module import MiVoloExpert, random_mivolo
from export.experts.mivolo.network import MiVoloNet
from export.experts.mivolo.settings import MiVoloSettings
from export.faces.drawn import draw_person, sample_ages
from export.faces.readouts import fit_regression
from runtime.geometry import Geometry, Pixels, black
from runtime.manifest import InputSpec
from runtime.preparation import input_view
from runtime.results import Box

Sample = tuple[Pixels, dict[str, Box | None]]
"""An image and the boxes given in it, by input."""

SCENES = 200
SCENES_SEED = 1
SCENE_WIDTH, SCENE_HEIGHT = 128, 256
_RIDGE_PENALTY = 1000.0
"""With 200, large weights make FP16 differ by 0.15 years on average; with 1000, by 0.09."""
_BATCH = 100
_GAINS = {
    "patch_embed.map.pos_embed.height_rel": 3.0,
    "patch_embed.map.pos_embed.width_rel": 3.0,
    "pos_embed": 6.0,
    "attn.proj.weight": 0.3,
    "mlp.fc2.weight": 0.3,
}
"""Preserve the differences between positions that random attention would average out."""


def fit_mivolo(
    settings: MiVoloSettings, geometry: Geometry, faces: Pixels, ages_years: NDArray[np.float64]
) -> Mapping[str, Tensor]:
    """Fits the head on faces alone, faces with their person, and persons without a face box.

    Args:
        settings: of the expert.
        geometry: of both crops.
        faces: portraits, uint8 (N, H, W, 3), RGB.
        ages_years: of the portraits, (N,).

    Returns:
        The network's weights.
    """
    module = random_mivolo(random_spec(settings))
    _sharpen(module.network)
    samples: list[Sample] = [(face, {"face": None}) for face in faces]
    ages = ages_years.tolist()
    for scene, age in scenes(SCENES, SCENES_SEED):
        image, boxes = scene
        samples += [scene, (image, {"person": boxes["person"]})]
        ages += [age, age]
    features = _features(module, samples, mivolo_signature(module, geometry).inputs)
    scale = module.spec.ages
    units = (np.array(ages) - scale.avg_years) / scale.years_per_unit
    weight, bias = fit_regression(features, units, _RIDGE_PENALTY)
    _set_head(module.network, weight, bias)
    return {name: tensor.contiguous() for name, tensor in module.network.state_dict().items()}


def scenes(count: int, seed: int) -> Iterator[tuple[Sample, float]]:
    """Yields images of whole people with both boxes, and their ages in years."""
    for number, age in enumerate(sample_ages(count, seed=seed).tolist()):
        one = int(np.random.SeedSequence([seed, number, 1]).generate_state(1)[0])
        scene = draw_person(age, seed=one, width=SCENE_WIDTH, height=SCENE_HEIGHT)
        yield (scene.image, {"face": scene.face_box, "person": scene.person_box}), age


def views(samples: Sequence[Sample], spec: InputSpec) -> Pixels:
    """Returns the views of an input, uint8 (N, height, width, 3); missing ones are black."""
    found = [input_view(image, boxes, spec) for image, boxes in samples]
    missing = black(spec.height, spec.width)
    return np.stack([missing if view is None else view for view in found])


def _sharpen(network: MiVoloNet) -> None:
    for name, tensor in network.state_dict().items():
        key = name.split(".", 3)[-1] if name.startswith("network.") else name
        if key in _GAINS:
            tensor.mul_(_GAINS[key])


def _features(
    module: MiVoloExpert, samples: Sequence[Sample], inputs: Sequence[InputSpec]
) -> NDArray[np.float64]:
    """Returns the inputs of the head, float64 (N, F)."""
    columns = [torch.from_numpy(views(samples, spec)) for spec in inputs]
    found: list[Tensor] = []
    hook = module.network.head.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    with torch.inference_mode():
        for start in range(0, len(samples), _BATCH):
            module(*(column[start : start + _BATCH] for column in columns))
    hook.remove()
    return torch.cat(found).double().numpy()


def _set_head(network: MiVoloNet, weight: Tensor, bias: Tensor) -> None:
    """Sets the age column to the readout; gender probabilities become 0.5 each."""
    with torch.no_grad():
        for head in (network.head, network.aux_head):
            head.weight.zero_()
            head.bias.zero_()
        network.head.weight[-1] = weight[0]
        network.head.bias[-1] = bias[0]
