"""Loading of Janus-Pro's weights, from either layout of its checkpoints.

Image generation (`gen_*`, `vqmodel`) and SigLIP's pooling are not used.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from export.errors import CheckpointError
from export.experts.janus.files import JanusFolder, Layout
from export.experts.janus.network import (
    Aligner,
    LanguageModel,
    LanguageShape,
    VisionShape,
    VisionTower,
)
from export.experts.janus.prompt import AgePrompt
from export.experts.janus.prompt_head import JanusAgeExpert

SHAPES: dict[str, tuple[VisionShape, LanguageShape]] = {
    "1B": (VisionShape(), LanguageShape()),
    "7B": (
        VisionShape(aligner_width=4096),
        LanguageShape(width=4096, layers=30, heads=32, kv_heads=32, mlp_width=11008),
    ),
    "demo": (
        VisionShape(96, 16, width=96, layers=1, heads=8, mlp_width=384, aligner_width=256),
        LanguageShape(256, 1, heads=16, kv_heads=16, head_width=16, mlp_width=512, vocabulary=128),
    ),
    "tiny": (
        VisionShape(48, 16, width=32, layers=2, heads=4, mlp_width=64, aligner_width=64),
        LanguageShape(64, 3, heads=4, kv_heads=2, head_width=16, mlp_width=96, vocabulary=512),
    ),
}
"""Sizes by name: the published ones, the demo's, and a tiny one with grouped-query attention."""


def load_expert(
    settings: JanusFolder, tensors: Mapping[str, Tensor], prompt: AgePrompt
) -> JanusAgeExpert:
    """Builds the prompt head's expert; tensors are loaded one at a time.

    Args:
        settings: from `read_folder`.
        tensors: the checkpoint by key; may load lazily.
        prompt: from `build_prompt` with this checkpoint's tokenizer.

    Raises:
        CheckpointError: image tokens do not match, keys are missing, shapes differ, or the
            output layer was overwritten by the embeddings.
    """
    if prompt.image_tokens != settings.vision.tokens:
        raise CheckpointError(
            f"The prompt reserves {prompt.image_tokens} image tokens, the vision tower gives "
            f"{settings.vision.tokens}. Use the processor_config.json of the checkpoint."
        )
    with torch.device("meta"):
        expert = JanusAgeExpert(settings.vision, settings.language, settings.normalization, prompt)
    state = weights(dict(expert.named_parameters()), tensors, settings.layout)
    state["embeddings"] = _embeddings(prompt, tensors, settings.layout, state["lm_head.weight"])
    expert.load_state_dict(state, assign=True)
    return expert.eval()


def weights(
    parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], layout: Layout
) -> dict[str, Tensor]:
    """Returns float32 weights from a checkpoint of either layout.

    Args:
        parameters: the weights to return, named as in `JanusAgeExpert`; only shapes are read.
        tensors: the checkpoint by key.
        layout: of the keys.
    """
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    missing = sorted({k for n in shapes if (k := source_key(n, layout)[0]) not in tensors})
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise CheckpointError(
            f"The checkpoint lacks {', '.join(missing[:5])}{more}: it is incomplete, or not "
            f"Janus in the {layout} layout. A checkpoint saved with tied weights has no lm_head: "
            f"save it again with tie_word_embeddings=False."
        )
    return {name: _tensor(name, shape, tensors, layout) for name, shape in shapes.items()}


def source_key(name: str, layout: Layout) -> tuple[str, int | None]:
    """Returns the checkpoint key of a parameter, and the index of its third of fused q, k, v."""
    for pattern, target in _KEYS[layout]:
        if match := re.match(pattern, name):
            part = "qkv".index(match["part"]) if "part" in match.groupdict() else None
            start = target(match) if callable(target) else match.expand(target)
            return start + name[match.end() :], part
    raise KeyError(name)


