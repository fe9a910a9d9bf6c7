"""The same experts as their authors publish them: PyTorch eager in FP32, one after the other.

VGG16 and ResNet50 are timm's, MiVOLO is timm's VOLO with MiVOLO's patch embedding, Janus-Pro is
transformers' and writes its answer with `generate`. Decoding, crops and sizes are the runtime's
own: what is compared is how the networks are run.
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

from benchmarks.subjects import Lap
from export.build.demo_weights import demo_checkpoint_name
from export.build.options import DEFAULT_EXPERTS, DEMO_EXPERTS, read_experts
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
_ANSWER_TOKENS = 3
"""Two digits, and the token after which the number has ended."""
_UNUSED_IMAGE_DECODER = {
    "base_channels": 32,
    "channel_multiplier": [1],
    "num_res_blocks": 1,
    "latent_channels": 32,
    "num_embeddings": 8,
}
"""Janus's decoder of pictures, as small as can be: it takes no part in an answer of text."""

Network = Callable[..., Tensor | None]
"""From an expert's uint8 (N, H, W, 3) inputs to ages in years (N,); None where it writes text."""


@dataclass(frozen=True, slots=True)
class _Entry:
    network: Network
    expert: Expert
    what: str


class PyTorchExperts:
    """All experts, loaded on one device."""

    def __init__(
        self,
        engines: Path,
        experts: Mapping[str, Expert],
        *,
        device: str,
        threads: int,
        experts_file: Path | None = None,
    ) -> None:
        """Rebuilds the networks that the engines were exported from.

        Args:
            engines: the folder, in which demo checkpoints lie.
            experts: from its manifest, by name.
            device: `cpu` or `cuda`.
            threads: PyTorch's, on the CPU.
            experts_file: experts.toml that they were built with; None: the built-in ones.

        Raises:
            ValueError: there is no network for one of them, or PyTorch cannot use the GPU.
            ExportError: the weights do not fit.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "--baseline pytorch should run on the GPU as the engines do, and this PyTorch "
                "finds none. Install one with CUDA, or give --device cpu."
            )
        torch.set_num_threads(threads)
        self._device = torch.device(device)
        self._preparer = Preparer(experts, ImageLimits(), Statistics(experts))
        self._entries = {
            name: self._entry(engines, name, expert, experts_file)
            for name, expert in experts.items()
        }

    def described(self) -> dict[str, object]:
        """What runs in place of each expert."""
        return {name: entry.what for name, entry in self._entries.items()}

    def on(self, faces: Sequence[Face]) -> Callable[[], Lap]:
        """A run of a batch, expert after expert."""
        return lambda: self._lap(faces)

    def _lap(self, faces: Sequence[Face]) -> Lap:
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
        return Lap(time.perf_counter() - started, {"prepare": ready - started}, execute, ages=ages)

    def _entry(self, engines: Path, name: str, expert: Expert, experts_file: Path | None) -> _Entry:
        config = _config(name, expert, experts_file)
        checkpoint, weights = _weights(engines, config, expert)
        if isinstance(config.settings, JanusSettings):
            network, kind = _janus(config.settings, checkpoint, self._device)
            return _Entry(network, expert, f"transformers' generate, {kind or weights}")
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
    """What the expert was built from, as far as it can be known.

    Raises:
        ValueError: it is a given ONNX file, or nothing describes it.
    """
    if expert.source.kind == "onnx":
        raise ValueError(
            f"Expert {name!r} is a given ONNX file; there is no PyTorch network to time beside "
            f"it. Name the others with --experts."
        )
    built_in = DEMO_EXPERTS if expert.source.kind == "demo" else DEFAULT_EXPERTS
    problems: list[str] = []
    configs = read_experts(experts_file or built_in, problems)
    alike = [c for c in configs.values() if c.architecture == expert.architecture]
    if problems or not (name in configs or alike):
        raise ValueError(
            "\n".join(problems)
            or f"{experts_file or built_in} describes no {expert.architecture}, which expert "
            f"{name!r} is. Give what it was built with: --experts-file."
        )
    return configs.get(name) or alike[0]


def _weights(engines: Path, config: ExpertConfig, expert: Expert) -> tuple[Path | None, str]:
    """A checkpoint, None for random weights, and what to say of them."""
    kind, location = expert.source.kind, expert.source.location
    if kind == "random":
        return None, f"{_SAME} (random, seed 0)"
    demo = engines / "checkpoints" / demo_checkpoint_name(config)
    path = demo if kind == "demo" else Path(location)
    if path.exists():
        return path, f"{_SAME} ({path.name})"
    return None, f"random weights stand in: {location} is not here"


def _published_volo(expert: MiVoloExpert) -> nn.Module:
    """The same weights in timm's VOLO, with its `fold` and `unfold`, as MiVOLO's authors run it."""
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
    network.register_module("patch_embed", _Joined(ours.patch_embed))
    network.load_state_dict(
        {
            key.replace("patch_embed.", "patch_embed.embed.", 1): tensor
            for key, tensor in ours.state_dict().items()
        }
    )
    return _Separate(network)


class _Joined(nn.Module):
    """MiVOLO's patch embedding behind one argument, which is what VOLO passes on."""

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, images: Tensor) -> Tensor:
        """From (N, 3 or 6, H, W), the face first."""
        patches: Tensor = self.embed(*torch.split(images, 3, dim=1))
        return patches


class _Separate(nn.Module):
    """VOLO of 3 or 6 channels behind images of 3."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *images: Tensor) -> Tensor:
        """From (N, 3, H, W), face and where used person, to the network's columns."""
        columns: Tensor = self.network(torch.cat(images, dim=1))
        return columns


def _janus(
    settings: JanusSettings, checkpoint: Path | None, device: torch.device
) -> tuple[Network, str]:
    """Janus as transformers runs it, and what stands in for its weights if something does."""
    source, kind = janus_source(settings, checkpoint), ""
    if source.folder.layout != "transformers" or source.prompt is None:
        reason = "a light head" if source.prompt is None else "the authors' layout"
        source, kind = _drawn(settings), f"random weights stand in for {reason}"
    model = _transformers_janus(settings, source, checkpoint if not kind else None).to(device)
    normalize = Normalize(source.folder.normalization).to(device)
    prompt = source.prompt
    if prompt is None:
        raise ValueError("Janus without a question cannot be asked.")
    image = (prompt.image_id,) * prompt.image_tokens
    asked = torch.tensor([(*prompt.before_ids, *image, *prompt.after_ids)], device=device)

    def answer(face: Tensor) -> None:
        ids = asked.repeat(len(face), 1)
        tokens = model.generate(
            input_ids=ids,
            pixel_values=normalize(face),
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=_ANSWER_TOKENS,
            max_new_tokens=_ANSWER_TOKENS,
            pad_token_id=0,
        )
        tokens.tolist()  # waits for the GPU

    return answer, kind


def _drawn(settings: JanusSettings) -> JanusSource:
    return janus_source(replace(settings, head="prompt"), None)


def _transformers_janus(
    settings: JanusSettings, source: JanusSource, checkpoint: Path | None
) -> Any:  # noqa: ANN401 - transformers has no types
    from transformers import JanusConfig, JanusForConditionalGeneration
    from transformers.utils import logging

    quiet: Any = logging.set_verbosity_error
    quiet()  # it warns at every call of what the call itself sets
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
