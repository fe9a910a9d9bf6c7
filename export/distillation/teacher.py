"""What a teacher said of many faces, on disk: written as it comes, resumed where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from export.errors import ExportError
from runtime.files import write_json

_KEY_FILE = "teacher.json"


class TeacherAnswers:
    """Image tokens and age probabilities of every face.

    A face is answered when its probabilities are not all 0; they are written after its tokens.
    A face that cannot be read has probabilities that are no numbers.
    """

    def __init__(self, folder: Path, key: str, shape: tuple[int, int, int], ages: int) -> None:
        """Opens what is there, or makes empty files.

        Args:
            folder: of the files.
            key: fingerprint of the teacher, its question and the faces.
            shape: of the tokens: faces, tokens, width.
            ages: how many are told apart.

        Raises:
            ExportError: the folder holds answers of another teacher or to other faces, or the
                disk is too small.
        """
        self._folder = folder
        self.count = shape[0]
        if (folder / _KEY_FILE).exists():
            self._check(key)
            mode = "r+"
        else:
            _check_disk(folder, 2 * int(np.prod(shape)))
            mode = "w+"
        made = mode == "w+"
        self.tokens: NDArray[np.float16] = open_memmap(
            folder / "tokens.npy", mode, np.float16 if made else None, shape if made else None
        )
        self.age_probs: NDArray[np.float32] = open_memmap(
            folder / "age_probs.npy",
            mode,
            np.float32 if made else None,
            (self.count, ages) if made else None,
        )
        if made:
            write_json(folder / _KEY_FILE, {"key": key})

    def waiting(self) -> NDArray[np.int64]:
        """Faces that are not answered yet."""
        return np.flatnonzero((self.age_probs == 0).all(axis=1))

    def usable(self) -> NDArray[np.int64]:
        """Faces that were answered."""
        sums = np.asarray(self.age_probs).sum(axis=1)
        return np.flatnonzero(np.isfinite(sums) & (sums > 0))

    def keep(
        self,
        faces: Sequence[int],
        tokens: NDArray[np.float16],
        age_probs: NDArray[np.float32],
    ) -> None:
        """Writes answers: tokens (N, T, C), then probabilities (N, A)."""
        self.tokens[faces] = tokens
        self.age_probs[faces] = age_probs

    def unreadable(self, faces: Sequence[int]) -> None:
        """Notes faces that need not be asked for again."""
        self.age_probs[faces] = np.nan

    def _check(self, key: str) -> None:
        found = json.loads((self._folder / _KEY_FILE).read_text(encoding="utf-8"))["key"]
        if found != key:
            raise ExportError(
                f"{self._folder} holds the answers of another teacher, to another question or to "
                f"other faces. Remove it, or give another --output."
            )


def _check_disk(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ExportError(
            f"The teacher's answers need {needed / 2**30:.1f} GiB in {folder}, "
            f"{free / 2**30:.1f} are free. Give fewer faces, or another --output."
        )
