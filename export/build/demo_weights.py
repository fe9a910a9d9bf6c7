"""Whether a demo checkpoint is still what the exporter would write; told without PyTorch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from export.build.fingerprints import fingerprint, sources_fingerprint
from export.build.options import ExpertConfig

METADATA_KEY = "demo_key"
"""Entry of a checkpoint's metadata that says what it was made from."""


WEIGHTS_FILE = "model.safetensors"
"""Holds the weights where a checkpoint is a folder."""


def demo_checkpoint_name(config: ExpertConfig) -> str:
    """Name of a demo checkpoint: a folder for Janus, which has a tokenizer, a file for others."""
    return f"{config.name}.demo" + ("" if config.architecture == "janus" else ".safetensors")


def demo_key(config: ExpertConfig) -> str:
    """Fingerprint of everything a demo checkpoint depends on."""
    described = {key: value for key, value in asdict(config).items() if key != "checkpoint"}
    return fingerprint([described, sources_fingerprint("demo/*.py", "experts/*.py")])


def demo_checkpoint_fits(config: ExpertConfig, path: Path) -> bool:
    """Whether a checkpoint was written for exactly this expert by exactly this code."""
    from safetensors import SafetensorError, safe_open

    weights = path / WEIGHTS_FILE if path.is_dir() else path
    try:
        with safe_open(weights, framework="numpy") as file:
            written: str = (file.metadata() or {}).get(METADATA_KEY, "")
    except (OSError, SafetensorError):
        return False
    return written == demo_key(config)
