"""The teacher's answers on disk, written batch by batch; an interrupted run resumes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from export.errors import ExportError
from runtime.resume_log import ResumeLog

_LOG_FILE = "answered.jsonl"


@dataclass(frozen=True, slots=True)
class TeacherAnswers:
    """Image tokens and age probabilities of every face, and which faces are done."""

    tokens: np.memmap[Any, np.dtype[np.float16]]
    """(N, T, C)."""
    age_probs: np.memmap[Any, np.dtype[np.float32]]
    """(N, A)."""
    log: ResumeLog
    """By index of a face: whether it could be read."""

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, folder: Path, settings: Mapping[str, Any], shape: tuple[int, int, int], ages: int
    ) -> Iterator[TeacherAnswers]:
        """Opens existing answers of this shape (N, T, C) or creates empty files.

        The settings are fingerprints of the teacher, its question and the faces.

        Raises:
            ExportError: the disk has too little space.
            ResumeLogError: the answers in the folder come from other settings, or another
                process is writing them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tokens, age_probs = folder / "tokens.npy", folder / "age_probs.npy"
        with ResumeLog.open(folder / _LOG_FILE, settings) as log:
            if not len(log):
                _check_disk(folder, 2 * int(np.prod(shape)))
                open_memmap(tokens, "w+", np.float16, shape)
                open_memmap(age_probs, "w+", np.float32, (shape[0], ages))
            yield cls(open_memmap(tokens, "r+"), open_memmap(age_probs, "r+"), log)

    def waiting(self) -> list[int]:
        """Returns the faces without an answer."""
        return [face for face in range(len(self.tokens)) if str(face) not in self.log]

    def usable(self) -> NDArray[np.int64]:
        """Returns the faces that could be read."""
        faces = range(len(self.tokens))
        return np.array([face for face in faces if self.log[str(face)]], np.int64)

    def keep(
        self, faces: Sequence[int], tokens: NDArray[np.float16], age_probs: NDArray[np.float32]
    ) -> None:
        """Writes answers: tokens (N, T, C) and probabilities (N, A)."""
        self.tokens[faces] = tokens
        self.age_probs[faces] = age_probs

    def finish(self, faces: Mapping[int, bool]) -> None:
        """Records faces as done, each with whether it could be read."""
        for array in (self.tokens, self.age_probs):
            array.flush()
        self.log.add((str(face), readable) for face, readable in faces.items())


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ExportError(
            f"The teacher's answers need {needed / 2**30:.1f} GiB in {folder}, "
            f"{free / 2**30:.1f} GiB are free. Use fewer faces or another --output."
        )
