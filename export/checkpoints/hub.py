"""Files and repositories of the Hugging Face hub, which its own client fetches and caches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from export.checkpoints.description import CONFIG
from export.checkpoints.onnx_files import external_data_names
from export.errors import CheckpointError

PREFIX = "hf://"
_FILES = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository, or the whole repository."""

    repo: str
    file: str | None
    revision: str | None

    @classmethod
    def parse(cls, location: str) -> HubFile:
        """Returns the file of a location; raises `CheckpointError` if it has another format."""
        return cls(*parse_hub_id(location))

    def present(self) -> Path | None:
        """Returns its path if the hub's cache has it; a repository may be incomplete there."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        if self.file:
            found = self._cached(self.file)
            complete = isinstance(found, str) and all(
                isinstance(self._cached(self._beside(name)), str)
                for name in external_data_names(Path(found))
            )
            return Path(found) if isinstance(found, str) and complete else None
        with contextlib.suppress(LocalEntryNotFoundError):
            return Path(snapshot_download(self.repo, revision=self.revision, local_files_only=True))
        return None

    def fetch(self, say: Callable[[str], None]) -> Path:
        """Returns its path, downloading what the hub's cache lacks.

        Raises:
            OSError: the hub cannot be reached, or has no such file.
        """
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import EntryNotFoundError

        say(f"fetching {PREFIX}{self.repo} from the hub, or finding it in its cache")
        revision = self.revision
        if not self.file:
            return Path(
                snapshot_download(self.repo, revision=revision, allow_patterns=list(_FILES))
            )
        with contextlib.suppress(EntryNotFoundError):  # most repositories have one
            config = str(PurePosixPath(self.file).with_name(CONFIG))
            hf_hub_download(self.repo, config, revision=revision)
        path = Path(hf_hub_download(self.repo, self.file, revision=revision))
        for name in external_data_names(path):  # an ONNX file's weights
            hf_hub_download(self.repo, self._beside(name), revision=revision)
        return path

    def _cached(self, file: str) -> object:
        """Returns the path of a file in the hub's cache, as text; something else if it lacks it."""
        from huggingface_hub import try_to_load_from_cache

        return try_to_load_from_cache(self.repo, file, revision=self.revision)

    def _beside(self, name: str) -> str:
        return str(PurePosixPath(self.file or "").parent / name)

    def discard(self) -> None:
        """Keeps it: the cache is the hub's own."""


def parse_hub_id(location: str) -> tuple[str, str | None, str | None]:
    """Splits hf://owner/repo[/file]@revision into repository, file and revision.

    Raises:
        CheckpointError: the location has another format.
    """
    rest, _, revision = location.removeprefix(PREFIX).partition("@")
    parts = rest.split("/")
    if len(parts) < 2 or not all(parts):
        raise CheckpointError(f"Expected hf://owner/repo[/file]@revision, got {location}.")
    return "/".join(parts[:2]), "/".join(parts[2:]) or None, revision or None
