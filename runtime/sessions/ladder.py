"""Which artifact of an expert runs on which backend of this machine."""

from __future__ import annotations

import logging
from pathlib import Path

from runtime.errors import BackendError
from runtime.manifest import REBUILD, Artifact, Expert, verify_files
from runtime.sessions import Session, SessionFactory
from runtime.sessions.onnx import OnnxCpuSession, usable_cores

_log = logging.getLogger("agemoe")

DEVICES = ("auto", "cpu")
"""`auto` takes the fastest backend that works on this machine, of those this version has."""
_CPU_PREFERENCES = {
    "auto": ("fp32", "fp16"),  # CPUs compute FP16 graphs through FP32, so FP32 is faster
    "int8": ("int8", "fp32"),  # which only large experts are built in
}


def check_device(device: str) -> None:
    """Refuses a device that this version cannot run on.

    Raises:
        BackendError: the device is unknown or not served.
    """
    if device not in DEVICES:
        raise BackendError(
            f"device={device!r} was requested; this version executes on {' or '.join(DEVICES)}. "
            f"Use device='auto'."
        )


def choose_artifact(name: str, expert: Expert, precision: str) -> Artifact:
    """The artifact of an expert to run on the CPU.

    Args:
        name: of the expert.
        expert: its manifest entry.
        precision: `auto`, exactly the one wanted, or `int8` where it was built and FP32 elsewhere.

    Raises:
        BackendError: there is none of the precision wanted.
    """
    by_precision = {artifact.precision: artifact for artifact in expert.artifacts}
    wanted = _CPU_PREFERENCES.get(precision, (precision,))
    for candidate in wanted:
        if candidate in by_precision:
            if precision == "int8" and candidate != "int8":
                _log.warning("expert %r was not built in int8 and runs in %s", name, candidate)
            return by_precision[candidate]
    raise BackendError(
        f"precision={precision!r} was requested; expert {name!r} was built in "
        f"{', '.join(by_precision)}. {REBUILD} --only {name}"
    )


def session_factory(threads: int | None) -> SessionFactory:
    """Opens experts on ONNX Runtime's CPU provider.

    Args:
        threads: cores each expert may use at a time; None means all this process may use. Experts
            run side by side without spinning, so that the one that takes longest finds the cores
            of those that are done.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1 or None, got {threads}.")
    cores = threads or usable_cores()

    def open_session(name: str, expert: Expert, artifact: Artifact, folder: Path) -> Session:
        return OnnxCpuSession(name, expert, artifact, folder, threads=cores)

    return open_session


def verified(name: str, expert: Expert, folder: Path, *, precision: str, hashes: bool) -> Artifact:
    """The artifact to run, after its files were compared with the manifest.

    Raises:
        BackendError: there is none of the precision wanted.
        EngineFileError: a file is not the one that was built.
    """
    artifact = choose_artifact(name, expert, precision)
    verify_files(folder, name, artifact, hashes=hashes)
    return artifact
