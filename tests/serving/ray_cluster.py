"""A Ray cluster of several nodes on this machine, small enough to share it with others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_STORE_BYTES = 100 << 20
FRONT = "front"
"""A resource that only the head has, so that what sits there is not what a test kills."""


class SmallCluster:
    """A head that does no work, and workers of one core that can be killed."""

    def __init__(self, workers: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "resources": {FRONT: 1}, "include_dashboard": False}
        self._cluster: Any = Cluster(
            initialize_head=True, head_node_args={**head, "object_store_memory": _STORE_BYTES}
        )
        self._workers = [self._added() for _ in range(workers)]

    @property
    def address(self) -> str:
        """For `ray.init`."""
        return str(self._cluster.address)

    def kill_worker(self) -> None:
        """One worker's processes end at once, as if its machine had lost its power."""
        self._cluster.remove_node(self._workers.pop(0), allow_graceful=False)

    def add_worker(self) -> None:
        """One more worker."""
        self._workers.append(self._added())

    def shutdown(self) -> None:
        """Ends all nodes."""
        self._cluster.shutdown()

    def _added(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)


@contextmanager
def small_cluster(workers: int) -> Iterator[SmallCluster]:
    """A cluster whose processes find this checkout, for the length of a block."""
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=str(ROOT), RAY_USAGE_STATS_ENABLED="0")
    try:
        cluster = SmallCluster(workers)
        try:
            yield cluster
        finally:
            cluster.shutdown()
    finally:
        os.environ.clear()
        os.environ.update(before)
