"""`AgeMoE`: predicts ages from faces."""

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
from runtime.backends.fallback import DeviceRequest, open_devices
from runtime.backends.names import parse_device
from runtime.cores import usable_cores
from runtime.deadline import Deadline
from runtime.detection import Detector
from runtime.detectors.names import AUTO
from runtime.errors import AgeMoEError, DeadlineError, InputError
from runtime.estimates import estimates_from
from runtime.executor import MODES, Executor
from runtime.images import Decode, ImageLimits
from runtime.liveness import LivenessCheck
from runtime.names import one_expected
from runtime.options import GpuOptions
from runtime.photo_predictor import PhotoPredictor
from runtime.policy_terms import Binding
from runtime.preparation import PreparedFace, Preparer
from runtime.quality import QualityLimits
from runtime.results import AgeEstimate
from runtime.startup import CONCURRENCY, DetectorCheck, read_contents, start, warn_of_placeholders
from runtime.stats import Statistics, Stats

if TYPE_CHECKING:
    from runtime.results import FaceLike

F = TypeVar("F", bound="FaceLike")


class AgeMoE(PhotoPredictor):
    """Age estimation by a mixture of experts.

    Safe to use from many threads, with exactly the results of a serial run. It must be closed.

    Example:
        ```python
        with AgeMoE("engines") as moe:
            print(moe.predict("face.jpg").age_years)
        ```
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
        batches: int = 1,
        limits: ImageLimits | None = None,
        quality: QualityLimits | None = None,
        liveness: LivenessCheck | None = None,
        detector: str | Detector = AUTO,
        decoder: Decode | None = None,
        gpu: GpuOptions | None = None,
        sessions: SessionFactory | None = None,
    ) -> None:
        """Opens an engines folder, verifies it and runs every expert once.

        Args:
            engines: folder written by `agemoe build`.
            device: `auto` uses, for each expert, the first available of TensorRT, ONNX Runtime on
                CUDA and the CPU; `cuda` (or `cuda:1`) those two, `tensorrt` and `cpu` only that.
            precision: `auto`, `fp32`, `fp16`, or, on the CPU, `bf16` or `int8` (FP32 for experts
                without this variant); `auto` prefers FP32 on the CPU and FP16 on a GPU.
            experts: names of the experts to use; None means all.
            fusion: tables in the engines folder; None, or the default if absent, averages.
            verify: whether the SHA-256 of every file is checked, not only its size.
            concurrency: `lanes` runs the experts at the same time, `sequence` one after the other;
                `auto` measures which is faster. A deadline always implies `lanes`.
            threads: cores each expert may use on the CPU for a batch, and the detector for a
                picture; None means all.
            batches: that each expert predicts at the same time on the CPU, for several callers.
            limits: on the size of pictures.
            quality: limits below which a face is refused before the experts run; None: none.
            liveness: checks each face before the experts run; None: none is checked.
            detector: of `predict_photo`, or its name as in `parse_detector`; opened when needed.
            decoder: of pictures, as `runtime.decoding.DecoderPool.decode`; None: this process.
            gpu: options of the experts that run on a GPU.
            sessions: opens an expert on the CPU, in place of ONNX Runtime; many threads call it.

        Raises:
            EngineError: the folder, its manifest, a file or fusion.json is invalid.
            BackendError: the requested device or precision is not available.
            ValueError: an expert or a detector is unknown, or an option is out of range.
        """
        if concurrency not in CONCURRENCY:
            raise ValueError(one_expected("concurrency", concurrency, CONCURRENCY))
        request = DeviceRequest(
            *parse_device(device), precision, verify, threads, gpu or GpuOptions(), batches
        )
        folder = Path(engines)
        self._contents = read_contents(folder, experts, fusion, detector, threads)
        chosen = self._contents.experts
        self._check_detector = DetectorCheck(self._contents.calibration)
        self._tables = self._contents.tables
        warn_of_placeholders(chosen)
        self._statistics = Statistics(chosen)
        self._limits, self._decoder = limits or ImageLimits(), decoder
        self._preparer = Preparer(
            chosen,
            self._limits,
            self._statistics,
            detector=lambda: self.detector,
            decoder=decoder,
            quality=quality,
            liveness=liveness,
        )
        opened = open_devices(chosen, folder, request, sessions)
        self._executor = Executor(chosen, opened, self._statistics)
        self._start(concurrency, folder)

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts in use."""
        return tuple(self._contents.experts)

    @property
    def backends(self) -> dict[str, str]:
        """The backend of each expert, by its name."""
        return self._executor.backends

    @property
    def concurrency(self) -> str:
        """`lanes`: experts run at the same time, or `sequence`; can be changed."""
        return self._executor.mode

    @concurrency.setter
    def concurrency(self, mode: str) -> None:
        """Changes the mode for later predictions."""
        if mode not in MODES:
            raise ValueError(one_expected("concurrency", mode, MODES))
        self._executor.mode = mode

    @property
    def calibrated(self) -> bool:
        """True if there are fusion tables; without them, the experts are averaged."""
        return self._contents.calibration is not None

    @property
    def binding(self) -> Binding:
        """The experts in use and the fusion tables, which a `Policy` must have been fitted for."""
        return self._contents.binding

    @overload
    def predict(
        self, faces: FaceLike, *, deadline_ms: float | Deadline | None = None
    ) -> AgeEstimate: ...

    # A mixed list, as it is written in a call: there mypy finds no `F` for the next one.
    @overload
    def predict(
        self,
        faces: list[FaceLike] | tuple[FaceLike, ...],
        *,
        deadline_ms: float | Deadline | None = None,
    ) -> list[AgeEstimate | AgeMoEError]: ...

    # A list of one kind, or of a declared union: `list` is invariant.
    @overload
    def predict(
        self, faces: list[F], *, deadline_ms: float | Deadline | None = None
    ) -> list[AgeEstimate | AgeMoEError]: ...

    def predict(
        self,
        faces: FaceLike | list[FaceLike] | list[F] | tuple[FaceLike, ...],
        *,
        deadline_ms: float | Deadline | None = None,
    ) -> AgeEstimate | list[AgeEstimate | AgeMoEError]:
        """Estimates the age of one face, or of each in a list.

        Args:
            faces: one face or a list or tuple of them. A face is a picture (path, encoded bytes,
                binary file, PIL image, uint8 RGB (H, W, 3)) or a `Face` with boxes.
            deadline_ms: milliseconds from now, or a `Deadline`; late experts are only in `missing`.

        Returns:
            An estimate; for a list, one entry per face in order, the error where it has none.

        Raises:
            InputError: the single face cannot be used.
            PredictionError: no expert answered.
            ClosedError: after `close`, or in a forked process.
        """
        deadline, call = Deadline.of(deadline_ms), object()
        try:
            self._calls.enter(call)
            if isinstance(faces, list | tuple):
                return self._predict(faces, deadline)
            return self._predict_one(faces, deadline)
        finally:
            self._calls.leave(call)

    def submit(
        self, face: FaceLike, *, deadline_ms: float | Deadline | None = None
    ) -> Future[AgeEstimate]:
        """Schedules `predict` of one face and returns at once.

        Args:
            face: as in `predict`; an array must not be modified before the future is done.
            deadline_ms: as in `predict`; time spent waiting for a thread counts.

        Returns:
            A future with the result, or exception, of `predict`.

        Raises:
            ClosedError: after `close`, or in a forked process.
        """
        deadline, call = Deadline.of(deadline_ms), object()
        try:
            self._calls.enter(call)
            return self._pool.submit(self._predict_one, face, deadline)
        finally:
            self._calls.leave(call)

    def stats(self) -> Stats:
        """Returns counts and durations since the opening."""
        return self._statistics.snapshot()

    def close(self) -> None:
        """Waits for calls in progress, so not from a future's callback, and frees everything."""
        if self._calls.close():
            with self._closing:
                self._pool.shutdown(wait=True)
                self._executor.close()

    def __enter__(self) -> Self:
        """Returns this AgeMoE."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes this AgeMoE."""
        self.close()

    def _predict_one(self, face: FaceLike, deadline: Deadline | None) -> AgeEstimate:
        (estimate,) = self._predict([face], deadline)
        if isinstance(estimate, AgeMoEError):
            raise estimate
        return estimate

    def _predict(
        self, faces: Sequence[FaceLike], deadline: Deadline | None
    ) -> list[AgeEstimate | AgeMoEError]:
        if deadline is not None and deadline.passed:  # while it waited: nothing is decoded
            raise DeadlineError(dict.fromkeys(self._contents.experts, deadline.reason))
        return self._predict_prepared(self._prepared(faces, deadline), deadline)

    def _predict_prepared(
        self, prepared: Sequence[PreparedFace | InputError], deadline: Deadline | None
    ) -> list[AgeEstimate | AgeMoEError]:
        usable = [face for face in prepared if isinstance(face, PreparedFace)]
        try:
            estimates = iter(self._estimates(usable, deadline) if usable else [])
        except AgeMoEError:
            self._statistics.refused(len(prepared))
            raise
        results = [next(estimates) if isinstance(f, PreparedFace) else f for f in prepared]
        self._statistics.predicted(results)
        return results

    def _estimates(
        self, faces: Sequence[PreparedFace], deadline: Deadline | None
    ) -> list[AgeEstimate | AgeMoEError]:
        views = self._preparer.stacked(faces)
        with self._statistics.timed("experts"):
            answers = self._executor.run(views, deadline)
        with self._statistics.timed("fuse"):
            unseen = [self._preparer.unseen(face) for face in faces]
            origins = [face.origin for face in faces]
            return estimates_from(answers, unseen, self._tables, origins)

    def _start(self, concurrency: str, folder: Path) -> None:
        """Starts the threads of `submit` and warms the experts up; on failure, closes them."""
        self._calls = ActiveCalls()
        self._closing = threading.Lock()
        self._pool = ThreadPoolExecutor(usable_cores() + 1, thread_name_prefix="agemoe-submit")
        try:
            black = self._preparer.stacked([self._preparer.black_face()])
            start(self._executor, black, concurrency, folder)
            self._statistics.clear()
        except BaseException:
            self.close()
            raise
