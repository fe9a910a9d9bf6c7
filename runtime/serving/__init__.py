"""Serving: faces from many callers, over HTTP, on one machine or many.

Nothing of this is imported by the rest of the runtime. The HTTP service needs the extra `serve`.
"""

from runtime.serving.batching import Batcher, QueueFullError
from runtime.serving.request_queue import TooLateError

__all__ = ["Batcher", "QueueFullError", "TooLateError"]
