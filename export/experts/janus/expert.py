"""Janus-Pro as an expert: checkpoint folder, prompt, and the prompt head or the light head."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.checkpoints.loading import load_checkpoint
from export.config.contract import FP32_OPERATORS, Images, Outputs, Signature
from export.errors import CheckpointError
from export.experts.janus.files import JanusFolder, JanusTokenizer, read_folder
from export.experts.janus.light_head import HEAD_PREFIX, LightHead, load_light_expert
from export.experts.janus.placeholder import placeholder_folder, write_tokenizer
from export.experts.janus.prompt import AgePrompt, build_prompt
from export.experts.janus.settings import CROP_KEYS, JanusSettings
from export.experts.janus.weights import RandomJanus, load_expert, parameter_shapes
from export.graph.torch_expert import TorchExpert
from runtime.geometry import Geometry
from runtime.manifest import InputSpec
from runtime.program import command_line

JANUS_FP32_OPERATORS = (*FP32_OPERATORS, "Gemm", "ArgMax")
"""The only Gemm is the output layer: all other layers are products of more axes. In half precision
its largest logit would often be ambiguous."""
NO_ANSWER = "the model did not answer with an age"
_LARGE_PARAMETERS = 500_000_000
"""Above this size a face takes seconds on a CPU."""


class JanusExpert:
    """An expert that loads its weights on first use and releases them once they are written.

    Otherwise they would fill the memory that running the written file needs.
    """

    def __init__(self, load: Callable[[], nn.Module], signature: Signature) -> None:
        """Stores the function that loads the module."""
        self.signature = signature
        self._load = load
        self._loaded: TorchExpert | None = None

    def write_onnx(self, path: Path) -> None:
        """Writes the module as ONNX and releases it."""
        self._expert().write_onnx(path)
        self._loaded = None
        gc.collect()  # exported programs refer to themselves

    def reference(self, images: Images) -> Outputs:
        """Runs the module, one face at a time."""
        return self._expert().reference(images)

    def _expert(self) -> TorchExpert:
        if self._loaded is None:
            self._loaded = TorchExpert(self._load(), self.signature)
        return self._loaded


@dataclass(frozen=True, slots=True)
class JanusSource:
    """A checkpoint, or random weights in place of one."""

    folder: JanusFolder
    tensors: Mapping[str, Tensor]
    """Read or drawn on access."""
    prompt: AgePrompt | None
    """None for a light head."""


def janus_source(settings: JanusSettings, checkpoint: Path | None) -> JanusSource:
    """Opens a checkpoint folder, or returns random weights.

    Raises:
        CheckpointError: the folder lacks a file or describes another model.
    """
    with_prompt = settings.head == "prompt"
    if checkpoint is None:
        drawn = RandomJanus(settings.size)
        folder = placeholder_folder(drawn)
        with tempfile.TemporaryDirectory() as written:
            write_tokenizer(Path(written), settings.question)
            prompt = _prompt(settings, folder, Path(written)) if with_prompt else None
        return JanusSource(folder, drawn, prompt)
    if not checkpoint.is_dir():
        raise CheckpointError(
            f"{checkpoint} is a file; Janus needs the whole folder: config.json, processor files, "
            f"tokenizer.json and the weights. Give the folder, or hf://owner/repo."
        )
    folder = read_folder(checkpoint)
    prompt = _prompt(settings, folder, checkpoint) if with_prompt else None
    return JanusSource(folder, load_checkpoint(checkpoint).state, prompt)


def janus_expert(
    settings: JanusSettings, checkpoint: Path | None, geometry: Geometry
) -> JanusExpert:
    """Returns Janus with the head that the settings name.

    Args:
        settings: from experts.toml.
        checkpoint: the folder; None for seeded random weights.
        geometry: for its crop margin and the resizes before the fit; the rest is the checkpoint's.
    """
    source = janus_source(settings, checkpoint)
    first, last = settings.question.ages
    ages = range(first, last + 1)
    signature = janus_signature(settings, source, geometry)
    prompt = source.prompt
    if prompt is not None:
        return JanusExpert(lambda: load_expert(source.folder, source.tensors, prompt), signature)
    head = _light_head(source, ages, drawn=checkpoint is None)
    return JanusExpert(
        lambda: load_light_expert(source.folder, source.tensors, head, ages), signature
    )


def count_janus_parameters(settings: JanusSettings, checkpoint: Path | None) -> int:
    """Returns the number of weights in the graph, without a light head's, allocating none."""
    folder = (
        read_folder(checkpoint) if checkpoint else placeholder_folder(RandomJanus(settings.size))
    )
    return _count(folder, light=settings.head == "light")


def _count(folder: JanusFolder, *, light: bool) -> int:
    shapes = parameter_shapes(folder.vision, folder.language)
    kept = ("vision_model", "aligner") if light else ("",)
    return sum(shape.numel() for name, shape in shapes.items() if name.startswith(kept))


def _prompt(settings: JanusSettings, folder: JanusFolder, files: Path) -> AgePrompt:
    return build_prompt(JanusTokenizer(files), settings.question, folder.image)


def _light_head(source: JanusSource, ages: range, *, drawn: bool) -> dict[str, Tensor]:
    if drawn:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return LightHead(source.folder.vision.aligner_width, ages).state_dict()
    names = [key for key in source.tensors if key.startswith(HEAD_PREFIX)]
    if not names:
        raise CheckpointError(
            "head = 'light' needs a distilled checkpoint; this one has no light head. "
            f"Make one: {command_line('distill --help')}"
        )
    return {name.removeprefix(HEAD_PREFIX): source.tensors[name] for name in names}


def janus_signature(settings: JanusSettings, source: JanusSource, geometry: Geometry) -> Signature:
    """Returns the inputs and outputs of the graph; arguments as for `janus_expert`."""
    first, last = settings.question.ages
    recipe, light = source.folder.recipe, source.prompt is None
    kept = {key: getattr(geometry, key) for key in CROP_KEYS}
    geometry = replace(recipe.geometry, **kept)
    outputs = ("age_years", "age_probs") if light else ("age_years", "age_probs", "answer_mass")
    greedy = settings.question.readout == "greedy"
    return Signature(
        inputs=(InputSpec("face", recipe.size, recipe.size, geometry),),
        outputs=outputs,
        age_grid=tuple(map(float, range(first, last + 1))),
        details=_details(settings, source),
        fp32_operators=JANUS_FP32_OPERATORS,
        whole_years=greedy,
        no_answer=NO_ANSWER if greedy else None,
        few_faces=_count(source.folder, light=light) > _LARGE_PARAMETERS,
    )


def _details(settings: JanusSettings, source: JanusSource) -> dict[str, Any]:
    details: dict[str, Any] = {"head": settings.head, "layout": source.folder.layout}
    prompt = source.prompt
    if prompt is not None:
        details |= {
            "prompt": settings.question.text,
            "termination": settings.question.termination,
            "readout": settings.question.readout,
            "prompt_token_ids": list(prompt.prompt_token_ids),
            "age_token_ids": {
                str(age): list(ids)
                for age, ids in zip(prompt.ages, prompt.age_token_ids, strict=True)
            },
        }
    return details