_Target = str | Callable[[re.Match[str]], str]
_TOWER, _LAYER = "vision_model.vision_tower.", r"vision_model\.layers\.(\d+)\."
_KEYS: dict[Layout, tuple[tuple[str, _Target], ...]] = {
    "transformers": (
        (r"vision_model\.patch_embedding", "model.vision_model.embeddings.patch_embedding"),
        (
            r"vision_model\.position_embedding",
            "model.vision_model.embeddings.position_embedding.weight",
        ),
        (r"vision_model\.layers", "model.vision_model.encoder.layers"),
        (r"(?=lm_head)", ""),
        (r"(?=vision_model|aligner|language_model)", "model."),
    ),
    "official": (
        (r"vision_model\.patch_embedding", _TOWER + "patch_embed.proj"),
        (r"vision_model\.position_embedding", _TOWER + "pos_embed"),
        (_LAYER + r"layer_norm", _TOWER + r"blocks.\1.norm"),
        (_LAYER + r"self_attn\.(?P<part>[qkv])_proj", _TOWER + r"blocks.\1.attn.qkv"),
        (_LAYER + r"self_attn\.projection_layer", _TOWER + r"blocks.\1.attn.proj"),
        (_LAYER, _TOWER + r"blocks.\1."),
        (r"vision_model\.post_layernorm", _TOWER + "norm"),
        (r"aligner\.fc1", "aligner.layers.0"),
        (
            r"aligner\.hidden_layers\.(\d+)",  # the official numbering includes activations
            lambda match: f"aligner.layers.{2 * int(match[1]) + 2}",
        ),
        (r"language_model\.", "language_model.model."),
        (r"(?=lm_head)", "language_model."),
    ),
}


def parameter_shapes(vision: VisionShape, language: LanguageShape) -> dict[str, torch.Size]:
    """Returns the shape of every weight of the graph without allocating any."""
    model = nn.Module()
    with torch.device("meta"):
        model.vision_model = VisionTower(vision)
        model.aligner = Aligner(vision)
        mask, positions = np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.int64)
        model.language_model = LanguageModel(language, mask, positions, 1)
        model.lm_head = nn.Linear(language.width, language.vocabulary, bias=False)
    return {name: parameter.shape for name, parameter in model.named_parameters()}


class RandomJanus(Mapping[str, Tensor]):
    """A checkpoint of random weights in transformers' layout; tensors are drawn on access."""

    def __init__(self, shape: str = "1B", seed: int = 0) -> None:
        """Selects sizes by a name in `SHAPES`."""
        self.vision, self.language = SHAPES[shape]
        self._seed = seed
        shapes = parameter_shapes(self.vision, self.language)
        self._shapes = {source_key(n, "transformers")[0]: s for n, s in shapes.items()}
        vocabulary = torch.Size((self.language.vocabulary, self.language.width))
        self._shapes[_embedding_key("transformers")] = vocabulary

    def __getitem__(self, key: str) -> Tensor:
        """Returns float32 values, scaled so that activations keep their size through the layers."""
        shape = self._shapes[key]
        generator = torch.Generator().manual_seed(self._seed + zlib.crc32(key.encode()))
        values = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            return values.mul_(0.1).add_("norm" in key and key.endswith("weight"))
        return values if "embed" in key else values.mul_(shape[1:].numel() ** -0.5)

    def __iter__(self) -> Iterator[str]:
        """Iterates over the keys of the checkpoint."""
        return iter(self._shapes)

    def __len__(self) -> int:
        """Returns the number of tensors."""
        return len(self._shapes)


def _embedding_key(layout: Layout) -> str:
    return source_key("language_model.embed_tokens.weight", layout)[0]


def _embeddings(
    prompt: AgePrompt, tensors: Mapping[str, Tensor], layout: Layout, lm_head: Tensor
) -> Tensor:
    """Returns the embeddings of the sequence, (1, S, C), zero at the image tokens."""
    key = _embedding_key(layout)
    if key not in tensors:
        raise CheckpointError(f"The checkpoint lacks {key}, the embeddings of the prompt's tokens.")
    table = tensors[key]
    after = torch.tensor(prompt.after_ids + prompt.tree.node_ids)
    if torch.equal(table[after].float(), lm_head[after]):
        raise CheckpointError(
            "lm_head.weight equals the token embeddings; Janus-Pro's differ. The checkpoint was "
            "saved after loading with tie_word_embeddings=True. Use the published weights."
        )
    before = table[list(prompt.before_ids)].float()
    image = torch.zeros(prompt.image_tokens, table.shape[1])
    return torch.cat([before, image, table[after].float()])[None]


def _tensor(name: str, shape: torch.Size, tensors: Mapping[str, Tensor], layout: Layout) -> Tensor:
    key, part = source_key(name, layout)
    tensor = tensors[key]
    if part is not None:
        tensor = tensor.chunk(3)[part].clone()
    if name.endswith("position_embedding") and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.shape != shape:
        raise CheckpointError(
            f"{key} has shape {tuple(tensor.shape)}, config.json implies {tuple(shape)}: weights "
            f"and configuration belong to different models."
        )
    return tensor.to(torch.float32)
