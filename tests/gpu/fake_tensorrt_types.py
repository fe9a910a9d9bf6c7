"""Simple types of the fake `tensorrt`: enumerations, loggers, shapes.

Enforces: a logger's constructor was called (else pybind11 rejects it), and a shape has only a
length and items, so that comparing it with a tuple fails.
"""

from __future__ import annotations

import enum
from typing import Any


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    INT64 = 8


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    """An enumeration of TensorRT for RTX only."""

    LAZY = 0
    EAGER = 1
    NONE = 2


class RuntimeConfig:
    """Configuration of an execution context."""

    def __init__(
        self,
        allocation: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC,
    ) -> None:
        self.allocation = allocation
        self.dynamic_shapes_kernel_specialization_strategy = (
            DynamicShapesKernelSpecializationStrategy.LAZY
        )

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        self.allocation = strategy


DATA_TYPES = {
    "tensor(float)": DataType.FLOAT,
    "tensor(float16)": DataType.HALF,
    "tensor(uint8)": DataType.UINT8,
    "tensor(int8)": DataType.INT8,
    "tensor(int32)": DataType.INT32,
    "tensor(int64)": DataType.INT64,
    "tensor(bool)": DataType.BOOL,
}
"""By ONNX Runtime's name."""


class ILogger:
    """Base of loggers; a subclass that does not call its constructor is rejected."""

    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self._initialized = True

    def log(self, severity: enum.IntEnum, msg: str) -> None:
        raise NotImplementedError


class Logger(ILogger):
    """Stores the messages, which the real one prints."""

    def __init__(self, min_severity: enum.IntEnum = Severity.WARNING) -> None:
        super().__init__()
        self.min_severity = min_severity
        self.lines: list[str] = []

    def log(self, severity: enum.IntEnum, msg: str) -> None:
        if severity <= self.min_severity:
            self.lines.append(msg)


class Dims:
    """A shape with only a length and items, like the real one."""

    def __init__(self, shape: Any = ()) -> None:
        self._shape = tuple(shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, index: Any) -> Any:
        return self._shape[index]
