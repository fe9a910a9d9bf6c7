"""`AgeMoE`: from a face to an age."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar, overload

from runtime import fusion_file
from runtime.active_calls import ActiveCalls
from runtime.backends import SessionFactory
from runtime.backends.fallback import DeviceRequest, open_devices, parse_device
from runtime.cores import usable_cores
from runtime.deadline import Deadline
from runtime.detection import Detector
from runtime.errors import AgeMoEError, DeadlineError
from runtime.estimates import estimates_from
from runtime.executor import MODES, Executor
from runtime.fusion import FusionTables
from runtime.images import ImageLimits
from runtime.manifest_file import read_manifest
from runtime.photographs import PhotoFace, predict_photo
from runtime.preparation import PreparedFace, Preparer
from runtime.results import AgeEstimate, Box, Face
from runtime.startup import (
    CONCURRENCY,
    chosen_experts,
    fastest_mode,
    read_calibration,
    rehearse,
    warn_of_placeholders,
)
from runtime.stats import Statistics, Stats

if TYPE_CHECKING:
    from runtime.results import ImageSource

    FaceLike = ImageSource | Face
    """A picture that is a face, or a face in a picture."""

F = TypeVar("F", bound="FaceLike")


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
        concurrency: str = "auto",
        threads: int | None = None,
        limits: ImageLimits | None = None,
        cuda: str | None = None,
        lanes: int = 2,
        graphs: bool = True,
        memory_limit_bytes: int | None = None,
        on_mismatch: str = "error",
        sessions: SessionFactory | None = None,
    ) -> None:
        """Opens an engines folder, checks it and lets every expert see one black picture.

        Args:
            engines: folder written by `python export/build_engines.py`.
            device: `auto` takes, for each expert, TensorRT, else ONNX Runtime on CUDA, else the
                CPU; `cuda` or `cuda:1` the first two; `tensorrt` or `tensorrt:1` only the first;
                `cpu` only the last.
            precision: `auto`, `fp32`, `fp16`, or, on the CPU, `bf16` or `int8` where it was built
                and FP32 elsewhere; `auto` takes FP32 on the CPU and FP16 on a GPU where it is.
            experts: names of those to use; None means all.
            fusion: the fusion tables, from the engines folder; None averages the experts as they
                are, and so does the default where there is no such file.
            verify: compare every file's SHA-256 with the manifest; otherwise only its size.
            concurrency: `lanes` runs the experts at the same time, `sequence` one after the other;
                `auto` measures which is faster. With a deadline it is always lanes.
            threads: cores each expert may use at a time on the CPU; None means all.
            limits: on the pictures' bytes and pixels.
            cuda: `cuda-python` or `pycuda`; None takes what is installed.
            lanes: batches that can be on the GPU at a time.
            graphs: record and replay CUDA graphs where it can be done.
            memory_limit_bytes: of each ONNX Runtime session on the GPU.
            on_mismatch: what to do with a TensorRT engine that was built for another TensorRT, GPU
                or graph: `error`, or `fallback` to what `device` allows next, with a warning.
            sessions: opens an expert on the CPU, instead of ONNX Runtime.

        Raises:
            EngineError: the folder, its manifest, a file or fusion.json is not in order.
            BackendError: what was asked for cannot run here.
            ValueError: an unknown expert, or an option out of range.
        """
        if concurrency not in CONCURRENCY:
            raise ValueError(f"concurrency must be one of {CONCURRENCY}, got {concurrency!r}.")
        kind, ordinal = parse_device(device)
        request = DeviceRequest(
            kind=kind,
            ordinal=ordinal,
            precision=precision,
            hashes=verify,
            threads=threads,
            cuda=cuda,
            lanes=lanes,
            graphs=graphs,
            memory_limit_bytes=memory_limit_bytes,
            on_mismatch=on_mismatch,
        )
        folder = Path(engines)
        chosen = chosen_experts(read_manifest(folder).experts, experts)
        self._sources = {name: expert.source.sha256 for name, expert in chosen.items()}
        self._calibration = read_calibration(folder, fusion, self._sources)
        self._tables = self._calibration or FusionTables.identity(chosen)
        warn_of_placeholders(chosen)
        self._statistics = Statistics(chosen)
        self._limits = limits or ImageLimits()
        self._preparer = Preparer(chosen, self._limits, self._statistics)
        self._gate = ActiveCalls()
        self._closing = threading.Lock()
        devices = open_devices(chosen, folder, request, sessions)
        self._executor = Executor(chosen, devices, self._statistics)
        self._pool = ThreadPoolExecutor(usable_cores() + 1, thread_name_prefix="agemoe-submit")
        try:
            self._warm_up(concurrency)
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
    def concurrency(self) -> str:
        """How the experts run: `lanes`, at the same time, or `sequence`; it may be changed."""
        return self._executor.mode

    @concurrency.setter
    def concurrency(self, mode: str) -> None:
        """Lets the experts run in another way from now on."""
        if mode not in MODES:
            raise ValueError(f"concurrency must become one of {MODES}, got {mode!r}.")
        self._executor.mode = mode

    @property
    def sources(self) -> dict[str, str | None]:
        """SHA-256 of each expert's checkpoint, by its name; None for random weights."""
        return dict(self._sources)

    @property
    def calibrated(self) -> bool:
        """Whether the folder holds fusion tables; without, experts are averaged as they are."""
        return self._calibration is not None

    @overload
    def predict(
        self, faces: FaceLike, *, deadline_ms: float | Deadline | None = None
    ) -> AgeEstimate: ...

    @overload
    def predict(
        self, faces: list[F] | tuple[F, ...], *, deadline_ms: float | Deadline | None = None
    ) -> list[AgeEstimate | AgeMoEError]: ...

    def predict(
        self,
        faces: FaceLike | list[F] | tuple[F, ...],
        *,
        deadline_ms: float | Deadline | None = None,
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
        deadline = Deadline.of(deadline_ms)
        with self._gate.entered():
            if isinstance(faces, list | tuple):
                return self._predict(faces, deadline)
            return self._predict_one(faces, deadline)

    def predict_photo(
        self,
        image: ImageSource,
        *,
        detector: Detector | None = None,
        person_boxes: Sequence[Box] = (),
        deadline_ms: float | Deadline | None = None,
    ) -> list[PhotoFace]:
        """Finds the faces in a whole photograph and estimates the age of each.

        Args:
            image: the photograph, as in `predict`.
            detector: finds the faces; None takes OpenCV's Haar cascade. `GivenBoxes` are your own.
            person_boxes: whole persons, besides those that the detector finds.
            deadline_ms: from now, detection included.

        Returns:
            The faces from left to right, each with its estimate or error; none if none was found.

        Raises:
            InputError: the photograph cannot be read.
            PredictionError: no expert gave an answer for any face, or the deadline has passed.
            ClosedError: after `close`, or in a forked process.
        """
        return predict_photo(
            self,
            image,
            detector=detector,
            person_boxes=person_boxes,
            deadline_ms=deadline_ms,
            limits=self._limits,
        )

    def submit(
        self, face: FaceLike, *, deadline_ms: float | Deadline | None = None
    ) -> Future[AgeEstimate]:
        """Starts `predict` of one face and returns at once.

        Args:
            face: as in `predict`; an array must not be changed until the answer is there.
            deadline_ms: as in `predict`, from now.

        Returns:
            A future whose result, or exception, is that of `predict`.

        Raises:
            ClosedError: after `close`, or in a forked process.
        """
        deadline = Deadline.of(deadline_ms)
        with self._gate.entered():
            return self._pool.submit(self._predict_one, face, deadline)

    def stats(self) -> Stats:
        """What was done since the opening, and where the time went."""
        return self._statistics.snapshot()

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
        try:
            estimates = iter(self._estimates(usable, deadline) if usable else [])
        except AgeMoEError:
            self._statistics.predicted(estimates=0, degraded=0, refused=len(faces))
            raise
        results = [next(estimates) if isinstance(f, PreparedFace) else f for f in prepared]
        self._count(results)
        return results

    def _estimates(
        self, faces: Sequence[PreparedFace], deadline: Deadline | None
    ) -> list[AgeEstimate | AgeMoEError]:
        views = self._preparer.stacked(faces)
        with self._statistics.timed("experts"):
            answers = self._executor.run(views, deadline)
        with self._statistics.timed("fuse"):
            return estimates_from(
                answers, [self._preparer.unseen(face) for face in faces], self._tables
            )

    def _count(self, results: Sequence[AgeEstimate | AgeMoEError]) -> None:
        estimates = [result for result in results if isinstance(result, AgeEstimate)]
        self._statistics.predicted(
            estimates=len(estimates),
            degraded=sum(bool(estimate.missing) for estimate in estimates),
            refused=len(results) - len(estimates),
        )

    def _warm_up(self, concurrency: str) -> None:
        views = self._preparer.stacked([self._preparer.black_face()])
        rehearse(self._executor, views)
        self._executor.mode = (
            fastest_mode(self._executor, views) if concurrency == "auto" else concurrency
        )
        self._statistics.clear()
