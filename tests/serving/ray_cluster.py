"""A small Ray cluster of several nodes on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_STORE_BYTES = 100 << 20
HEAD_ONLY = "head_only"
"""A resource of the head alone, for actors that must survive the loss of a worker."""


class SmallCluster:
    """A head without cores, and one-core workers that can be killed."""

    def __init__(self, workers: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "resources": {HEAD_ONLY: 1}, "include_dashboard": False}
        self._cluster: Any = Cluster(
            initialize_head=True, head_node_args={**head, "object_store_memory": _STORE_BYTES}
        )
        self._workers = [self._add_node() for _ in range(workers)]

    @property
    def address(self) -> str:
        """For `ray.init`."""
        return str(self._cluster.address)

    def kill_worker(self) -> None:
        """Kills all processes of a worker, as a power failure would."""
        self._cluster.remove_node(self._workers.pop(0), allow_graceful=False)

    def add_worker(self) -> None:
        """Adds a worker."""
        self._workers.append(self._add_node())

    def shutdown(self) -> None:
        """Stops all nodes."""
        self._cluster.shutdown()

    def _add_node(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES)


@contextmanager
def small_cluster(workers: int) -> Iterator[SmallCluster]:
    """Runs a cluster whose processes import this checkout."""
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
