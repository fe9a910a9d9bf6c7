"""AgeMoE as published, end to end: files in the published layouts against a pipeline in PyTorch.

The pipeline is written from the publication: OpenCV and Pillow for pixels, each network by other
means than the exporter's, the fusion by its formula. The networks are tiny and random.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer

from export import calibrate
from export.build.experts_file import read_experts
from export.build.options import BuildOptions
from export.build.pipeline import build
from export.config.architecture import ExpertConfig
from export.experts.janus.files import JanusTokenizer
from export.experts.janus.weights import RandomJanus
from export.experts.mivolo.module import AgeScale, MiVoloSpec, random_mivolo
from export.experts.mivolo.network import VARIANTS
from export.faces.drawn import draw_face
from runtime import AgeEstimate, AgeMoE
from tests.export import cnn_twins
from tests.export.janus_fixtures import (
    NORMALIZATION,
    reference_model,
    transformers_config,
    write_tokenizer,
)
from tests.export.reference_mivolo import raw_outputs
from tests.export.test_pipeline import Quiet
from tests.export.test_published_fusion import trained_weights

pytestmark = pytest.mark.conversion

NAMES = ("janus", "vgg16", "mivolo", "resnet50")
IMDB = AgeScale(1.0, 95.0, 48.0)
MIVOLO = MiVoloSpec(VARIANTS["demo"], IMDB, 64)
PROMPT = (
    "Please provide a numerical age. Only answer with a number. If unable to answer, say unknown."
)
SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
Picture = NDArray[np.uint8]


def pictures() -> list[Picture]:
    """RGB, of several sizes and shapes."""
    found = []
    for index, age in enumerate((4.0, 17.0, 33.0, 58.0, 79.0)):
        face = draw_face(age, seed=index, size=150 + 31 * index)
        cut = face[index : len(face) - 9 * index, : 140 + 20 * index]
        found.append(np.ascontiguousarray(cut))
    return found


class Talkative(RandomJanus):
    """A random Janus that writes an age for some of the pictures."""

    def __init__(self, tokenizer: JanusTokenizer) -> None:
        super().__init__("tiny", seed=2)
        spellings = tokenizer.tokens().items()
        self._digits = [index for token, index in spellings if re.fullmatch("[0-9]", token)]

    def __getitem__(self, key: str) -> torch.Tensor:
        tensor = super().__getitem__(key)
        if key == "lm_head.weight":
            tensor[self._digits] *= 3.0
        return tensor


class Pipeline:
    """The published program on random weights, which it also writes to the published files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._write_cnns()
        self._mivolo = random_mivolo(MIVOLO, seed=7).network.state_dict()
        metadata = {"min_age": 1, "max_age": 95, "avg_age": 48, "no_gender": False}
        torch.save(
            {"state_dict": self._mivolo, **metadata, "with_persons_model": True},
            folder / "model_imdb_cross_person_4.22_99.46.pth.tar",
        )
        self._write_janus(folder / "Janus-Pro-7B")
        self.fusion = trained_weights()
        torch.save(self.fusion.float().state_dict(), folder / "best_dynamic_moe_model.pth")
        self.fusion.double()

    def checkpoints(self) -> dict[str, Path]:
        files = {
            "janus": "Janus-Pro-7B",
            "vgg16": "model_best_loss",
            "mivolo": "model_imdb_cross_person_4.22_99.46.pth.tar",
            "resnet50": "age_estimator.pth",
        }
        return {name: self.folder / file for name, file in files.items()}

    def raw_ages(self, picture: Picture) -> list[float]:
        """Years by expert, in the order of `NAMES`, the CNNs' before rounding."""
        with torch.inference_mode():
            vgg16 = cnn_twins.expectation(cnn_twins.dex_forward(self._vgg16, _dex(picture)))
            caffe = cnn_twins.caffe_forward(self._resnet50, _bgr(picture))
            resnet50 = cnn_twins.expectation(caffe)
            return [self._janus_age(picture), vgg16[0], self._mivolo_age(picture), resnet50[0]]

    def fused(self, raw: list[float]) -> float:
        janus, vgg16, mivolo, resnet50 = raw
        rounded = torch.tensor([[janus, np.around(vgg16), mivolo, np.around(resnet50)]]).double()
        with torch.inference_mode():
            return float(self.fusion(rounded)[0])

    def _write_cnns(self) -> None:
        some = torch.cat([_bgr(picture) for picture in pictures()])
        dex = torch.cat([_dex(picture) for picture in pictures()])
        vgg16 = cnn_twins.dex_vgg16((8, 16, 32, 64, 64), 512)
        self._vgg16 = cnn_twins.spread(vgg16, "cls", cnn_twins.dex_forward, dex)
        resnet50 = cnn_twins.caffe_resnet50((8, 16, 32, 64))
        self._resnet50 = cnn_twins.spread(resnet50, "classage", cnn_twins.caffe_forward, some)
        torch.save(dict(self._vgg16), self.folder / "model_best_loss")
        torch.save(dict(self._resnet50), self.folder / "age_estimator.pth")

    def _write_janus(self, folder: Path) -> None:
        checkpoint = Talkative(write_tokenizer(folder, merged=False))
        images = {
            "image_mean": list(NORMALIZATION.mean),
            "image_std": list(NORMALIZATION.std),
            "min_size": 14,
            "image_size": 48,
            "size": {"height": 48, "width": 48},
            "image_processor_type": "VLMImageProcessor",
        }
        (folder / "config.json").write_text(json.dumps(transformers_config(checkpoint)))
        (folder / "preprocessor_config.json").write_text(json.dumps(images))
        save_file({k: t.contiguous() for k, t in checkpoint.items()}, folder / "model.safetensors")
        self._janus = reference_model(checkpoint)
        text = f"{SYSTEM}\n\n<|User|>: {{image}}\n{PROMPT}\n\n<|Assistant|>:"
        self._text, self._image_tokens = text, checkpoint.vision.tokens

    def _janus_age(self, picture: Picture) -> float:
        """The number at the beginning of what greedy decoding writes; NaN for other answers."""
        small = Image.fromarray(picture).resize((256, 256), Image.Resampling.LANCZOS)
        side = int(256 / 256 * 48)
        square = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
        mean, std = np.array(NORMALIZATION.mean), np.array(NORMALIZATION.std)
        pixels = torch.from_numpy((square / 255.0 - mean) / std).permute(2, 0, 1)[None].float()
        before, after = self._text.split("{image}")
        tokenizer = Tokenizer.from_file(str(self.folder / "Janus-Pro-7B" / "tokenizer.json"))
        tokens = tokenizer.get_vocab()
        image = [tokens["<image_placeholder>"]] * self._image_tokens
        ids = [
            tokens["<bos>"],
            *tokenizer.encode(before, add_special_tokens=False).ids,
            tokens["<begin_of_image>"],
        ]
        ids += [
            *image,
            tokens["<end_of_image>"],
            *tokenizer.encode(after, add_special_tokens=False).ids,
        ]
        self._janus.model.config.image_token_id = tokens["<image_placeholder>"]
        spelling = {index: token for token, index in tokens.items()}
        answer = ""
        for _ in range(6):
            logits = self._janus(torch.tensor([ids]), pixels, logits_to_keep=1).logits[0, -1]
            ids.append(int(logits.argmax()))
            answer += spelling.get(ids[-1], "?").replace("Ġ", " ")
        found = re.match(r"\s*(\d+)", answer)
        return float(found[1]) if found and float(found[1]) <= 150 else float("nan")

    def _mivolo_age(self, picture: Picture) -> float:
        """The face letterboxed on black, the person missing."""
        height, width = picture.shape[:2]
        ratio = min(64 / height, 64 / width)
        inner = round(width * ratio), round(height * ratio)
        resized = cv2.resize(picture, inner, interpolation=cv2.INTER_LINEAR)
        dw, dh = (64 - inner[0]) / 2, (64 - inner[1]) / 2
        face = cv2.copyMakeBorder(
            resized,
            round(dh - 0.1),
            round(dh + 0.1),
            round(dw - 0.1),
            round(dw + 0.1),
            cv2.BORDER_CONSTANT,
            value=(0, 0, 0),
        )
        person = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
        heads = VARIANTS["demo"].num_heads
        output = raw_outputs(self._mivolo, heads, torch.from_numpy(np.asarray(face))[None], person)
        return float(output[0, 2]) * (95.0 - 1.0) + 48.0


