"""What is looked at when an `AgeMoE` is opened: which experts, their tables, a first run."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from runtime import fusion_file
from runtime.backends import Views
from runtime.errors import ContractError, PredictionError
from runtime.executor import MODES, Executor
from runtime.fusion import FusionTables
from runtime.manifest import REBUILD, Expert

CONCURRENCY = ("auto", *MODES)
_PLACEHOLDERS = {
    "demo": "demo experts, fitted on drawn faces; their ages of photographs mean nothing",
    "random": "random weights, for measuring speed; their ages mean nothing",
}
_TRIAL_SECONDS = 1.0
"""What measuring how to run may cost at opening."""
_TRIALS = 9
_CLEARLY_FASTER = 0.95
"""A sequence is chosen only if it takes at most so much of the time of lanes: trials are noisy."""


class PlaceholderWeightsWarning(UserWarning):
    """Experts that are not for use: fitted on drawn faces, or not at all."""


def chosen_experts(
    available: Mapping[str, Expert], names: Sequence[str] | None
) -> dict[str, Expert]:
    """The experts that were asked for; None means all.

    Raises:
        ValueError: one is not there, or none was asked for.
    """
    if names is None:
        return dict(available)
    unknown = [name for name in names if name not in available]
    if unknown or not names:
        raise ValueError(
            f"experts={list(names)!r} was asked for; the engines folder holds "
            f"{', '.join(available)}."
        )
    return {name: available[name] for name in names}


def read_calibration(
    folder: Path, fusion: str | os.PathLike[str] | None, sources: Mapping[str, str | None]
) -> FusionTables | None:
    """The fusion tables, which have to be of these experts.

    Args:
        folder: the engines folder.
        fusion: file within it. None, or the usual name where there is no such file: no tables.
        sources: SHA-256 of each expert's weights.

    Raises:
        FusionTableError: the file is not in order, or of other experts.
    """
    if fusion is None:
        return None
    path = folder / fusion
    if fusion == fusion_file.FILE_NAME and not path.exists():
        return None
    tables = fusion_file.read_fusion(path)
    fusion_file.check_fusion_fits(path, tables, sources)
    return tables


def warn_of_placeholders(experts: Mapping[str, Expert]) -> None:
    """Says once that ages are not to be believed, where they are not."""
    for kind, meaning in _PLACEHOLDERS.items():
        names = [name for name, expert in experts.items() if expert.source.kind == kind]
        if names:
            warnings.warn(
                f"{', '.join(names)}: {meaning}. Build from checkpoints to estimate ages: "
                f"python export/build_engines.py --help",
                PlaceholderWeightsWarning,
                stacklevel=3,
            )


def rehearse(executor: Executor, views: Views) -> None:
    """Shows every expert a face, so that broken graphs are found now and buffers are grown.

    Raises:
        ContractError: an expert cannot answer.
    """
    try:
        missing = executor.run(views).missing
    except PredictionError as error:
        missing = error.missing
    if missing:
        reasons = "".join(f"\n- {name}: {reason}" for name, reason in missing.items())
        raise ContractError(f"These experts cannot answer a black picture:{reasons}\n{REBUILD}")


def fastest_mode(executor: Executor, views: Views) -> str:
    """How this machine runs these experts faster: `lanes` or `sequence`.

    Both are tried in turn within a second; where that is too short for two rounds, it is lanes.

    Args:
        executor: warm.
        views: the batch to measure with.
    """
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    started = time.perf_counter()
    for _ in range(_TRIALS):
        for mode in MODES:
            executor.mode = mode
            before = time.perf_counter()
            executor.run(views)
            seconds[mode].append(time.perf_counter() - before)
            if time.perf_counter() - started > _TRIAL_SECONDS:
                break
        else:
            continue
        break
    if len(seconds["sequence"]) < 2:
        return "lanes"
    lanes, sequence = (statistics.median(seconds[mode]) for mode in MODES)
    return "sequence" if sequence < _CLEARLY_FASTER * lanes else "lanes"
