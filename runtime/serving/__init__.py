"""Micro-batching and the HTTP service, on one machine or on a Ray cluster.

The rest of the runtime does not import this package. The service needs the extra `serve`.
"""

from runtime.serving.batching import Batcher, QueueFullError
from runtime.serving.request_queue import TooLateError

__all__ = ["Batcher", "QueueFullError", "TooLateError"]
