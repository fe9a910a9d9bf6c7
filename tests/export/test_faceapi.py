"""face-api.js's network: exact against a NumPy twin, in every way it is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from export.build.options import resolve_options
from export.build.parity import check_parity
from export.build.pipeline import build
from export.checkpoints.tensorflow_js import read_tensorflow_js
from export.errors import CheckpointError, OptionsError
from export.experts.faceapi.expert import count_faceapi_parameters, faceapi_expert
from export.experts.faceapi.settings import PAD_SQUARE
from export.experts.registry import ARCHITECTURES
from export.faces.verification import verification_images
from export.graph.checks import check_graph
from export.variants.fp16 import fp16_from_fp32
from runtime import AgeMoE
from runtime.manifest_file import read_manifest
from tests.export.faceapi_twin import forward, shapes, write_weights
from tests.export.test_pipeline import Quiet


def test_the_network_matches_its_numpy_twin(tmp_path: Path) -> None:
    manifest, weights = write_weights(tmp_path)
    expert = faceapi_expert(manifest, PAD_SQUARE)
    assert expert.signature.outputs == ("age_years", "gender_probs")
    images = verification_images(expert.signature.inputs)
    found = expert.reference(images)
    ages, genders = forward(images["face"], weights)
    assert np.ptp(ages) > 0.1  # random weights
    np.testing.assert_allclose(found["age_years"], ages, atol=1e-4)
    np.testing.assert_allclose(found["gender_probs"], genders, atol=1e-5)


@pytest.mark.conversion
def test_both_precisions_match_the_network(tmp_path: Path) -> None:
    expert = faceapi_expert(None, PAD_SQUARE)
    single, half = tmp_path / "e.fp32.onnx", tmp_path / "e.fp16.onnx"
    expert.write_onnx(single)
    check_graph(single, expert.signature)
    images = verification_images(expert.signature.inputs)
    reference = expert.reference(images)
    assert 5.0 < reference["age_years"].std() < 15.0
    check_parity(single, "fp32", images, reference)
    fp16_from_fp32(single, half, expert.signature.fp32_operators)
    check_parity(half, "fp16", images, reference, single)
    again = faceapi_expert(None, PAD_SQUARE).reference(images)
    np.testing.assert_array_equal(again["age_years"], reference["age_years"])


def test_the_published_size() -> None:
    """421,731 values are in the published file."""
    assert count_faceapi_parameters() == 421_731
    assert sum(int(np.prod(shape)) for shape in shapes().values()) == 421_731


def experts_toml(folder: Path, extra: str = "") -> Path:
    path = folder / "experts.toml"
    path.write_text(
        f"[experts.faceapi]\narchitecture = 'faceapi'\n"
        f"checkpoint = 'age_gender_model-weights_manifest.json'\n{extra}"
    )
    return path


@pytest.mark.conversion
@pytest.mark.parametrize("views", [(), ("flip",)])
def test_a_build_from_published_files(tmp_path: Path, views: tuple[str, ...]) -> None:
    manifest, weights = write_weights(tmp_path)
    file = experts_toml(tmp_path, f"views = {list(views)}\n")
    output = tmp_path / "engines"
    build(resolve_options(output=output, experts_file=file), Quiet())
    expert = read_manifest(output).experts["faceapi"]
    assert expert.inputs[0].geometry == PAD_SQUARE
    assert expert.outputs == ("age_years", "gender_probs")
    assert expert.details.get("views", []) == list(views)
    face = verification_images(expert.inputs)["face"][:1]
    pictures = [face, face[:, :, ::-1]] if views else [face]
    wanted = np.mean([forward(picture, weights)[0] for picture in pictures])
    with AgeMoE(output, device="cpu") as moe:
        estimate = moe.predict(face[0])
    assert estimate.experts["faceapi"].age_years == pytest.approx(wanted, abs=1e-4)
    assert manifest.exists()


def test_a_folder_or_its_manifest_but_nothing_else(tmp_path: Path) -> None:
    manifest, _ = write_weights(tmp_path)
    images = verification_images(faceapi_expert(manifest, PAD_SQUARE).signature.inputs, few=True)
    one = faceapi_expert(manifest, PAD_SQUARE).reference(images)
    two = faceapi_expert(tmp_path, PAD_SQUARE).reference(images)
    np.testing.assert_array_equal(one["age_years"], two["age_years"])
    other = tmp_path / "age_gender_model.bin"
    other.write_bytes(b"x")
    for path in (other, tmp_path.parent / "nothing"):
        with pytest.raises(CheckpointError, match="is no manifest of TensorFlow"):
            faceapi_expert(path, PAD_SQUARE)


def test_other_weights_are_listed(tmp_path: Path) -> None:
    manifest, _ = write_weights(tmp_path)
    text = manifest.read_text().replace("fc/age/", "fc/years/")
    manifest.write_text(text.replace('"fc/gender/bias", "shape": [2]', '"x", "shape": [2, 1]'))
    with pytest.raises(CheckpointError) as caught:
        faceapi_expert(manifest, PAD_SQUARE)
    message = str(caught.value)
    assert "3 missing: fc/age/bias, fc/age/weights, fc/gender/bias" in message
    assert "3 unexpected: fc/years/bias, fc/years/weights, x" in message
    assert "npm's @vladmandic/face-api" in message
    assert "fc/years/bias" in read_tensorflow_js(manifest)


def test_it_has_no_settings_of_its_own(tmp_path: Path) -> None:
    write_weights(tmp_path)
    with pytest.raises(OptionsError, match="unknown key input_size"):
        resolve_options(output=tmp_path, experts_file=experts_toml(tmp_path, "input_size = 224\n"))


@pytest.mark.conversion
def test_batches_of_both_views_keep_faces_apart(tmp_path: Path) -> None:
    from export.experts.registry import build_expert
    from tests.export.golden import demo_config

    expert = build_expert(replace(demo_config("faceapi"), views=("flip",)), None)
    path = tmp_path / "both.onnx"
    expert.write_onnx(path)
    faces = verification_images(expert.signature.inputs)["face"]
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    together = session.run(["age_years"], {"face": faces})[0]
    alone = [session.run(["age_years"], {"face": faces[i : i + 1]})[0][0] for i in range(5)]
    np.testing.assert_allclose(np.asarray(together)[:5], alone, atol=1e-4)
    assert ARCHITECTURES["faceapi"].has_placeholders
