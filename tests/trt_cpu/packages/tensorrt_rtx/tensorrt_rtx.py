"""The module `tensorrt_rtx` without NVIDIA's package: its library behind TensorRT's bindings."""

import os
from pathlib import Path

from tensorrt_bindings import *  # type: ignore[import-not-found] # noqa: F403

__version__ = Path(os.environ["AGEMOE_RTX_BUILDER"]).name.partition(".so.")[2]
