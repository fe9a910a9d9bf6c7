"""The fitted demo MiVOLO predicts unseen faces better than the mean age does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.experts.mivolo.demo import Sample, fit_mivolo, scenes, views
from export.experts.mivolo.expert import mivolo_signature
from export.experts.mivolo.module import AgeScale, MiVoloExpert, MiVoloSpec, build_mivolo
from export.experts.mivolo.network import VARIANTS
from export.experts.mivolo.settings import LETTERBOX, MiVoloSettings
from export.faces.drawn import drawn_faces

SCALE = (0.0, 100.0, 50.0)


def drawn(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    faces = list(drawn_faces(count, seed=seed, size=96))
    return np.stack([face.image for face in faces]), np.array([face.age_years for face in faces])


def error_years(
    expert: MiVoloExpert, samples: list[Sample], ages_years: NDArray[np.float64]
) -> float:
    inputs = mivolo_signature(expert, LETTERBOX).inputs
    with torch.inference_mode():
        found = expert(*(torch.from_numpy(views(samples, spec)) for spec in inputs))[0]
    return float(np.abs(found.numpy() - ages_years).mean())


@pytest.mark.slow
def test_it_predicts_faces_with_and_without_their_person() -> None:
    settings = MiVoloSettings("demo", 64, None, SCALE)
    state = fit_mivolo(settings, LETTERBOX, *drawn(600, seed=1))
    expert = build_mivolo(MiVoloSpec(VARIANTS["demo"], AgeScale(*SCALE), 64), state)
    faces, ages = drawn(100, seed=2)
    baseline = float(np.abs(ages - ages.mean()).mean())
    assert error_years(expert, [(face, {"face": None}) for face in faces], ages) < 0.8 * baseline
    people = list(scenes(60, seed=2))
    ages = np.array([age for _, age in people])
    assert error_years(expert, [sample for sample, _ in people], ages) < 0.8 * baseline
