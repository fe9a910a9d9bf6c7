"""Detectors by name, as in the options and commands of the runtime."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from pathlib import Path

from runtime.cores import usable_cores
from runtime.detection import AnyWayUp, Detector
from runtime.detectors.centerface import CenterFaceDetector
from runtime.detectors.haar import CLEAR_LEAD, SURE_SCORE, HaarDetector
from runtime.detectors.yunet import YuNetDetector
from runtime.errors import BackendError, EngineFileError
from runtime.manifest import DetectorRecord, verify_detector
from runtime.manifest_file import read_manifest
from runtime.names import suggestion
from runtime.program import build_command
from runtime.warn import warn

AUTO, HAAR, CENTERFACE, YUNET = "auto", "haar", "centerface", "yunet"
NAMES = "auto, centerface, centerface:MODEL, yunet:MODEL or haar"
"""The names of detectors; a MODEL may end in `#sha256=HEX`."""
SURE_UPRIGHT = 0.65
"""Score times uprightness of a face that needs no other turn. CenterFace on 1,452 upright
photographs of FG-NET and All-Age-Faces: none was turned; of 182 turned by a quarter or a half, all
were turned back."""
_CENTERFACE_THREADS = 2
"""One alone is up to 1.2 times as slow from file to ages. Both sleep between the parts of a pass:
waiting threads that spin take cores from other programs, beside which all took 1.3 to 1.7 times as
long."""
_SHA_MARK = "#sha256="


class DetectorFallbackWarning(UserWarning):
    """The engines folder has no face detector, so the Haar cascade is used."""


@dataclass(frozen=True, slots=True)
class DetectorName:
    """The parts of a detector's name."""

    kind: str
    """`auto`, `haar`, `centerface` or `yunet`."""
    model: str | None = None
    """Path or `hf://` address of the model file; None if not given."""
    sha256: str | None = None
    """Expected SHA-256 of the model file; None accepts any."""


def parse_detector(name: str) -> DetectorName:
    """Parses the name of a detector.

    Args:
        name: `auto` (the engines folder's detector, else `haar`), `centerface` (the engines
            folder's), `centerface:MODEL[#sha256=HEX]`, `yunet:MODEL[#sha256=HEX]` or `haar`, where
            MODEL is a path or `hf://owner/repo/file[@revision]`.

    Raises:
        ValueError: the name is invalid.
    """
    kind, colon, rest = name.partition(":")
    model, _, sha256 = rest.partition(_SHA_MARK)
    models = {AUTO: (False,), HAAR: (False,), CENTERFACE: (False, True), YUNET: (True,)}
    if bool(colon) not in models.get(kind, ()) or bool(colon) != bool(model):
        raise ValueError(f"A detector is {NAMES}, got {name!r}.{_hint(kind)}")
    return DetectorName(kind, model or None, sha256 or None)


def _hint(kind: str) -> str:
    """Returns the question whether the nearest name was meant."""
    return suggestion(kind, (AUTO, HAAR, CENTERFACE, YUNET)).replace(YUNET, f"{YUNET}:MODEL")


def detector_named(name: str, engines: Path | None = None, threads: int | None = None) -> Detector:
    """Returns the detector of a name, as in `parse_detector`.

    Args:
        name: of the detector.
        engines: the engines folder for `auto` and `centerface`; None means there is none.
        threads: cores that one detection uses at most; None leaves it to the detector.

    Raises:
        ValueError: the name is invalid.
        BackendError: the model cannot be used, or there is none.
        EngineError: the engines folder or its detector is invalid.
    """
    parsed, record = parse_detector(name), None
    if engines is not None and parsed.model is None and parsed.kind != HAAR:
        record = read_manifest(engines).detector
    return open_detector(parsed, engines, record, threads)


def open_detector(
    name: DetectorName,
    engines: Path | None,
    record: DetectorRecord | None,
    threads: int | None = None,
) -> Detector:
    """Opens a detector; raises as `detector_named` does.

    Args:
        name: its parsed name.
        engines: the engines folder; None means there is none.
        record: the folder's detector; None if it has none.
        threads: as in `detector_named`.
    """
    if name.kind == HAAR:
        return default_detector()
    if name.model is not None:
        if name.kind == YUNET:
            return AnyWayUp(YuNetDetector(name.model, sha256=name.sha256), SURE_UPRIGHT)
        return _centerface(name.model, name.sha256, threads)
    if engines is not None and record is not None:
        return _folder_detector(engines, record, threads)
    place = "There is no engines folder" if engines is None else f"{engines} has no face detector"
    if name.kind == CENTERFACE:
        raise BackendError(
            f"{place}, and detector='centerface' needs one. Rebuild: "
            f"{build_command(engines)}. Or use "
            f"centerface:MODEL."
        )
    warn(
        f"{place}: OpenCV's Haar cascade finds the faces, which misses more of them and has no "
        f"landmarks. Rebuild: {build_command(engines)}",
        DetectorFallbackWarning,
    )
    return default_detector()


class Detectors:
    """The detectors used with an engines folder, each opened once, when it is first used."""

    def __init__(
        self,
        engines: Path,
        record: DetectorRecord | None,
        default: str | Detector,
        threads: int | None = None,
    ) -> None:
        """Stores the folder, its detector, and the default detector or its name.

        The threads are as in `detector_named`.

        Raises:
            ValueError: the default's name is invalid.
        """
        if isinstance(default, str) or not hasattr(default, "detect"):
            parse_detector(str(default))
        self._engines = engines
        self._record = record
        self._default = default
        self._threads = threads
        self._opened: dict[DetectorName, Detector] = {}
        self._lock = threading.Lock()

    def chosen(self, detector: str | Detector | None) -> Detector:
        """Returns a detector by its name, a given one as it is, or for None the default.

        Raises as `detector_named` does.
        """
        chosen = self._default if detector is None else detector
        if not isinstance(chosen, str) and hasattr(chosen, "detect"):
            return chosen
        name = parse_detector(str(chosen))
        with self._lock:
            if name not in self._opened:
                self._opened[name] = open_detector(name, self._engines, self._record, self._threads)
            return self._opened[name]


@functools.cache
def default_detector() -> Detector:
    """Returns the detector that needs no model file: the Haar cascade, with quarter turns."""
    return AnyWayUp(HaarDetector(), SURE_SCORE, CLEAR_LEAD)


def _folder_detector(engines: Path, record: DetectorRecord, threads: int | None) -> Detector:
    if record.name != CENTERFACE:
        raise EngineFileError(
            f"{engines} has a face detector of the unknown kind {record.name!r}. Update "
            f"agemoe-runtime, or use another detector."
        )
    verify_detector(engines, record)
    file = record.files[0]
    return _centerface(engines / file.path, file.sha256, threads)


def _centerface(model: str | Path, sha256: str | None, threads: int | None) -> Detector:
    threads = min(_CENTERFACE_THREADS, threads or usable_cores())
    detector = CenterFaceDetector(model, sha256=sha256, threads=threads)
    return AnyWayUp(detector, SURE_UPRIGHT, quick=detector.at_first_size())
