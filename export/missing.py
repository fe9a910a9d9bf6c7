"""What to install where a package is missing."""

from __future__ import annotations

_OF_ONNX = ("filelock", "onnx", "onnxruntime")
_OF_EXPORT = (
    "huggingface_hub",
    "matplotlib",
    "onnxscript",
    "rich",
    "safetensors",
    "scipy",
    "skimage",
    "timm",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)


def missing_package(error: ModuleNotFoundError) -> str | None:
    """Returns which extra to install for a package that cannot be imported.

    None where the package belongs to no extra of the exporter: then the error is a fault.
    """
    package = (error.name or "").partition(".")[0]
    if package in _OF_ONNX:
        return (
            f"The package {package!r} is missing. Building experts needs: pip install "
            f"'agemoe-runtime[onnx]' for experts of architecture onnx, 'agemoe-runtime[export]' "
            f"for all."
        )
    if package == "huggingface_hub":
        return f"The package {package!r} is missing, for hf://: pip install huggingface-hub."
    if package in _OF_EXPORT:
        return (
            f"The package {package!r} is missing: pip install 'agemoe-runtime[export]'. Only "
            f"experts of architecture onnx do without."
        )
    return None
