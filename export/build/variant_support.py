"""Checks that this machine can build and verify the variants for CPUs."""

from __future__ import annotations

from collections.abc import Sequence

from export.config.architecture import ExpertConfig
from export.experts.registry import ARCHITECTURES
from runtime.backends.openvino_graph import has_bfloat16, has_exact_int8, import_openvino
from runtime.errors import BackendError


def variant_problems(chosen: Sequence[ExpertConfig], *, bf16: bool, int8: bool) -> list[str]:
    """Returns why variants for CPUs cannot be built here; each has to be run to verify it."""
    backends = [ARCHITECTURES[config.architecture].variants for config in chosen]
    for precision, requested in (("bf16", bf16), ("int8", int8)):
        if requested and chosen and not any(precision in variants for variants in backends):
            names = ", ".join(dict.fromkeys(config.architecture for config in chosen))
            return [f"--{precision}: {names} has no such variant, and no other expert is built"]
    static = int8 and any(variants.get("int8") == "openvino" for variants in backends)
    try:
        if bf16 and not has_bfloat16():
            return ["--bf16: this CPU has no bfloat16 products, so it cannot be verified"]
        if static:
            import_openvino()
            if not has_exact_int8():
                return [
                    "--int8: INT8 products overflow on this CPU (no VNNI): it cannot be verified"
                ]
    except BackendError as error:
        return [f"{'--bf16' if bf16 else '--int8'}: {error}"]
    return []
