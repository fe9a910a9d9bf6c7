"""The demo MiVOLO: fitted, it knows more of faces it has not seen than a guess does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.experts.mivolo.demo import Sight, fit_mivolo, scenes, seen
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
    expert: MiVoloExpert, sights: list[Sight], ages_years: NDArray[np.float64]
) -> float:
    inputs = mivolo_signature(expert, LETTERBOX).inputs
    with torch.inference_mode():
        found = expert(*(torch.from_numpy(seen(sights, spec)) for spec in inputs))[0]
    return float(np.abs(found.numpy() - ages_years).mean())


@pytest.mark.slow
def test_the_readout_knows_faces_with_and_without_their_person() -> None:
    settings = MiVoloSettings("demo", 64, None, SCALE)
    state = fit_mivolo(settings, LETTERBOX, *drawn(600, seed=1))
    expert = build_mivolo(MiVoloSpec(VARIANTS["demo"], AgeScale(*SCALE), 64), state)
    faces, ages = drawn(100, seed=2)
    guess = float(np.abs(ages - ages.mean()).mean())
    assert error_years(expert, [(face, {"face": None}) for face in faces], ages) < 0.8 * guess
    people = list(scenes(60, seed=2))
    ages = np.array([age for _, age in people])
    assert error_years(expert, [sight for sight, _ in people], ages) < 0.8 * guess
