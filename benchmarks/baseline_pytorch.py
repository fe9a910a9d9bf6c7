"""The PyTorch baseline: the experts as their authors publish them, eager, FP32, one by one.

VGG16 and ResNet50 are timm's, MiVOLO is timm's VOLO with MiVOLO's patch embedding, Janus-Pro is
transformers' and generates its answer as text. Decoding, crops and sizes are the runtime's own, so
that only the execution of the networks differs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.breakdown import Measurement
from export.build.demo_weights import demo_checkpoint_name
from export.build.experts_file import DEFAULT_EXPERTS, DEMO_EXPERTS, read_experts
from export.config.architecture import ExpertConfig
from export.experts.janus.expert import JanusSource, janus_source
from export.experts.janus.placeholder import configuration
from export.experts.janus.settings import JanusSettings
from export.experts.janus.weights import RandomJanus
from export.experts.mivolo.module import MiVoloExpert
from export.experts.registry import build_expert
from export.graph.preprocessing import Normalize
from export.graph.torch_expert import TorchExpert
from runtime import Face, ImageLimits
from runtime.manifest import Expert
from runtime.preparation import PreparedFace, Preparer
from runtime.stats import Statistics

_SAME = "the same weights"
_GENERATED_TOKENS = 3
"""Two digits and the token that ends the number."""
_UNUSED_IMAGE_DECODER = {
    "base_channels": 32,
    "channel_multiplier": [1],
    "num_res_blocks": 1,
    "latent_channels": 32,
    "num_embeddings": 8,
}
"""The smallest image decoder that Janus accepts; generating text does not use it."""

Network = Callable[..., Tensor | None]
"""From uint8 inputs (N, H, W, 3) to ages in years (N,); None where the network generates text."""


@dataclass(frozen=True, slots=True)
class _Entry:
    network: Network
    expert: Expert
    description: str


class PyTorchExperts:
    """The PyTorch networks of all experts, on one device."""

    def __init__(
        self,
        engines: Path,
        experts: Mapping[str, Expert],
        *,
        device: str,
        threads: int,
        experts_file: Path | None = None,
    ) -> None:
        """Rebuilds the networks that the engines in the folder were exported from.

        `experts_file` is the experts.toml of the build; None means the built-in ones.

        Raises:
            ValueError: an expert has no PyTorch network, or PyTorch cannot use the GPU.
            ExportError: the weights do not fit the network.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "--baseline pytorch needs the GPU that the engines run on, and this PyTorch finds "
                "none. Install PyTorch with CUDA, or give --device cpu."
            )
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._preparer = Preparer(experts, ImageLimits(), Statistics(experts))
        self._entries = {
            name: self._entry(engines, name, expert, experts_file)
            for name, expert in experts.items()
        }

    def described(self) -> dict[str, object]:
        """Returns a description of the network and weights of each expert."""
        return {name: entry.description for name, entry in self._entries.items()}

    def timed(self, faces: Sequence[Face]) -> Callable[[], Measurement]:
        """Returns a function that measures one prediction of a batch, expert after expert."""
        return lambda: self._measure(faces)

    def _measure(self, faces: Sequence[Face]) -> Measurement:
        started = time.perf_counter()
        prepared = [f for f in self._preparer.prepare(faces) if isinstance(f, PreparedFace)]
        views = self._preparer.stacked(prepared)
        ready = time.perf_counter()
        execute: dict[str, float] = {}
        ages: dict[str, tuple[float, ...]] = {}
        for name, entry in self._entries.items():
            before = time.perf_counter()
            inputs = [torch.from_numpy(views[spec]) for spec in entry.expert.inputs]
            with torch.inference_mode():
                years = entry.network(*(pixels.to(self._device) for pixels in inputs))
            if years is not None:
                ages[name] = tuple(years.tolist())  # waits for the GPU
            execute[name] = time.perf_counter() - before
        seconds = time.perf_counter() - started
        return Measurement(seconds, {"prepare": ready - started}, execute, ages=ages)

    def _entry(self, engines: Path, name: str, expert: Expert, experts_file: Path | None) -> _Entry:
        config = _config(name, expert, experts_file)
        checkpoint, weights = _weights(engines, config, expert)
        if isinstance(config.settings, JanusSettings):
            network, note = _janus(config.settings, checkpoint, self._device)
            return _Entry(network, expert, f"transformers' generate, {note or weights}")
        built = build_expert(config, checkpoint)
        if not isinstance(built, TorchExpert):
            raise TypeError(f"{name}: expected a PyTorch module, got {type(built).__name__}.")
        module = built.module.to(self._device)
        if isinstance(module, MiVoloExpert):
            published = _published_volo(module).to(self._device).eval()
            module.register_module("network", published)
            return _Entry(_first_output(module), expert, f"timm's VOLO, {weights}")
        return _Entry(_first_output(module), expert, f"timm's {config.architecture}, {weights}")


def _first_output(module: nn.Module) -> Network:
    return lambda *images: module(*images)[0]


