"""face-api.js's network as an expert: its published weights, or random ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.checkpoints.loading import describe_mismatch
from export.checkpoints.tensorflow_js import MANIFEST_SUFFIX, is_manifest, read_tensorflow_js
from export.config.contract import Signature
from export.errors import CheckpointError
from export.experts.faceapi.network import FaceApiExpert, SeparableConv
from export.experts.faceapi.settings import SIDE
from export.faces.verification import verification_images
from export.graph.torch_expert import TorchExpert
from runtime.geometry import Geometry
from runtime.manifest import InputSpec

_RANDOM_MEAN_YEARS, _RANDOM_STD_YEARS = 40.0, 10.0
"""Of a random network's ages of the verification faces, so that faces get different ages."""


def faceapi_expert(checkpoint: Path | None, geometry: Geometry) -> TorchExpert:
    """Returns the network with its weights.

    Args:
        checkpoint: the manifest of the weights, `age_gender_model-weights_manifest.json`, with its
            binary file beside it, or the folder that holds one; None for seeded random weights.
        geometry: of the face.

    Raises:
        CheckpointError: the files are damaged, or hold other weights.
    """
    inputs = (InputSpec("face", SIDE, SIDE, geometry),)
    module = FaceApiExpert()
    if checkpoint is None:
        module = random_faceapi()
    else:
        manifest = _manifest(checkpoint)
        load_faceapi(module, read_tensorflow_js(manifest), manifest)
    return TorchExpert(module, Signature(inputs, ("age_years", "gender_probs")))


def count_faceapi_parameters() -> int:
    """Returns the number of weights, allocating none."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in FaceApiExpert().parameters())


def load_faceapi(
    module: FaceApiExpert, weights: Mapping[str, NDArray[np.generic]], source: Path
) -> None:
    """Loads weights under their published names.

    Args:
        module: the network.
        weights: in TensorFlow's layouts, by name.
        source: of the weights, for the message.

    Raises:
        CheckpointError: names or shapes do not fit; all of them are listed.
    """
    names = published_names(module)
    wanted = {name: module.network.state_dict()[key] for name, key in names.items()}
    state = {name: _as_torch(name, array) for name, array in weights.items()}
    if mismatch := describe_mismatch("faceapi", state, wanted):
        raise CheckpointError(
            f"{source}: {mismatch[0]}",
            *mismatch[1:],
            "The weights are in npm's @vladmandic/face-api, "
            "model/age_gender_model-weights_manifest.json.",
        )
    module.network.load_state_dict({names[name]: tensor for name, tensor in state.items()})


def published_names(module: FaceApiExpert) -> dict[str, str]:
    """Returns the key of the network's state by the published name of each weight."""
    names: dict[str, str] = {}
    for key, layer in module.network.named_modules():
        path = key.replace(".", "/")
        if isinstance(layer, SeparableConv):
            names[f"{path}/depthwise_filter"] = f"{key}.depthwise.weight"
            names[f"{path}/pointwise_filter"] = f"{key}.pointwise.weight"
            names[f"{path}/bias"] = f"{key}.pointwise.bias"
        elif isinstance(layer, nn.Linear):
            names |= {f"{path}/weights": f"{key}.weight", f"{path}/bias": f"{key}.bias"}
        elif isinstance(layer, nn.Conv2d) and not path.endswith(("depthwise", "pointwise")):
            names |= {f"{path}/filters": f"{key}.weight", f"{path}/bias": f"{key}.bias"}
    return names


def random_faceapi(seed: int = 0) -> FaceApiExpert:
    """Returns the network with seeded random weights whose ages of faces differ.

    PyTorch's global seed stays untouched.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = FaceApiExpert().eval()
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    images = verification_images((InputSpec("face", SIDE, SIDE, Geometry()),))
    with torch.inference_mode():
        image = module.normalize(torch.from_numpy(images["face"]))
        ages, _ = module.network(image)
    head: Any = module.network.fc["age"]
    scale = _RANDOM_STD_YEARS / ages.std()
    with torch.no_grad():
        head.weight.mul_(scale)
        head.bias.copy_((head.bias - ages.mean()) * scale + _RANDOM_MEAN_YEARS)
    return module


def _manifest(checkpoint: Path) -> Path:
    if checkpoint.is_file() and is_manifest(checkpoint):
        return checkpoint
    found = sorted(checkpoint.glob(f"*{MANIFEST_SUFFIX}")) if checkpoint.is_dir() else []
    if len(found) != 1:
        raise CheckpointError(
            f"{checkpoint} is no manifest of TensorFlow.js weights, nor a folder with one. Give "
            f"age_gender_model{MANIFEST_SUFFIX}, with its .bin file beside it."
        )
    return found[0]


def _as_torch(name: str, array: NDArray[np.generic]) -> Tensor:
    """Turns a weight from TensorFlow's layout into PyTorch's.

    Convolutions: (H, W, inputs, outputs) to (outputs, inputs, H, W); of single channels: (H, W,
    channels, 1) to (channels, 1, H, W); fully connected: (inputs, outputs) to (outputs, inputs).
    """
    tensor = torch.from_numpy(np.asarray(array))
    if tensor.ndim == 4:
        axes = (2, 3, 0, 1) if name.endswith("depthwise_filter") else (3, 2, 0, 1)
        return tensor.permute(*axes).contiguous()
    return tensor.T.contiguous() if tensor.ndim == 2 else tensor
