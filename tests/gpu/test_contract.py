"""Every name of cuda-python and TensorRT that the code and the fakes use exists."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from runtime.backends.gpu import cuda_python
from runtime.backends.gpu.cuda import LOST_DEVICE_ERRORS
from tests.gpu import fake_tensorrt, fake_tensorrt_types
from tests.gpu.fake_cuda_bindings import OUTPUTS, TEXTS, functions
from tests.gpu.fake_driver import SimulatedDriver
from tests.gpu.trt_bindings import RTX, WHEELS, missing_names
from tests.gpu.trt_names import OWNERS, PARSER_ERROR, used_names

ROOT = Path(__file__).resolve().parents[2]
USERS = {
    "runtime/backends/gpu/tensorrt.py": OWNERS,
    "runtime/backends/gpu/tensorrt_engine.py": OWNERS,
    "export/build/tensorrt_target.py": OWNERS,
    "export/build/tensorrt.py": OWNERS | PARSER_ERROR,
}
"""Files that use TensorRT, with the variable names of its objects."""
RTX_NAMES = {
    "BuilderFlag.REQUIRE_USER_ALLOCATION",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "ICudaEngine.create_runtime_config",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_execution_context_allocation_strategy",
}
"""Names that the code uses only with TensorRT for RTX."""
real: Any = importlib.import_module("cuda.bindings.driver")


def python_names() -> set[str]:
    """Returns the driver's names in cuda_python.py: attributes, and functions as strings."""
    tree = ast.parse(Path(cuda_python.__file__).read_text())
    attributes = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("driver")
    }
    texts = {str(n.value) for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    return attributes | {text for text in texts if re.fullmatch(r"cu[A-Z]\w+", text)}


def simulated() -> dict[str, Any]:
    return functions(SimulatedDriver(0, devices=1, memory_bytes=1, capability=(9, 0)))


def test_cuda_python_has_every_name_used() -> None:
    names = python_names()
    assert {"cuMemcpyHtoDAsync", "cuGraphLaunch", "CU_MEMHOSTALLOC_PORTABLE"} <= names
    assert [name for name in sorted(names) if not hasattr(real, name)] == []


def test_cuda_python_has_every_enumeration_value_used() -> None:
    text = Path(cuda_python.__file__).read_text()
    used = re.findall(r"\b(CU[a-z]\w+)\.(CU_\w+|CUDA_\w+)", text)
    assert len(used) >= 5
    assert [(kind, value) for kind, value in used if not hasattr(getattr(real, kind), value)] == []


def test_every_error_name_exists_in_cuda() -> None:
    assert [
        name
        for name in sorted(LOST_DEVICE_ERRORS | TEXTS.keys())
        if not hasattr(real.CUresult, name)
    ] == []


@pytest.mark.parametrize("name", sorted(simulated()))
def test_simulated_functions_have_the_real_number_of_arguments(name: str) -> None:
    signature = (getattr(real, name).__doc__ or "").splitlines()[0]
    (inside,) = re.fullmatch(rf"{name}\((.*)\)", signature).groups()  # type: ignore[union-attr]
    wanted = len([argument for argument in inside.split(",") if argument])
    assert len(inspect.signature(simulated()[name]).parameters) == wanted


def test_simulated_handles_have_real_types() -> None:
    assert OUTPUTS.keys() <= simulated().keys()
    for kinds in OUTPUTS.values():
        assert [int(getattr(real, kind)(7)) for kind in kinds] == [7] * len(kinds)


def tensorrt_names() -> set[str]:
    """Returns the names that the code uses and those that the fakes define."""
    names: set[str] = set()
    for place, owners in USERS.items():
        names |= used_names(ROOT / place, owners)
    faked = {
        "Runtime": fake_tensorrt.Runtime,
        "ICudaEngine": fake_tensorrt.Engine,
        "IExecutionContext": fake_tensorrt.Context,
        "Logger": fake_tensorrt_types.Logger,
        "ILogger": fake_tensorrt_types.ILogger,
        "Dims": fake_tensorrt_types.Dims,
    }
    for kind, fake in faked.items():
        names |= {f"{kind}.{name}" for name in vars(fake) if not name.startswith("_")}
    return names


def test_names_are_found_in_the_source() -> None:
    assert {
        "ExecutionContextAllocationStrategy.USER_MANAGED",
        "IExecutionContext.execute_async_v3",
        "ICudaEngine.get_tensor_profile_shape",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "OnnxParser.parse_from_file",
        "Builder.build_serialized_network",
        "ParserError.node_operator",
        "__version__",
    } <= tensorrt_names()


@pytest.mark.tensorrt
@pytest.mark.parametrize("wheel", WHEELS)
def test_tensorrt_has_every_name_used(wheel: str) -> None:
    names = tensorrt_names() | (RTX_NAMES if wheel == RTX else set())
    assert missing_names(wheel, names) == []


@pytest.mark.tensorrt
@pytest.mark.parametrize("wheel", WHEELS)
def test_a_missing_name_is_detected(wheel: str) -> None:
    gone = {"BuilderFlag.FP16", "IExecutionContext.execute_async_v2"}
    expected = gone - {"BuilderFlag.FP16"} if "==10." in wheel else gone
    assert set(missing_names(wheel, gone)) == expected


@pytest.mark.tensorrt
def test_the_name_that_identifies_tensorrt_for_rtx_is_unique_to_it() -> None:
    names = {"BuilderFlag.REQUIRE_USER_ALLOCATION", "DynamicShapesKernelSpecializationStrategy"}
    for wheel in WHEELS:
        assert set(missing_names(wheel, names)) == (set() if wheel == RTX else names)
