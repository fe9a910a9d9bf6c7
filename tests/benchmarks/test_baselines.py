"""The baselines of `latency.py --baseline` are the same networks, run as their authors do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.baseline_pytorch import PyTorchExperts, _janus, _published_volo
from benchmarks.breakdown import timed_model
from benchmarks.environment import onnx_only
from benchmarks.options import input_faces
from export.experts.janus.prompt import PromptOptions
from export.experts.janus.settings import JanusSettings
from export.experts.mivolo.module import AgeScale, MiVoloSpec, random_mivolo
from export.experts.mivolo.network import VARIANTS
from runtime import AgeMoE, BackendError, ImageLimits
from runtime.geometry import Geometry
from runtime.manifest import BatchProfile, EngineBinding, Expert, InputSpec, Source
from runtime.manifest_file import read_manifest, write_manifest
from runtime.preparation import PreparedFace, Preparer
from runtime.stats import Statistics
from tests.export.small import SIDE, experts_toml, small_module, write_checkpoint
from tests.runtime.tiny_engines import Tiny, write_engines


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def expert(location: str, kind: str = "checkpoint") -> Expert:
    spec = InputSpec("face", SIDE, SIDE, Geometry())
    outputs = ("age_years", "age_probs")
    grid = tuple(map(float, range(101)))
    return Expert(
        "resnet50", Source(kind, location, "ab" * 32), (spec,), outputs, grid, BatchProfile(), ()
    )


def test_cnn_has_the_weights_of_its_checkpoint(tmp_path: Path) -> None:
    module = small_module()
    checkpoint = write_checkpoint(tmp_path / "r.safetensors", module)
    toml = experts_toml(tmp_path, resnet50=checkpoint.name)
    experts = {"resnet50": expert(str(checkpoint))}
    baseline = PyTorchExperts(tmp_path, experts, device="cpu", threads=1, experts_file=toml)
    batch = input_faces(2)
    measured = baseline.timed(batch)()
    prepared = Preparer(experts, ImageLimits(), Statistics(experts)).prepare(batch)
    views = [next(iter(f.views.values())) for f in prepared if isinstance(f, PreparedFace)]
    with torch.inference_mode():
        years = module(torch.from_numpy(np.stack(views)))[0]
    assert measured.ages["resnet50"] == pytest.approx(years.tolist(), abs=1e-4)
    assert baseline.described() == {"resnet50": "timm's resnet50, the same weights (r.safetensors)"}


def test_missing_weights_are_replaced_by_random_ones(tmp_path: Path) -> None:
    toml = experts_toml(tmp_path, resnet50="absent.pth")
    experts = {"resnet50": expert("absent.pth")}
    baseline = PyTorchExperts(tmp_path, experts, device="cpu", threads=1, experts_file=toml)
    assert "random weights, because absent.pth does not exist" in str(baseline.described())


def test_expert_given_as_onnx_has_no_baseline(tmp_path: Path) -> None:
    experts = {"x": expert("x.onnx", kind="onnx")}
    with pytest.raises(ValueError, match="Name the others with --experts"):
        PyTorchExperts(tmp_path, experts, device="cpu", threads=1)


@pytest.mark.parametrize("with_person", [True, False])
def test_published_mivolo_equals_the_exported_one(*, with_person: bool) -> None:
    spec = MiVoloSpec(VARIANTS["demo"], AgeScale(0.0, 100.0, 50.0), 64, with_person=with_person)
    module = random_mivolo(spec)
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=generator)
        for _ in module.input_names
    ]
    with torch.inference_mode():
        ours = module(*images)[0]
        module.register_module("network", _published_volo(module).eval())
        theirs = module(*images)[0]
    torch.testing.assert_close(theirs, ours, rtol=0.0, atol=1e-3)


def test_janus_generates_text() -> None:
    settings = JanusSettings("prompt", PromptOptions(), "tiny")
    generate, note = _janus(settings, None, torch.device("cpu"))
    with torch.inference_mode():
        assert generate(torch.zeros((2, 48, 48, 3), dtype=torch.uint8)) is None
    assert note == ""


def test_light_janus_is_replaced_by_a_full_one() -> None:
    settings = JanusSettings("light", PromptOptions(), "tiny")
    _, note = _janus(settings, None, torch.device("cpu"))
    assert note == "random weights instead of a light head"


def test_onnx_only_leaves_out_tensorrt(tmp_path: Path) -> None:
    engines = write_engines(tmp_path / "engines", {"a": Tiny()})
    manifest = read_manifest(engines)
    graph = manifest.experts["a"].artifacts[0]
    binding = EngineBinding("11.4.0", "9.0", graph.files[0].sha256, {})
    engine = replace(graph, backend="tensorrt", binding=binding)
    both = replace(manifest.experts["a"], artifacts=(graph, engine))
    write_manifest(engines, replace(manifest, experts={"a": both}))
    with onnx_only(engines) as folder:
        assert [a.backend for a in read_manifest(folder).experts["a"].artifacts] == ["onnx"]
        with AgeMoE(folder, device="cpu") as moe:
            measured = timed_model(moe, "sequence", input_faces(2))()
    assert len(measured.ages["a"]) == 2
    assert not folder.exists()
    only = replace(both, artifacts=(engine,))
    write_manifest(engines, replace(manifest, experts={"a": only}))
    with pytest.raises(BackendError, match="no ONNX file"), onnx_only(engines):
        pass