def _bgr(picture: Picture) -> torch.Tensor:
    """OpenCV's picture, 224 by 224, values 0 to 255, without a mean."""
    bgr = cv2.resize(np.ascontiguousarray(picture[..., ::-1]), (224, 224))
    return torch.from_numpy(bgr.astype(np.float32)).permute(2, 0, 1)[None]


def _dex(picture: Picture) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (_bgr(picture) - mean[:, None, None]) / std[:, None, None]


def preset(pipeline: Pipeline, *, rounded: bool) -> tuple[ExpertConfig, ...]:
    """The preset `agemoe` with the tiny networks' sizes and the pipeline's files."""
    problems: list[str] = []
    experts = read_experts(Path("agemoe"), problems)
    assert not problems
    assert set(experts) == set(NAMES)
    found = []
    for name, path in pipeline.checkpoints().items():
        settings: Any = experts[name].settings
        if name in ("vgg16", "resnet50"):
            head = replace(settings.head, round_years=rounded)
            settings = replace(settings, width_factor=0.125, head=head)
        found.append(replace(experts[name], checkpoint=str(path), settings=settings))
    return tuple(found)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def engines(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "engines"
    build(BuildOptions(preset(pipeline, rounded=True), "checkpoint", folder), Quiet())
    published = str(pipeline.folder / "best_dynamic_moe_model.pth")
    command = ["--published", published, "--experts", *NAMES, "--output", str(folder)]
    assert calibrate.main(command) == 0
    return folder


def test_ages_are_those_of_the_published_program(pipeline: Pipeline, engines: Path) -> None:
    with AgeMoE(engines) as moe:
        answered = 0
        for picture in pictures():
            raw = pipeline.raw_ages(picture)
            janus, vgg16, mivolo, resnet50 = raw
            if any(abs(age % 1.0 - 0.5) < 1e-3 for age in (vgg16, resnet50)):
                continue  # a tie within the CNNs' tolerance
            estimate = moe.predict(picture)
            assert isinstance(estimate, AgeEstimate)
            experts = estimate.experts
            assert experts["vgg16"].age_years == np.around(vgg16)
            assert experts["resnet50"].age_years == np.around(resnet50)
            assert experts["mivolo"].age_years == pytest.approx(mivolo, abs=1e-3)
            if np.isnan(janus):
                assert "janus" in estimate.missing
            else:
                assert experts["janus"].age_years == janus
                answered += 1
            assert estimate.age_years == pytest.approx(pipeline.fused(raw), abs=1e-3)
            assert estimate.low_years is None
        assert answered


def test_unrounded_ages_are_within_a_thousandth_of_a_year(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    experts = [e for e in preset(pipeline, rounded=False) if e.name in ("vgg16", "resnet50")]
    build(BuildOptions(tuple(experts), "checkpoint", tmp_path / "engines"), Quiet())
    with AgeMoE(tmp_path / "engines") as moe:
        for picture in pictures():
            _, vgg16, _, resnet50 = pipeline.raw_ages(picture)
            estimate = moe.predict(picture)
            assert estimate.experts["vgg16"].age_years == pytest.approx(vgg16, abs=1e-3)
            assert estimate.experts["resnet50"].age_years == pytest.approx(resnet50, abs=1e-3)
