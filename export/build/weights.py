"""The weights of an expert: what is known of them, and how they are made ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.build.demo_weights import (
    demo_checkpoint_fits,
    demo_checkpoint_name,
    write_demo_checkpoint,
)
from export.build.options import BuildOptions
from export.checkpoints.loading import hash_checkpoint
from export.checkpoints.pins import pin_problem, whole_pin
from export.checkpoints.sources import find_checkpoint, is_remote, present_checkpoint
from export.config.architecture import ExpertConfig
from export.config.detector import DetectorConfig

_CHECKPOINTS = "checkpoints"
"""Folder within the engines folder that holds the demo experts' checkpoints."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of an expert, or the file of a detector."""

    location: str | None
    """As the user gave it; None for random weights."""
    path: Path | None
    """None for random weights, and for those that have to be fetched or fitted first."""
    sha256: str | None
    """None for random weights, and where it is not known before they are fetched or fitted."""

    @property
    def to_fetch(self) -> str:
        """The location of weights that are not on this machine; empty if they are."""
        return self.location or "" if self.path is None else ""


def known_weights(config: ExpertConfig | DetectorConfig, options: BuildOptions) -> Weights:
    """Returns what is known of weights without fetching or fitting them.

    Raises:
        CheckpointError: a given path holds another file than the configured one.
    """
    location = _location(config, options)
    if location is None:
        return Weights(None, None, None)
    if options.weights == "demo":
        fits = isinstance(config, ExpertConfig) and demo_checkpoint_fits(config, Path(location))
        path = Path(location) if fits else None
    elif is_remote(location):
        path = present_checkpoint(location)
        if path is not None and pin_problem(path, config.sha256):
            path = None  # damaged in the cache
    else:
        path = find_checkpoint(location, config.sha256)
    return Weights(location, path, hash_checkpoint(path) if path else whole_pin(config.sha256))


def ready_weights(
    config: ExpertConfig | DetectorConfig,
    options: BuildOptions,
    known: Weights,
    say: Callable[[str], None],
) -> Weights:
    """Fetches weights, or fits those of a demo expert; calls `say` with what is going on.

    Weights of the hub that are known already are completed: its cache may hold a part of them.

    Raises:
        CheckpointError: they cannot be fetched, or are other ones than configured.
    """
    if known.location is None or (known.path and not is_remote(known.location)):
        return known
    if options.weights == "demo" and isinstance(config, ExpertConfig):
        say("fitting a demo expert on drawn faces")
        path = Path(known.location)
        write_demo_checkpoint(config, path)
    else:
        path = find_checkpoint(known.location, config.sha256, say)
    return Weights(known.location, path, hash_checkpoint(path))


def _location(config: ExpertConfig | DetectorConfig, options: BuildOptions) -> str | None:
    if options.weights == "demo" and isinstance(config, ExpertConfig):
        return str(options.output / _CHECKPOINTS / demo_checkpoint_name(config))
    return config.checkpoint
