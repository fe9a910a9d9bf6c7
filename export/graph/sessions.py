"""Sessions of ONNX Runtime on the CPU, for measuring graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_session(
    model: Path | str | bytes, folder: Path | None = None, *, frugal: bool = False
) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Opens a session on a file, or on a graph whose large weights are in a folder.

    A frugal session uses weights in place and computes every node as the graph has it; otherwise
    ONNX Runtime fuses nodes, repacks weights and keeps an FP32 copy of every half-precision one.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if frugal:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.enable_mem_pattern = False  # else the peak is allocated at once
    options.log_severity_level = 4  # what is fatal is raised, too
    if folder is not None:
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(folder))
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
