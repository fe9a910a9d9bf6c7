"""A new architecture is one module and one line of the registry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from export.build.options import resolve_options
from export.build.pipeline import build
from export.checkpoints.loading import load_checkpoint
from export.config.architecture import Architecture, ExpertConfig
from export.config.contract import BuiltExpert, Signature
from export.config.settings import COMMON_KEYS, optional
from export.errors import OptionsError
from export.experts.registry import ARCHITECTURES
from export.graph.torch_expert import TorchExpert
from runtime import AgeMoE
from runtime.geometry import Geometry
from runtime.json_reader import JsonReader
from runtime.manifest import InputSpec
from runtime.manifest_file import read_manifest
from tests.export.test_pipeline import Quiet

SIDE = 32
GEOMETRY = Geometry(fit="letterbox")


class Brightness(nn.Module):
    """Estimates an age from nothing but the mean of all pixels."""

    def __init__(self, years: float) -> None:
        super().__init__()
        self.years = nn.Parameter(torch.tensor(years))

    def forward(self, face: Tensor) -> tuple[Tensor]:
        return (face.float().mean(dim=(1, 2, 3)) / 255.0 * self.years,)


def _read(entry: JsonReader) -> float:
    entry.only((*COMMON_KEYS, "years"))
    return optional(entry, "years", JsonReader.number, 100.0)


def _build(config: ExpertConfig, checkpoint: Path | None) -> BuiltExpert:
    years: float = config.settings
    if checkpoint is not None:
        years = float(load_checkpoint(checkpoint).state["years"])
    inputs = (InputSpec("face", SIDE, SIDE, config.geometry),)
    return TorchExpert(Brightness(years), Signature(inputs, ("age_years",)))


BRIGHTNESS = Architecture(
    revision=1,
    read_settings=_read,
    build=_build,
    count_parameters=lambda *_: 1,
    geometry=GEOMETRY,
    variants={"fp32": "onnx"},
)


@pytest.fixture
def experts_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(ARCHITECTURES, "brightness", BRIGHTNESS)
    save_file({"years": torch.tensor(50.0)}, tmp_path / "w.safetensors")
    path = tmp_path / "experts.toml"
    path.write_text("[experts.b]\narchitecture = 'brightness'\ncheckpoint = 'w.safetensors'\n")
    return path


@pytest.mark.conversion
@pytest.mark.parametrize(("weights", "years"), [("checkpoint", 50.0), ("random", 100.0)])
@pytest.mark.filterwarnings("ignore::runtime.startup.PlaceholderWeightsWarning")
def test_a_made_up_architecture_is_built_and_predicts(
    experts_toml: Path, tmp_path: Path, weights: str, years: float
) -> None:
    output = tmp_path / "engines"
    options = resolve_options(output=output, experts_file=experts_toml, weights=weights, fp16=True)
    assert options.engine_precision("brightness") == "fp32"  # it has no FP16 variant
    build(options, Quiet())
    expert = read_manifest(output).experts["b"]
    assert expert.architecture == "brightness"
    assert expert.source.kind == weights
    assert expert.inputs[0].geometry == GEOMETRY
    assert [artifact.precision for artifact in expert.artifacts] == ["fp32"]
    with AgeMoE(output, device="cpu") as moe:
        white = moe.predict(np.full((40, 40, 3), 255, np.uint8))
    assert white.age_years == pytest.approx(years)


def test_its_settings_are_validated(experts_toml: Path, tmp_path: Path) -> None:
    experts_toml.write_text(experts_toml.read_text() + "layers = 3\n")
    with pytest.raises(OptionsError) as caught:
        resolve_options(output=tmp_path, experts_file=experts_toml, int8=True)
    unknown, no_variant = caught.value.problems
    assert "experts.b: unknown key layers" in unknown
    assert no_variant.startswith("--int8: brightness has no such variant")
