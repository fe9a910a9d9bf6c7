"""OpenVINO on the CPU: INT8 and bfloat16 products in the units that newer CPUs have for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.backends import Inputs, Outputs
from runtime.backends.contract import check_inputs, check_outputs
from runtime.backends.openvino_graph import (
    bfloat16_share,
    compile_graph,
    has_bfloat16,
    has_exact_int8,
    import_openvino,
)
from runtime.backends.single_face import SingleFaceSession
from runtime.errors import BackendError, ContractError
from runtime.manifest import REBUILD, Artifact, Expert

_SHARE_TOLERANCE = 0.01


class OpenVinoSession(SingleFaceSession):
    """One expert on OpenVINO's CPU plugin."""

    def __init__(
        self, name: str, expert: Expert, artifact: Artifact, folder: Path, *, threads: int
    ) -> None:
        """Compiles the graph and checks its inputs and outputs against the contract.

        Args:
            name: of the expert.
            expert: its manifest entry.
            artifact: to load; in bf16, everything that its graph does not keep in FP32 is computed
                in bfloat16.
            folder: the engines folder.
            threads: cores this expert may use at a time.

        Raises:
            BackendError: OpenVINO is not installed, or the CPU lacks what the precision needs.
            ContractError: OpenVINO cannot load the graph, or it breaks the contract, or computes
                more in bfloat16 than the build measured.
        """
        super().__init__(name)
        bfloat16 = artifact.precision == "bf16"
        self.backend = "openvino-cpu-bf16" if bfloat16 else "openvino-cpu"
        graph = folder / artifact.files[0].path
        _check_cpu(name, artifact.precision)
        compiled = _compiled(name, expert, graph, threads, bfloat16=bfloat16)
        check_outputs(name, expert, _outputs(compiled), "f32")
        if bfloat16:
            _check_share(name, artifact, bfloat16_share(compiled))
        self._request = compiled.create_infer_request()
        self._outputs = expert.outputs

    def _infer(self, inputs: Inputs) -> Outputs:
        answer = self._request.infer(inputs)
        return {name: answer[name] for name in self._outputs}


def _check_cpu(name: str, precision: str) -> None:
    """Raises `BackendError` if this CPU computes a precision differently from the build's CPU."""
    import_openvino()
    if precision == "bf16" and not has_bfloat16():
        raise BackendError(
            f"Expert {name!r} was requested in bf16; this CPU has no bfloat16 products. Choose "
            f"precision='auto' or 'int8'."
        )
    if precision == "int8" and not has_exact_int8():
        raise BackendError(
            f"Expert {name!r} was requested in int8; this CPU has no VNNI, and without it sums of "
            f"INT8 products overflow. Choose precision='auto'."
        )


def _compiled(name: str, expert: Expert, graph: Path, threads: int, *, bfloat16: bool) -> Any:  # noqa: ANN401 - lazily imported type
    openvino = import_openvino()
    shapes = {spec.name: (1, spec.height, spec.width, 3) for spec in expert.inputs}
    try:
        model = openvino.Core().read_model(str(graph))
        check_inputs(name, expert, _inputs(model), "u8")
        return compile_graph(model, shapes, threads, bfloat16=bfloat16)
    except RuntimeError as error:  # OpenVINO raises it for every fault
        raise ContractError(
            f"OpenVINO cannot load {graph} of expert {name!r}: {error} {REBUILD} --only {name}"
        ) from error


def _inputs(model: Any) -> dict[str, object]:  # noqa: ANN401
    return {
        port.get_any_name(): (
            port.get_element_type().get_type_name(),
            tuple(_length(axis) for axis in list(port.get_partial_shape())[1:]),
        )
        for port in model.inputs
    }


def _outputs(compiled: Any) -> dict[str, object]:  # noqa: ANN401
    return {
        name: (port.get_element_type().get_type_name(), len(port.get_partial_shape()))
        for port in compiled.outputs
        for name in port.get_names()  # the outputs of an optimized graph may have several
    }


def _check_share(name: str, artifact: Artifact, found: float) -> None:
    """Raises `ContractError` if more is computed in bfloat16 than when parity was measured."""
    if found > artifact.reduced_share + _SHARE_TOLERANCE:
        raise ContractError(
            f"OpenVINO {import_openvino().__version__} computes {found:.0%} of the products of "
            f"expert {name!r} in bfloat16; the build measured {artifact.reduced_share:.0%}, and "
            f"the expert's parity holds only for that. {REBUILD} --only {name} --bf16 --force"
        )


def _length(axis: Any) -> int | None:  # noqa: ANN401
    return axis.get_length() if axis.is_static else None
