"""Model files of detectors: a path or a file on the Hugging Face hub, with its SHA-256."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import BackendError
from runtime.files import check_regular

HUB_PREFIX = "hf://"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The content of a model file."""

    name: str
    """As the user gave it."""
    data: bytes
    sha256: str

    @property
    def provenance(self) -> str:
        """The file's name and SHA-256."""
        return f"{Path(self.name).name} (sha256 {self.sha256})"


def read_model(model: str | Path, kind: str, sha256: str | None, hint: str) -> ModelFile:
    """Reads a model file.

    Args:
        model: its path, or `hf://owner/repo/file[@revision]` on the Hugging Face hub.
        kind: the network's name, for messages.
        sha256: expected SHA-256 of the file; None accepts any.
        hint: where such a file is found, for messages.

    Raises:
        BackendError: the file cannot be read or is not the expected one.
    """
    name = str(model)
    path = _from_hub(name) if name.startswith(HUB_PREFIX) else Path(name)
    try:
        check_regular(path)
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise BackendError(f"The {kind} model {name} cannot be read ({error}). {hint}") from error
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256.lower():
        raise BackendError(
            f"The {kind} model {name} has SHA-256 {digest}, expected {sha256}. Get the file "
            f"again, or give the SHA-256 of the file you trust."
        )
    return ModelFile(name, data, digest)


def _from_hub(model: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise BackendError(
            f"{model} is on the hub and huggingface_hub is not installed. Install it, or give the "
            f"path of a file."
        ) from error
    location, _, revision = model.removeprefix(HUB_PREFIX).partition("@")
    owner, _, rest = location.partition("/")
    repository, _, file = rest.partition("/")
    if not file:
        raise BackendError(f"Expected hf://owner/repo/file[@revision], got {model}.")
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file, revision=revision or None))
    except (OSError, ValueError) as error:  # the bases of huggingface_hub's errors
        raise BackendError(f"{model} cannot be downloaded from the hub ({error}).") from error
