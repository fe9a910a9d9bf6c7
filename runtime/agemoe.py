"""`AgeMoE`: from a face to an age."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar, overload

from runtime import fusion_file
from runtime.errors import AgeMoEError, ContractError, DeadlineError, PredictionError
from runtime.estimates import estimates_from
from runtime.executor import Deadline, Executor
from runtime.fusion import FusionTables
from runtime.gate import Gate
from runtime.images import ImageLimits
from runtime.manifest import REBUILD, Expert
from runtime.manifest_file import read_manifest
from runtime.preparation import PreparedFace, Preparer
from runtime.results import AgeEstimate, Face
from runtime.sessions import SessionFactory
from runtime.sessions.ladder import check_device, session_factory, verified
from runtime.sessions.onnx import usable_cores

if TYPE_CHECKING:
    from runtime.results import ImageSource

    FaceLike = ImageSource | Face
    """A picture that is a face, or a face in a picture."""

F = TypeVar("F", bound="FaceLike")


_STAND_INS = {
    "demo": "demo experts, fitted on drawn faces; their ages of photographs mean nothing",
    "random": "random weights, for measuring speed; their ages mean nothing",
}


class StandInWarning(UserWarning):
    """Experts that are not for use: fitted on drawn faces, or not at all."""


class AgeMoE:
    """Age estimation by a mixture of experts.

    Safe to use from many threads; the answers are exactly those of a serial run, whatever else is
    under way. Use it as a context manager, or call `close`.

    Example:
        with AgeMoE("engines") as moe:
            estimate = moe.predict("face.jpg")
            print(estimate.age_years, estimate.low_years, estimate.high_years)
    """

    def __init__(
        self,
        engines: str | os.PathLike[str] = "engines",
        *,
        device: str = "auto",
        precision: str = "auto",
        experts: Sequence[str] | None = None,
        fusion: str | os.PathLike[str] | None = fusion_file.FILE_NAME,
        verify: bool = True,
        threads: int | None = None,
        limits: ImageLimits | None = None,
        sessions: SessionFactory | None = None,
    ) -> None:
        """Opens an engines folder, checks it and lets every expert see one black picture.

        Args:
            engines: folder written by `python export/build_engines.py`.
            device: `auto` or `cpu`.
            precision: `auto`, `fp32`, `fp16`, or `int8` where it was built and FP32 elsewhere.
            experts: names of those to use; None means all.
            fusion: the fusion tables, from the engines folder; None averages the experts as they
                are, and so does the default where there is no such file.
            verify: compare every file's SHA-256 with the manifest; otherwise only its size.
            threads: cores each expert may use at a time; None means all.
            limits: on the pictures' bytes and pixels.
            sessions: opens an expert, instead of the backends of `device`.

        Raises:
            EngineError: the folder, its manifest, a file or fusion.json is not in order.
            BackendError: what was asked for cannot run here.
            ValueError: an unknown expert.
        """
        check_device(device)
        folder = Path(engines)
        chosen = _chosen(read_manifest(folder).experts, experts)
        self._sources = {name: expert.source.sha256 for name, expert in chosen.items()}
        self._calibration = _read_calibration(folder, fusion, self._sources)
        self._tables = self._calibration or FusionTables.identity(chosen)
        artifacts = {
            name: verified(name, expert, folder, precision=precision, hashes=verify)
            for name, expert in chosen.items()
        }
        _warn_of_stand_ins(chosen)
        self._preparer = Preparer(chosen, limits or ImageLimits())
        self._gate = Gate()
        self._closing = threading.Lock()
        self._pool = ThreadPoolExecutor(usable_cores() + 1, thread_name_prefix="agemoe-submit")
        self._executor = Executor(chosen)
        open_session = sessions or session_factory(threads)
        try:
            for name, artifact in artifacts.items():
                self._executor.add(name, open_session(name, chosen[name], artifact, folder))
            self._rehearse()
        except BaseException:
            self.close()
            raise

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts in use."""
        return tuple(self._sources)

    @property
    def backends(self) -> dict[str, str]:
        """What each expert runs on, by its name."""
        return self._executor.backends

    @property
    def sources(self) -> dict[str, str | None]:
        """SHA-256 of each expert's checkpoint, by its name; None for random weights."""
        return dict(self._sources)

    @property
    def calibrated(self) -> bool:
        """Whether the folder holds fusion tables; without, experts are averaged as they are."""
        return self._calibration is not None

    @overload
    def predict(self, faces: FaceLike, *, deadline_ms: float | None = None) -> AgeEstimate: ...

    @overload
    def predict(
        self, faces: list[F] | tuple[F, ...], *, deadline_ms: float | None = None
    ) -> list[AgeEstimate | AgeMoEError]: ...

    def predict(
        self,
        faces: FaceLike | list[F] | tuple[F, ...],
        *,
        deadline_ms: float | None = None,
    ) -> AgeEstimate | list[AgeEstimate | AgeMoEError]:
        """Estimates the age of one face, or of each in a list.

        Args:
            faces: one face or a list or tuple of them. A face is a picture (path, encoded bytes,
                binary file, PIL image, uint8 RGB (H, W, 3)) or a `Face` with boxes.
            deadline_ms: from now; experts that are late are left out and named in `missing`.

        Returns:
            An estimate; for a list, one entry per face in the same order. An entry is the error
            itself, not raised, where that face could not be used.

        Raises:
            InputError: the one face given cannot be used.
            PredictionError: no expert gave an answer.
            ClosedError: after `close`, or in a forked process.
        """
        deadline = Deadline.after(deadline_ms)
        with self._gate.entered():
            if isinstance(faces, list | tuple):
                return self._predict(faces, deadline)
            return self._predict_one(faces, deadline)

    def submit(self, face: FaceLike, *, deadline_ms: float | None = None) -> Future[AgeEstimate]:
        """Starts `predict` of one face and returns at once.

        Args:
            face: as in `predict`; an array must not be changed until the answer is there.
            deadline_ms: as in `predict`, from now.

        Returns:
            A future whose result, or exception, is that of `predict`.

        Raises:
            ClosedError: after `close`, or in a forked process.
        """
        deadline = Deadline.after(deadline_ms)
        with self._gate.entered():
            return self._pool.submit(self._predict_one, face, deadline)

    def close(self) -> None:
        """Waits for what is under way and frees everything; harmless when repeated.

        It cannot be called from a future's callback, which is itself under way.
        """
        if self._gate.shut():
            with self._closing:
                self._pool.shutdown(wait=True)
                self._executor.close()

    def __enter__(self) -> Self:
        """The AgeMoE itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def _predict_one(self, face: FaceLike, deadline: Deadline | None) -> AgeEstimate:
        (estimate,) = self._predict([face], deadline)
        if isinstance(estimate, AgeMoEError):
            raise estimate
        return estimate

    def _predict(
        self, faces: Sequence[FaceLike], deadline: Deadline | None
    ) -> list[AgeEstimate | AgeMoEError]:
        if deadline is not None and deadline.passed:  # it waited too long: nothing is decoded
            raise DeadlineError(dict.fromkeys(self._sources, deadline.reason))
        prepared = self._preparer.prepare(faces)
        usable = [face for face in prepared if isinstance(face, PreparedFace)]
        estimates = iter(self._estimates(usable, deadline) if usable else [])
        return [next(estimates) if isinstance(f, PreparedFace) else f for f in prepared]

    def _estimates(
        self, faces: Sequence[PreparedFace], deadline: Deadline | None
    ) -> list[AgeEstimate | AgeMoEError]:
        answers = self._executor.run(self._preparer.batches(faces), deadline)
        unseen = [self._unseen(face) for face in faces]
        return estimates_from(answers, unseen, self._tables)

    def _unseen(self, face: PreparedFace) -> dict[str, str]:
        """Experts that see nothing of a face, and why."""
        inputs = {name: self._preparer.looks_at(name) for name in self._sources}
        return {
            name: f"looks at the {' and '.join(spec.name for spec in specs)}, not seen here"
            for name, specs in inputs.items()
            if face.visible.isdisjoint(specs)
        }

    def _rehearse(self) -> None:
        """One black face through every expert: broken graphs are found now, buffers are grown."""
        try:
            batches = self._preparer.batches([self._preparer.black_face()])
            missing: Mapping[str, str] = self._executor.run(batches).missing
        except PredictionError as error:
            missing = error.missing
        if missing:
            reasons = "".join(f"\n- {name}: {reason}" for name, reason in missing.items())
            raise ContractError(f"These experts cannot answer a black picture:{reasons}\n{REBUILD}")


def _chosen(available: Mapping[str, Expert], names: Sequence[str] | None) -> dict[str, Expert]:
    if names is None:
        return dict(available)
    unknown = [name for name in names if name not in available]
    if unknown or not names:
        raise ValueError(
            f"experts={list(names)!r} was asked for; the engines folder holds "
            f"{', '.join(available)}."
        )
    return {name: available[name] for name in names}


def _read_calibration(
    folder: Path, fusion: str | os.PathLike[str] | None, sources: Mapping[str, str | None]
) -> FusionTables | None:
    if fusion is None:
        return None
    path = folder / fusion
    if fusion == fusion_file.FILE_NAME and not path.exists():
        return None
    tables = fusion_file.read_fusion(path)
    fusion_file.check_fusion_fits(path, tables, sources)
    return tables


def _warn_of_stand_ins(experts: Mapping[str, Expert]) -> None:
    for kind, meaning in _STAND_INS.items():
        names = [name for name, expert in experts.items() if expert.source.kind == kind]
        if names:
            warnings.warn(
                f"{', '.join(names)}: {meaning}. Build from checkpoints to estimate ages: "
                f"python export/build_engines.py --help",
                StandInWarning,
                stacklevel=3,
            )
