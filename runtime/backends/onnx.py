"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from runtime.backends import ExpertVariant, Inputs, Outputs
from runtime.backends.contract import check_inputs, check_outputs
from runtime.backends.single_face import SingleFaceSession
from runtime.errors import BackendError, ContractError


class OnnxCpuSession(SingleFaceSession):
    """One expert on ONNX Runtime's CPU provider."""

    backend = "onnx-cpu"

    def __init__(self, variant: ExpertVariant, *, threads: int, batches: int = 1) -> None:
        """Loads the graph and checks it against the contract.

        Args:
            variant: the expert.
            threads: cores that a batch uses.
            batches: that run at the same time.

        Raises:
            BackendError: ONNX Runtime is not installed.
            ContractError: ONNX Runtime cannot load the graph, or it breaks the contract.
        """
        super().__init__(variant.name, batches)
        self._session = _load(variant, threads)
        self._outputs = variant.expert.outputs
        check_contract(variant, self._session)

    def _infer(self, inputs: Inputs) -> Outputs:
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))


def _load(variant: ExpertVariant, threads: int) -> Any:  # noqa: ANN401 - lazily imported type
    import_onnxruntime()  # its absence is another error
    try:
        return cpu_session(str(variant.path), threads)
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise ContractError(
            f"ONNX Runtime cannot load {variant.path} of expert {variant.name!r}: {error} "
            f"{_cure(variant)}"
        ) from error


def _cure(variant: ExpertVariant) -> str:
    """Returns what to do about a file that is as it was built and cannot be loaded."""
    if any((variant.folder / file.path).is_symlink() for file in variant.artifact.files):
        return (
            "Files of it are symbolic links, which ONNX Runtime does not follow into other "
            "folders; copy the folder with its files: cp -rL"
        )
    return f"{variant.rebuild} --force"


def cpu_session(model: str | bytes, threads: int, severity: int = 2) -> Any:  # noqa: ANN401
    """Opens a model on the CPU, from its path or its bytes.

    Args:
        model: path or content of an ONNX file.
        threads: cores that one run uses.
        severity: of the least messages that ONNX Runtime prints: 2 warnings, 4 fatal errors.

    Raises:
        BackendError: ONNX Runtime is not installed.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = severity
    # Networks run side by side: a waiting thread that spins takes a core from another one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def import_onnxruntime() -> ModuleType:
    """Imports ONNX Runtime with its telemetry off; raises `BackendError` if not installed."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its wheels store a machine ID
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(
            f"ONNX Runtime cannot be imported ({error}). Install agemoe-runtime[cpu], or [gpu] on "
            f"a machine with an NVIDIA GPU."
        ) from error
    return onnxruntime  # type: ignore[no-any-return]


def cuda_provider_problem() -> str | None:
    """Returns the reason why ONNX Runtime has no CUDA provider, or None if it has one."""
    try:
        onnxruntime = import_onnxruntime()
    except BackendError as error:
        return str(error)
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return None
    return (
        f"The ONNX Runtime installed ({onnxruntime.__version__}) was built without CUDA. Install "
        f"agemoe-runtime[gpu] instead of [cpu]."
    )


def check_contract(variant: ExpertVariant, session: Any) -> None:  # noqa: ANN401
    """Raises `ContractError` if a session's inputs or outputs differ from the manifest."""
    inputs = {value.name: (value.type, tuple(value.shape[1:])) for value in session.get_inputs()}
    check_inputs(variant, inputs, "tensor(uint8)")
    outputs = {value.name: (value.type, len(value.shape)) for value in session.get_outputs()}
    check_outputs(variant, outputs, "tensor(float)")
