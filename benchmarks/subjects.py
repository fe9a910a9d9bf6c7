"""What is timed: one `AgeMoE` run in either mode, taken apart by its own statistics."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime import AgeEstimate, AgeMoE, AgeMoEError, BackendError, Face, Stats
from runtime.backends import backend_kind
from runtime.backends.variants import choose_artifact
from runtime.manifest import Expert
from runtime.manifest_file import read_manifest, write_manifest


@dataclass(frozen=True, slots=True)
class Lap:
    """One prediction of one batch."""

    seconds: float
    """Altogether."""
    stages: Mapping[str, float]
    """Seconds by stage; see `runtime.stats.STAGES`."""
    execute: Mapping[str, float]
    """Seconds by expert."""
    copy: Mapping[str, float] = field(default_factory=dict)
    """Seconds to the device and back, by expert."""
    ages: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """What each expert said of each face, in years."""

    @property
    def overhead_parts(self) -> dict[str, float]:
        """Seconds that are no expert's execution, where the experts ran one after the other.

        Experts that ran at the same time share the seconds, and this means nothing.
        """
        experts, executed, copied = (
            self.stages["experts"],
            sum(self.execute.values()),
            sum(self.copy.values()),
        )
        own = {name: seconds for name, seconds in self.stages.items() if name != "experts"}
        return {
            **own,
            "copy": copied,
            "dispatch": experts - executed - copied,
            "rest": self.seconds - sum(self.stages.values()),
        }

    @property
    def overhead(self) -> float:
        """Their sum: everything but the experts' execution."""
        return self.seconds - sum(self.execute.values())


class Ours:
    """An `AgeMoE` in one of its modes."""

    def __init__(self, moe: AgeMoE, mode: str, faces: Sequence[Face]) -> None:
        """Takes the mode, `sequence` or `lanes`, and the batch."""
        self._moe = moe
        self._mode = mode
        self._faces = list(faces)

    def __call__(self) -> Lap:
        """Predicts the batch once.

        Raises:
            AgeMoEError: a face got no estimate.
        """
        # Both modes on the same sessions: two AgeMoE would take twice the memory.
        self._moe.concurrency = self._mode
        before = self._moe.stats()
        started = time.perf_counter()
        results = self._moe.predict(self._faces)
        seconds = time.perf_counter() - started
        return _lap(seconds, before, self._moe.stats(), estimates_of(results))


def estimates_of(results: Sequence[AgeEstimate | AgeMoEError]) -> list[AgeEstimate]:
    """The estimates.

    Raises:
        AgeMoEError: one of them is none.
    """
    estimates = []
    for result in results:
        if isinstance(result, AgeMoEError):
            raise result
        estimates.append(result)
    return estimates


def _lap(seconds: float, before: Stats, after: Stats, estimates: Sequence[AgeEstimate]) -> Lap:
    experts = after.experts
    return Lap(
        seconds,
        {
            name: spread.total_seconds - before.stages[name].total_seconds
            for name, spread in after.stages.items()
        },
        {
            name: stats.execute.total_seconds - before.experts[name].execute.total_seconds
            for name, stats in experts.items()
        },
        {
            name: stats.copy.total_seconds - before.experts[name].copy.total_seconds
            for name, stats in experts.items()
        },
        {
            name: tuple(e.experts[name].age_years for e in estimates if name in e.experts)
            for name in experts
        },
    )


def described_experts(moe: AgeMoE, engines: Path, precision: str) -> dict[str, object]:
    """What each expert is, what it runs on, and how true it is."""
    found = read_manifest(engines).experts
    return {
        name: _described(name, found[name], backend, precision)
        for name, backend in moe.backends.items()
    }


def _described(name: str, expert: Expert, backend: str, precision: str) -> dict[str, object]:
    artifact = choose_artifact(name, expert, backend_kind(backend), precision)
    parity = artifact.parity
    return {
        "architecture": expert.architecture,
        "weights": expert.source.kind,
        "inputs": {spec.name: [spec.height, spec.width] for spec in expert.inputs},
        "backend": backend,
        "precision": artifact.precision,
        "sha256": artifact.files[0].sha256,
        "size_bytes": sum(file.size_bytes for file in artifact.files),
        "parity_years": None
        if parity is None
        else {"mean": parity.mean_years, "max": parity.max_years, "faces": parity.faces},
    }


@contextmanager
def onnx_only(engines: Path) -> Iterator[Path]:
    """The same engines without TensorRT's, as a folder that refers to the original's files.

    Raises:
        BackendError: an expert is left with nothing.
    """
    manifest = read_manifest(engines)
    experts = {}
    for name, expert in manifest.experts.items():
        graphs = tuple(artifact for artifact in expert.artifacts if artifact.backend == "onnx")
        if not graphs:
            raise BackendError(f"Expert {name!r} has no ONNX file, so that there is no baseline.")
        experts[name] = replace(expert, artifacts=graphs)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for child in engines.resolve().iterdir():
            if child.name != "manifest.json":
                (folder / child.name).symlink_to(child)
        write_manifest(folder, replace(manifest, experts=experts))
        yield folder
