"""Bulk labeling on a Ray cluster: the same rows as in one process, and the same journal.

Ray Data hands photographs to workers, one `AgeMoE` each, and starts anew elsewhere what a lost
node had in hand. Rows come back to this process, which keeps the journal and writes the table.
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

from runtime.agemoe import AgeMoE
from runtime.detectors import detector_named
from runtime.errors import AgeMoEError, EngineFileError
from runtime.label_tables import LabelingError
from runtime.labeling import BATCH_SIZE, WHOLE, Labeled, Labeler, LabelJob, Stream

_MOST_BLOCKS = 4096
"""Pieces of work that Ray keeps account of, at most."""
_RESTARTS = 10
"""How often a lost worker is begun anew: Ray would do so for ever, also where its work is what ends
it. Attempts are not counted: until a lost node is given up, many fail at once."""
_KNOCK_SECONDS = 10.0
_COLUMN = "photographs"

Block = dict[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True, slots=True)
class Share:
    """What each worker takes of its node."""

    cpus: int = 1
    gpus: float = 0.0
    """0.5 puts two workers on a GPU."""


class RemoteLabeler:
    """What a worker does: text in, text out, because paths may be no UTF-8 and rows differ."""

    def __init__(self, job: LabelJob, share: Share, folder: str, engine: str) -> None:
        """Opens the engines, or keeps why that cannot be done for whoever asks.

        An error that is raised in a worker would reach the user inside Ray's account of it.

        Args:
            job: what to do.
            share: of the node; experts use so many cores and no more.
            folder: what relative paths are relative to.
            engine: fingerprint that the engines have to have here as well.
        """
        self._labeler: Labeler | str
        try:
            os.chdir(folder)
            self._labeler = _opened(job, share, engine)
        except (OSError, AgeMoEError) as error:
            self._labeler = (
                f"Node {ray.util.get_node_ip_address()} cannot take part: {error}\n"
                f"Every node needs the same engines, the photographs, and the folder in which the "
                f"command was given, under the same paths."
            )

    def __call__(self, block: Block) -> Block:
        """Labels the photographs of a block, or says why this node cannot."""
        said: Sequence[Labeled] | list[str]
        if isinstance(self._labeler, str):
            said = [self._labeler]
        else:
            said = self._labeler.label([json.loads(text) for text in block[_COLUMN]])
        return {_COLUMN: np.array([json.dumps(entry) for entry in said], object)}


@contextlib.contextmanager
def ray_stream(job: LabelJob, address: str, share: Share | None = None) -> Iterator[Stream]:
    """Labels on a cluster, until the context ends.

    Args:
        job: what to do; the engines and the photographs have to be found under the same paths on
            every node, and agemoe-runtime be installed there.
        address: of the cluster of which this machine is a node, `auto` or `HOST:6379`; or `local`
            for one of this machine alone that lives as long as this process.
        share: of each worker; None takes a GPU where the cluster has one and `job.device` does not
            rule it out, and else a core.

    Yields:
        A stream for `label`. Batches come in the order in which they are done.

    Raises:
        LabelingError: the cluster cannot be reached, or no worker can do the job.
    """
    engine = job.engine
    with _connected(address):
        taken = share or _share(job)
        yield lambda paths: _labeled(job, taken, engine, paths)


def _opened(job: LabelJob, share: Share, engine: str) -> Labeler:
    """What labels, for as long as its worker lives."""
    found = job.engine
    if found != engine:
        raise EngineFileError(
            f"{job.engines} holds engines {found} there, where the job began {engine}."
        )
    # One core gains nothing from experts at the same time, and loses by their changing over.
    moe = AgeMoE(
        job.engines,
        device=job.device,
        precision=job.precision,
        threads=share.cpus,
        concurrency="sequence" if share.cpus == 1 and not share.gpus else "auto",
    )
    return Labeler(moe, engine, None if job.faces == WHOLE else detector_named(job.detector))


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, RayError, ValueError, RuntimeError) as error:  # the last: other versions
        raise LabelingError(
            f"No Ray cluster can be joined at {address} ({error}). Start one with ray start --head "
            f"in this environment, or use --ray local."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Finds out within seconds that nobody is there; Ray itself tries for many minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()


def _share(job: LabelJob) -> Share:
    on_gpu = job.device != "cpu" and ray.cluster_resources().get("GPU", 0.0) > 0
    return Share(gpus=1.0) if on_gpu else Share()


def _labeled(
    job: LabelJob, share: Share, engine: str, paths: Sequence[str]
) -> Iterator[list[Labeled]]:
    ray.data.DataContext.get_current().enable_progress_bars = False  # `label` reports itself
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    blocks = min(-(-len(paths) // BATCH_SIZE), _MOST_BLOCKS)
    photographs = ray.data.from_items(
        [{_COLUMN: json.dumps(path)} for path in paths], override_num_blocks=blocks
    )
    done = photographs.map_batches(
        RemoteLabeler,
        fn_constructor_args=(job, share, str(Path.cwd()), engine),
        batch_size=BATCH_SIZE,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=_most_workers(share)),
        num_cpus=share.cpus,
        num_gpus=share.gpus,
        max_restarts=_RESTARTS,
    )
    try:
        for block in done.iter_batches(batch_size=None, prefetch_batches=0):
            said = [json.loads(text) for text in block[_COLUMN]]
            if refusals := [entry for entry in said if isinstance(entry, str)]:
                raise _stopped(refusals[0])
            yield [(path, rows) for path, rows in said]
    except RayActorError as error:
        raise _stopped(
            f"a worker was lost {_RESTARTS + 1} times, for want of memory perhaps, or because a "
            f"photograph ends the process ({error})."
        ) from error
    except RayError as error:
        raise _stopped(str(error).strip()) from error


def _most_workers(share: Share) -> int:
    """As many as the cluster can hold now."""
    resources = ray.cluster_resources()
    places = resources.get("CPU", 0.0) / share.cpus
    if share.gpus:
        places = min(places, resources.get("GPU", 0.0) / share.gpus)
    return max(int(places), 1)


def _stopped(why: str) -> LabelingError:
    return LabelingError(f"Labeling on Ray stopped: {why}\nThe same command goes on from here.")
