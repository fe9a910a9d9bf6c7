"""The published fusion against an independent twin in PyTorch."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.calibration.published import LARGEST_RAW_YEARS, corrector_table, published_fusion
from export.errors import CheckpointError
from runtime.fusion import Floats, FusionTables
from runtime.fusion_file import read_fusion, write_fusion

NAMES = ("janus", "vgg16", "mivolo", "resnet50")
AGES = np.random.default_rng(1).uniform(0.0, 150.0, (400, 4))


class Corrector(nn.Module):
    """Linear(1, 16), ReLU, Linear(16, 1), at least 0."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, years: Tensor) -> Tensor:
        corrected: Tensor = self.mlp(years[:, None])[:, 0]
        return corrected.relu()


class Published(nn.Module):
    """Fusion of four ages by the formula in the authors' repository, written anew."""

    def __init__(self) -> None:
        super().__init__()
        self.gating = nn.Linear(4, 4)
        self.expert_mlps = nn.ModuleList(Corrector() for _ in range(4))

    def forward(self, years: Tensor) -> Tensor:
        """(N, 4) ages, NaN where missing, to (N,) ages, NaN where all are missing."""
        known = ~years.isnan()
        filled = years.nan_to_num(0.0)
        corrected = torch.stack([m(filled[:, i]) for i, m in enumerate(self.expert_mlps)], dim=1)
        shares = self.gating(filled).softmax(dim=1) * known
        fused: Tensor = (shares * corrected).sum(dim=1) / shares.sum(dim=1)
        return fused


def random_weights(seed: int) -> Published:
    torch.manual_seed(seed)
    return Published().double()


def trained_weights() -> Published:
    """Fitted to made-up experts with systematic errors, some of them missing."""
    torch.manual_seed(7)
    module = Published().double()
    for corrector in module.expert_mlps:
        assert isinstance(corrector, Corrector)
        nn.init.constant_(corrector.mlp[0].weight, 1.0)  # type: ignore[arg-type]
        nn.init.uniform_(corrector.mlp[0].bias, -90.0, 0.0)  # type: ignore[arg-type]
        nn.init.constant_(corrector.mlp[2].weight, 0.15)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(7)
    true = torch.rand(400, generator=generator).double() * 90.0
    noise = torch.randn(400, 4, generator=generator).double() * torch.tensor([9.0, 7.0, 4.0, 6.0])
    raw = (true[:, None] * torch.tensor([0.7, 0.9, 1.0, 0.8]) + 8.0 + noise).clamp(0.0, 150.0)
    raw[torch.rand(400, 4, generator=generator) < 0.15] = torch.nan
    known = ~raw.isnan().all(dim=1)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (module(raw[known]) - true[known]).abs().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 8.0
    return module


MODULES = [*(random_weights(seed) for seed in range(4)), trained_weights()]


@pytest.fixture(params=range(len(MODULES)), ids=["random"] * 4 + ["trained"])
def module(request: pytest.FixtureRequest) -> Published:
    index: int = request.param
    return MODULES[index]


def imported(module: Published, folder: Path) -> FusionTables:
    """The module's file as tables, read back from fusion.json."""
    torch.save(module.float().state_dict(), folder / "best_dynamic_moe_model.pth")
    module.double()
    write_fusion(
        folder / "fusion.json", published_fusion(folder / "best_dynamic_moe_model.pth", NAMES)
    )
    return read_fusion(folder / "fusion.json")


def expected(module: Published, ages: Floats) -> Floats:
    with torch.inference_mode():
        return np.asarray(module(torch.from_numpy(ages)).numpy())


def test_every_subset_of_experts_agrees(module: Published, tmp_path: Path) -> None:
    tables = imported(module, tmp_path)
    for count in range(1, 5):
        for kept in combinations(range(4), count):
            ages = AGES.copy()
            ages[:, [column for column in range(4) if column not in kept]] = np.nan
            found = tables.fuse(NAMES, ages)
            assert found.age_years == pytest.approx(expected(module, ages), abs=1e-4)
            fewer = tables.fuse([NAMES[column] for column in kept], ages[:, kept])
            assert fewer.age_years == pytest.approx(found.age_years, abs=1e-9)


def test_whole_years_over_the_whole_range(module: Published, tmp_path: Path) -> None:
    tables = imported(module, tmp_path)
    ages = np.repeat(np.arange(151.0)[:, None], 4, axis=1)
    assert tables.fuse(NAMES, ages).age_years == pytest.approx(expected(module, ages), abs=1e-4)
    ages[:, 1] = np.flip(ages[:, 1])
    assert tables.fuse(NAMES, ages).age_years == pytest.approx(expected(module, ages), abs=1e-4)


def test_predictions_over_the_limit_are_missing_and_no_prediction_is_nan(tmp_path: Path) -> None:
    tables = imported(MODULES[4], tmp_path)
    assert tables.largest_raw_years == LARGEST_RAW_YEARS
    ages = np.array([[30.0, 151.0, 28.0, 31.0], [151.0, np.nan, 200.0, np.nan]])
    found = tables.fuse(NAMES, ages).age_years
    ages[0, 1] = np.nan
    assert found[0] == pytest.approx(expected(MODULES[4], ages)[0], abs=1e-4)
    assert np.isnan(found[1])


def test_a_corrector_between_all_its_knots() -> None:
    rng = np.random.default_rng(5)
    x = np.linspace(-150.0, 150.0, 6001)
    for _ in range(50):
        v, c, w, b = rng.normal(size=(16, 1)), rng.normal(0, 40, 16), rng.normal(size=(1, 16)), 1.0
        table = corrector_table(v, c, w, np.array([b]))
        assert len(table.knots_years) <= 2 + 16 + 17
        found = x + np.interp(x, table.knots_years, table.bias_years)
        wanted = [max(0.0, float(w[0] @ np.maximum(v[:, 0] * one + c, 0.0)) + b) for one in x]
        assert found == pytest.approx(wanted, abs=1e-9)


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "moe.pth"
    state = MODULES[0].state_dict()
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="correctors of 4 experts, and --experts names 3"):
        published_fusion(path, NAMES[:3])
    broken = dict(state)
    del broken["gating.bias"]
    broken["gating.weight"] = torch.zeros(4, 3)
    torch.save(broken, path)
    with pytest.raises(CheckpointError) as caught:
        published_fusion(path, NAMES)
    for problem in ("gating.bias: missing", "gating.weight: (4, 3)"):
        assert problem in str(caught.value)
    torch.save({**state, "gating.bias": torch.full((4,), torch.nan)}, path)
    with pytest.raises(CheckpointError, match=r"'gating\.bias' holds 4 of 4 values that are NaN"):
        published_fusion(path, NAMES)
