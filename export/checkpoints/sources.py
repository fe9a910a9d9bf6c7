"""Sources of checkpoints: a path, or a file of the Hugging Face hub."""

from __future__ import annotations

import contextlib
from pathlib import Path, PurePosixPath

from export.checkpoints.description import CONFIG
from export.checkpoints.loading import first_line
from export.checkpoints.onnx_files import external_data_names
from export.errors import CheckpointError

HUB_PREFIX = "hf://"
_HUB_FILES = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")


def find_checkpoint(location: str) -> Path:
    """Returns the path of a checkpoint, downloading it if the location is a hub id.

    Args:
        location: a file, a folder, or hf://owner/repo[/file]@revision.

    Raises:
        CheckpointError: nothing is at this path, or the download fails.
    """
    if location.startswith(HUB_PREFIX):
        return _from_hub(location)
    path = Path(location)
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint at {path}.")
    return path


def _from_hub(location: str) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    repo, file, revision = parse_hub_id(location)
    try:
        if file:
            with contextlib.suppress(EntryNotFoundError):  # most repositories have one
                hf_hub_download(repo, str(PurePosixPath(file).with_name(CONFIG)), revision=revision)
            path = Path(hf_hub_download(repo, file, revision=revision))
            for name in external_data_names(path):  # an ONNX file's weights
                hf_hub_download(repo, str(PurePosixPath(file).parent / name), revision=revision)
            return path
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{location} cannot be fetched: {first_line(error)}. Check the name and the network, "
            f"or download it and give its path."
        ) from error


def parse_hub_id(location: str) -> tuple[str, str | None, str | None]:
    """Splits hf://owner/repo[/file]@revision into repository, file and revision.

    Raises:
        CheckpointError: the location has another format.
    """
    rest, _, revision = location.removeprefix(HUB_PREFIX).partition("@")
    parts = rest.split("/")
    if len(parts) < 2 or not all(parts):
        raise CheckpointError(f"Expected hf://owner/repo[/file]@revision, got {location}.")
    return "/".join(parts[:2]), "/".join(parts[2:]) or None, revision or None