def _config(name: str, expert: Expert, experts_file: Path | None) -> ExpertConfig:
    """Returns the configuration that the expert was built from."""
    if expert.source.kind == "onnx":
        raise ValueError(
            f"Expert {name!r} was given as an ONNX file and has no PyTorch network to compare "
            f"with. Name the others with --experts."
        )
    built_in = DEMO_EXPERTS if expert.source.kind == "demo" else DEFAULT_EXPERTS
    problems: list[str] = []
    configs = read_experts(experts_file or built_in, problems)
    alike = [c for c in configs.values() if c.architecture == expert.architecture]
    if problems or not (name in configs or alike):
        raise ValueError(
            "\n".join(problems)
            or f"{experts_file or built_in} describes no {expert.architecture}, the architecture "
            f"of expert {name!r}. Give the file of the build with --experts-file."
        )
    return configs.get(name) or alike[0]


def _weights(engines: Path, config: ExpertConfig, expert: Expert) -> tuple[Path | None, str]:
    """Returns the checkpoint, None for random weights, and a description of the weights."""
    kind, location = expert.source.kind, expert.source.location
    if kind == "random":
        return None, f"{_SAME} (random, seed 0)"
    demo = engines / "checkpoints" / demo_checkpoint_name(config)
    path = demo if kind == "demo" else Path(location)
    if path.exists():
        return path, f"{_SAME} ({path.name})"
    return None, f"random weights, because {location} does not exist"


def _published_volo(expert: MiVoloExpert) -> nn.Module:
    """Returns timm's VOLO with the same weights, as MiVOLO's authors run it (`fold`, `unfold`)."""
    from timm.models.volo import VOLO

    ours, shape = expert.network, expert.spec.shape
    network = VOLO(
        layers=list(shape.layers),
        img_size=expert.spec.input_size,
        num_classes=ours.head.out_features,
        stem_hidden_dim=shape.stem_width,
        embed_dims=list(shape.embed_dims),
        num_heads=list(shape.num_heads),
        mlp_ratio=shape.mlp_ratio,
    )
    network.register_module("patch_embed", _PatchEmbedding(ours.patch_embed))
    network.load_state_dict(
        {
            key.replace("patch_embed.", "patch_embed.embed.", 1): tensor
            for key, tensor in ours.state_dict().items()
        }
    )
    return _Concatenated(network)


class _PatchEmbedding(nn.Module):
    """MiVOLO's patch embedding with the single argument (N, 3 or 6, H, W) that VOLO passes."""

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, images: Tensor) -> Tensor:
        """Embeds the channels of the face, then those of the person."""
        patches: Tensor = self.embed(*torch.split(images, 3, dim=1))
        return patches


class _Concatenated(nn.Sequential):
    """A network of 3 or 6 channels with one argument (N, 3, H, W) for face and for person."""

    def forward(self, *images: Tensor) -> Tensor:
        """Returns the network's columns."""
        columns: Tensor = self[0](torch.cat(images, dim=1))
        return columns


def _janus(
    settings: JanusSettings, checkpoint: Path | None, device: torch.device
) -> tuple[Network, str]:
    """Returns Janus as transformers runs it, and a note if its weights are not the same."""
    source, note = janus_source(settings, checkpoint), ""
    if source.folder.layout != "transformers" or source.prompt is None:
        reason = "a light head" if source.prompt is None else "the authors' layout"
        source = janus_source(replace(settings, head="prompt"), None)
        checkpoint, note = None, f"random weights instead of {reason}"
    model = _transformers_janus(settings, source, checkpoint).to(device)
    normalize = Normalize(source.folder.normalization).to(device)
    prompt = source.prompt
    if prompt is None:
        raise ValueError("This Janus has no prompt to generate an answer from.")
    image = (prompt.image_id,) * prompt.image_tokens
    question = torch.tensor([(*prompt.before_ids, *image, *prompt.after_ids)], device=device)

    def generate(face: Tensor) -> None:
        ids = question.repeat(len(face), 1)
        tokens = model.generate(
            input_ids=ids,
            pixel_values=normalize(face),
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=_GENERATED_TOKENS,
            max_new_tokens=_GENERATED_TOKENS,
            pad_token_id=0,
        )
        tokens.tolist()  # waits for the GPU

    return generate, note


def _transformers_janus(
    settings: JanusSettings, source: JanusSource, checkpoint: Path | None
) -> Any:  # noqa: ANN401 - transformers has no types
    from transformers import JanusConfig, JanusForConditionalGeneration
    from transformers.utils import logging

    quiet: Any = logging.set_verbosity_error
    quiet()  # it warns in every call about settings of the call itself
    described = (
        json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        if checkpoint
        else configuration(RandomJanus(settings.size))
    )
    prompt = source.prompt
    token = {} if prompt is None else {"image_token_id": prompt.image_id}
    config = JanusConfig(**{**described, **token, "vq_config": _UNUSED_IMAGE_DECODER})
    make: Any = JanusForConditionalGeneration._from_config  # noqa: SLF001 - has no public name
    model = make(config, attn_implementation="sdpa")
    parameters = model.state_dict()
    for key, tensor in source.tensors.items():
        parameters[key].copy_(tensor)
    return model.eval()
