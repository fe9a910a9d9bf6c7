"""Options of one stage, grouped."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.names import one_expected

MISMATCH_POLICIES = ("error", "fallback")


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """Options of the experts that run on a GPU."""

    cuda: str | None = None
    """The CUDA bindings, `cuda-python` or `pycuda`; None takes those that are installed."""
    slots: int = 2
    """Batches that can be on the GPU at the same time."""
    graphs: bool = True
    """Record and replay CUDA graphs where possible."""
    memory_limit_bytes: int | None = None
    """Of each ONNX Runtime session; None means unlimited."""
    on_mismatch: str = "error"
    """For a TensorRT engine built with another TensorRT, for another GPU or from another graph:
    `error`, or `fallback` to the next backend that the device allows, with a warning."""

    def __post_init__(self) -> None:
        """Validates the options.

        Raises:
            ValueError: an option is out of range.
        """
        if self.slots < 1:
            raise ValueError(f"slots must be at least 1, got {self.slots}.")
        if self.on_mismatch not in MISMATCH_POLICIES:
            raise ValueError(one_expected("on_mismatch", self.on_mismatch, MISMATCH_POLICIES))
