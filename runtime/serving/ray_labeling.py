"""Bulk labeling on a Ray cluster, with the rows and the journal of a single process.

Ray Data distributes photographs to workers, one `AgeMoE` each, and repeats the work of a lost node
elsewhere. Rows return to this process, which keeps the journal and writes the table.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from ray.exceptions import RayActorError, RayError

from runtime.decoding import DecoderPool
from runtime.errors import AgeMoEError, EngineFileError
from runtime.label_tables import LabelingError
from runtime.labeler import BATCH_SIZE, Labeled, Labeler
from runtime.labeling import DECODE_SECONDS, LabelJob, Stream

_MAX_BLOCKS = 4096
"""Maximum number of blocks that Ray tracks."""
_RESTARTS = 10
"""Maximum restarts of a lost worker; Ray's default is unlimited, even if its work crashes it. The
number of task attempts stays unlimited: many fail at once until Ray gives up a lost node."""
_CONNECT_SECONDS = 10.0
_COLUMN = "photographs"

Block = dict[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """The resources of each worker."""

    cpus: int = 1
    gpus: float = 0.0
    """0.5 runs two workers per GPU."""


class RemoteLabeler:
    """A worker. It exchanges JSON text, because paths may not be UTF-8 and rows vary in form."""

    def __init__(self, job: LabelJob, resources: WorkerResources, folder: str, engine: str) -> None:
        """Opens the engines, or keeps the error to return it with the first block.

        An error raised here would reach the user wrapped in Ray's own message. Relative paths start
        from `folder`; the engines on this node must have the fingerprint `engine`.
        """
        self._labeler: Labeler | str
        try:
            os.chdir(folder)
            self._labeler = _open_labeler(job, resources, engine)
        except (OSError, AgeMoEError) as error:
            self._labeler = (
                f"Node {ray.util.get_node_ip_address()} cannot be used: {error}\n"
                f"Every node needs the same engines, the photographs and the working directory "
                f"of the command, under the same paths."
            )

    def __call__(self, block: Block) -> Block:
        """Labels the photographs of a block, or returns this node's error."""
        entries: Sequence[Labeled] | list[str]
        if isinstance(self._labeler, str):
            entries = [self._labeler]
        else:
            entries = self._labeler.label([json.loads(text) for text in block[_COLUMN]])
        return {_COLUMN: np.array([json.dumps(entry) for entry in entries], object)}


@contextlib.contextmanager
def ray_stream(
    job: LabelJob, address: str, resources: WorkerResources | None = None
) -> Iterator[Stream]:
    """Connects to a cluster and labels on it, until the context ends.

    Args:
        job: the labeling job; every node needs agemoe-runtime, and the engines and photographs
            under the same paths.
        address: of the cluster that this machine is a node of, `auto` or `HOST:6379`; or `local`
            for a cluster of this machine alone, which lives as long as this process.
        resources: of each worker; None takes a GPU if the cluster has one and `job.device`
            permits it, else a core.

    Yields:
        A stream for `label`. Batches arrive in order of completion.

    Raises:
        LabelingError: the cluster cannot be reached, or the workers cannot complete the job.
    """
    engine = job.engine
    with _connected(address):
        chosen = resources or _default_resources(job)
        yield lambda paths: _label_blocks(job, chosen, engine, paths)


def _open_labeler(job: LabelJob, resources: WorkerResources, engine: str) -> Labeler:
    """Opens the labeler of a worker, which is never closed."""
    found = job.engine
    if found != engine:
        raise EngineFileError(
            f"{job.engines} holds engines {found} there, but the job started with {engine}."
        )
    decoders = DecoderPool(resources.cpus, max_seconds=DECODE_SECONDS)
    # On one core, running experts concurrently only adds the cost of switching between them.
    mode = "sequence" if resources.cpus == 1 and not resources.gpus else "auto"
    moe = job.open_engines(decoders, threads=resources.cpus, concurrency=mode)
    return job.labeler(moe, decoders, engine)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    try:
        _check_reachable(address)
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, RayError, ValueError, RuntimeError) as error:  # the last: another Ray version
        raise LabelingError(
            f"Cannot connect to a Ray cluster at {address} ({error}). Start one with ray start "
            f"--head in this environment, or use --ray local."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Fails within seconds if the address does not respond; Ray retries for many minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def _default_resources(job: LabelJob) -> WorkerResources:
    on_gpu = job.device != "cpu" and ray.cluster_resources().get("GPU", 0.0) > 0
    return WorkerResources(gpus=1.0) if on_gpu else WorkerResources()


def _label_blocks(
    job: LabelJob, resources: WorkerResources, engine: str, paths: Sequence[str]
) -> Iterator[list[Labeled]]:
    ray.data.DataContext.get_current().enable_progress_bars = False  # `label` has its own
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    blocks = min(-(-len(paths) // BATCH_SIZE), _MAX_BLOCKS)
    photographs = ray.data.from_items(
        [{_COLUMN: json.dumps(path)} for path in paths], override_num_blocks=blocks
    )
    done = photographs.map_batches(
        RemoteLabeler,
        fn_constructor_args=(job, resources, str(Path.cwd()), engine),
        batch_size=BATCH_SIZE,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=_max_workers(resources)),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        max_restarts=_RESTARTS,
    )
    try:
        for block in done.iter_batches(batch_size=None, prefetch_batches=0):
            entries = [json.loads(text) for text in block[_COLUMN]]
            if errors := [entry for entry in entries if isinstance(entry, str)]:
                raise _stopped(errors[0])
            yield [(path, rows) for path, rows in entries]
    except RayActorError as error:
        raise _stopped(
            f"a worker was lost {_RESTARTS + 1} times, possibly because it ran out of memory or a "
            f"photograph crashes the process ({error})."
        ) from error
    except RayError as error:
        raise _stopped(str(error).strip()) from error


def _max_workers(resources: WorkerResources) -> int:
    cluster = ray.cluster_resources()
    workers = cluster.get("CPU", 0.0) / resources.cpus
    if resources.gpus:
        workers = min(workers, cluster.get("GPU", 0.0) / resources.gpus)
    return max(int(workers), 1)


def _stopped(reason: str) -> LabelingError:
    lines = f"Labeling on Ray stopped: {reason}".split("\n")
    return LabelingError(*lines, "Run the same command to resume.")
