"""OpenVINO on the CPU: INT8 and bfloat16 products in the units that newer CPUs have for them."""

from __future__ import annotations

from typing import Any

from runtime.backends import ExpertVariant, Inputs, Outputs
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
from runtime.per_thread import PerThread

_SHARE_TOLERANCE = 0.01


class OpenVinoSession(SingleFaceSession):
    """One expert on OpenVINO's CPU plugin."""

    def __init__(self, variant: ExpertVariant, *, threads: int, batches: int = 1) -> None:
        """Compiles the graph and checks it against the contract.

        In bf16, everything that the graph does not keep in FP32 is computed in bfloat16.

        Args:
            variant: the expert.
            threads: cores that a batch uses.
            batches: that run at the same time.

        Raises:
            BackendError: OpenVINO is not installed, or the CPU lacks what the precision needs.
            ContractError: OpenVINO cannot load the graph, or it breaks the contract, or computes
                more in bfloat16 than the build measured.
        """
        super().__init__(variant.name, batches)
        bfloat16 = variant.artifact.precision == "bf16"
        self.backend = "openvino-cpu-bf16" if bfloat16 else "openvino-cpu"
        check_cpu(variant.name, variant.artifact.precision)
        compiled = _compiled(variant, threads, batches, bfloat16=bfloat16)
        check_outputs(variant, _outputs(compiled), "f32")
        if bfloat16:
            _check_share(variant, bfloat16_share(compiled))
        self._requests = PerThread(compiled.create_infer_request)
        self._outputs = variant.expert.outputs

    def _infer(self, inputs: Inputs) -> Outputs:
        answer = self._requests.own.infer(inputs)
        return {name: answer[name] for name in self._outputs}


def check_cpu(name: str, precision: str) -> None:
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


def _compiled(variant: ExpertVariant, threads: int, batches: int, *, bfloat16: bool) -> Any:  # noqa: ANN401 - lazily imported type
    openvino = import_openvino()
    shapes = {spec.name: (1, spec.height, spec.width, 3) for spec in variant.expert.inputs}
    try:
        model = openvino.Core().read_model(str(variant.path))
        check_inputs(variant, _inputs(model), "u8")
        return compile_graph(model, shapes, threads, batches, bfloat16=bfloat16)
    except RuntimeError as error:  # OpenVINO raises it for every fault
        raise ContractError(
            f"OpenVINO cannot load {variant.path} of expert {variant.name!r}: {error} "
            f"{variant.rebuild}"
        ) from error


def _inputs(model: Any) -> dict[str, object]:  # noqa: ANN401
    return {
        port.get_any_name(): (
            port.get_element_type().get_type_name(),
            tuple(
                axis.get_length() if axis.is_static else None
                for axis in list(port.get_partial_shape())[1:]
            ),
        )
        for port in model.inputs
    }


def _outputs(compiled: Any) -> dict[str, object]:  # noqa: ANN401
    return {
        name: (port.get_element_type().get_type_name(), len(port.get_partial_shape()))
        for port in compiled.outputs
        for name in port.get_names()  # the outputs of an optimized graph may have several
    }


def _check_share(variant: ExpertVariant, found: float) -> None:
    """Raises `ContractError` if more is computed in bfloat16 than when parity was measured."""
    measured = variant.artifact.reduced_share
    if found > measured + _SHARE_TOLERANCE:
        raise ContractError(
            f"OpenVINO {import_openvino().__version__} computes {found:.0%} of the products of "
            f"expert {variant.name!r} in bfloat16; the build measured {measured:.0%}, and the "
            f"expert's parity holds only for that. {variant.rebuild} --force"
        )
