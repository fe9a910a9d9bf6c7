"""Bulk labeling on a cluster yields the table of one process, whatever happens to the nodes."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.alignment import landmarks_from
from runtime.detection import Detection
from runtime.label_tables import LabelingError, journal_of
from runtime.labeler import Labeled
from runtime.labeling import LabelJob, Stream, label
from tests.runtime.tiny_engines import Tiny, write_engines
from tests.serving.ray_cluster import SmallCluster, small_cluster

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

PHOTOGRAPHS = 120
BAD = "bad \udcff.png"
"""Neither is its name UTF-8 nor its content a picture."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[SmallCluster]:
    with small_cluster(workers=2) as nodes:
        yield nodes


@pytest.fixture
def job(tmp_path: Path) -> LabelJob:
    write_engines(tmp_path / "engines", {"a": Tiny(slope=60.0), "b": Tiny(slope=30.0, side=16)})
    return LabelJob("engines", faces="whole", device="cpu")


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Relative paths, which the workers have to resolve."""
    monkeypatch.chdir(tmp_path)
    for level in range(PHOTOGRAPHS):
        Image.fromarray(np.full((12, 12, 3), level, np.uint8)).save(f"{level:03}.png")
    Path(BAD).write_bytes(b"no picture")
    return [f"{level:03}.png" for level in range(PHOTOGRAPHS)] + [BAD]


def single_process_table(job: LabelJob, paths: Sequence[str]) -> bytes:
    with job.opened() as labeler:
        label(labeler.stream, paths, Path("alone.csv"), job)
    return Path("alone.csv").read_bytes()


class Stopped(Exception):  # noqa: N818 - simulates a kill
    """Raised by a test to interrupt labeling."""


def stopping(stream: Stream, after: int) -> Stream:
    """Returns a stream that is interrupted after a number of photographs."""

    def stopped(paths: Sequence[str]) -> Iterable[Sequence[Labeled]]:
        done = 0
        for batch in stream(paths):
            yield batch
            done += len(batch)
            if done >= after:
                raise Stopped

    return stopped


def test_a_job_survives_a_kill_of_itself_and_of_a_node(
    cluster: SmallCluster, job: LabelJob, paths: list[str]
) -> None:
    from runtime.serving.ray_labeling import ray_stream

    output = Path("ages.csv")
    with ray_stream(job, cluster.address) as stream, pytest.raises(Stopped):
        label(stopping(stream, after=20), paths, output, job)
    kept = journal_of(output).read_bytes().count(b"\n") - 1
    assert 20 <= kept < len(paths)

    labeled_again: list[str] = []

    def killing(stream: Stream) -> Stream:
        def labeled(waiting: Sequence[str]) -> Iterator[Sequence[Labeled]]:
            labeled_again.extend(waiting)
            for number, batch in enumerate(stream(waiting)):
                if number == 1:
                    cluster.kill_worker()
                yield batch

        return labeled

    with ray_stream(job, cluster.address) as stream:
        summary = label(killing(stream), paths, output, job)
    assert len(labeled_again) == len(paths) - kept
    assert output.read_bytes() == single_process_table(job, paths)
    assert summary.photographs == len(paths)
    assert list(summary.bad) == [BAD]
    cluster.add_worker()


def test_different_engines_on_a_node_are_detected(
    cluster: SmallCluster, job: LabelJob, paths: list[str]
) -> None:
    from runtime.serving.ray_labeling import ray_stream

    with ray_stream(job, cluster.address) as stream:
        batches = iter(stream(paths[:1]))
        manifest = Path("engines/manifest.json")
        manifest.write_bytes(manifest.read_bytes() + b"\n")
        with pytest.raises(LabelingError, match="holds engines"):
            list(batches)


class CrashingWorker:
    """A worker whose process exits, as after a crash of a decoder."""

    def __init__(self, *_: object) -> None:
        pass

    def __call__(self, _: object) -> object:
        os._exit(1)


def test_a_job_whose_workers_crash_is_stopped(
    cluster: SmallCluster, job: LabelJob, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.serving import ray_labeling

    monkeypatch.setattr(ray_labeling, "_RESTARTS", 1)
    monkeypatch.setattr(ray_labeling, "RemoteLabeler", CrashingWorker)
    with (
        ray_labeling.ray_stream(job, cluster.address) as stream,
        pytest.raises(LabelingError, match="a worker was lost 2 times"),
    ):
        list(stream(paths))


def test_a_node_without_the_engines_is_reported(
    cluster: SmallCluster, job: LabelJob, paths: list[str]
) -> None:
    from runtime.serving.ray_labeling import ray_stream

    with ray_stream(job, cluster.address) as stream:
        Path("engines").rename("gone")
        with pytest.raises(LabelingError, match=r"cannot be used: engines/manifest\.json"):
            list(stream(paths[:1]))


@pytest.mark.usefixtures("paths")
def test_an_unreachable_cluster_is_reported(job: LabelJob) -> None:
    from runtime.serving.ray_labeling import ray_stream

    nowhere = ray_stream(job, "127.0.0.1:1")
    with pytest.raises(LabelingError, match="Cannot connect to a Ray cluster"), nowhere:
        pass


def test_a_worker_knows_the_given_faces(job: LabelJob, paths: list[str]) -> None:
    from runtime.serving.ray_labeling import RemoteLabeler, WorkerResources

    points = landmarks_from([(4, 4), (8, 4), (6, 6), (4, 9), (8, 9)])
    given = {paths[50]: (Detection((2.0, 1.0, 8.0, 10.0), landmarks=points),)}
    known = pickle.loads(pickle.dumps(replace(job, given=given)))  # noqa: S301 - Ray sends it so
    worker = RemoteLabeler(known, WorkerResources(), str(Path.cwd()), job.engine)
    (text,) = worker({"photographs": np.array([json.dumps(paths[50])], object)})["photographs"]
    path, (row,) = json.loads(text)
    assert path == paths[50]
    assert [row[name] for name in "xywh"] == [2.0, 1.0, 8.0, 10.0]
    assert (row["left_eye_x"], row["right_mouth_y"]) == (4.0, 9.0)
