"""The module `tensorrt` as in NVIDIA's package: all names of the bindings."""

import tensorrt_bindings  # type: ignore[import-not-found]
from tensorrt_bindings import *  # noqa: F403

__version__ = tensorrt_bindings.__version__
