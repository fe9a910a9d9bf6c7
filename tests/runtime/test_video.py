"""Frames of a video: which are taken, what is refused, and `predict --video`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from runtime import AgeMoE, BackendError, ImageError, Policy, write_policy
from runtime.__main__ import main
from runtime.deadline import Deadline
from runtime.decoding import video, video_worker
from runtime.decoding.video import video_frames
from runtime.decoding.worker import REPLY
from runtime.errors import DeadlineError
from runtime.geometry import Pixels
from tests.runtime.photo_samples import astronaut
from tests.runtime.tiny_engines import Tiny, write_engines


def write_video(path: Path, frames: Sequence[Pixels]) -> Path:
    """Writes an AVI of JPEGs, as OpenCV can everywhere."""
    import cv2

    height, width = frames[0].shape[:2]
    fourcc = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), fourcc, 10.0, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()
    return path


def flat(level: int, height: int = 48, width: int = 64) -> Pixels:
    return np.full((height, width, 3), level, np.uint8)


def levels(frames: Sequence[Pixels]) -> list[int]:
    return [round(float(frame.mean())) for frame in frames]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.avi", [flat(3 * number) for number in range(80)])


def test_frames_are_evenly_spaced_from_the_first_to_near_the_last(clip: Path) -> None:
    frames = video_frames(clip, 16)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 16
    numbers = np.array(levels(frames)) / 3
    assert numbers[0] == pytest.approx(0, abs=1)
    assert numbers[-1] > 79 - 8
    gaps = np.diff(numbers)
    assert gaps.min() > 2
    assert gaps.max() < 10


def test_a_short_video_gives_all_its_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.avi", [flat(level) for level in (10, 90, 170)])
    assert levels(video_frames(path, 16)) == pytest.approx([10, 90, 170], abs=2)
    assert levels(video_frames(path, 3)) == pytest.approx([10, 90, 170], abs=2)
    assert len(video_frames(path, 1)) == 1


def test_colors_are_rgb(tmp_path: Path) -> None:
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 200
    (frame,) = video_frames(write_video(tmp_path / "red.avi", [red]))
    assert frame.dtype == np.uint8
    assert frame.mean(axis=(0, 1)) == pytest.approx([200, 0, 0], abs=5)


class Capture:
    """A video of numbered frames, in place of OpenCV's."""

    def __init__(self, frames: int, bad: int | None = None) -> None:
        self.left, self.bad = frames, bad
        self.number = -1
        self.retrieved = 0

    def grab(self) -> bool:
        self.number += 1
        return self.number < self.left

    def retrieve(self) -> tuple[bool, Pixels | None]:
        self.retrieved += 1
        if self.number == self.bad:
            return False, None
        return True, np.full((1, 1, 3), self.number % 251, np.uint8)


@pytest.mark.parametrize("count", [1, 2, 5, 16])
@pytest.mark.parametrize("length", [0, 1, 4, 31, 32, 33, 500])
def test_few_frames_are_held_whatever_the_length(count: int, length: int) -> None:
    capture = Capture(length)
    kept = video_worker._kept(capture, count, 10**6)
    assert len(kept) < 2 * count
    assert len(kept) >= min(length, count)
    numbers = [int(frame[0, 0, 0]) for frame in kept]
    stride = {(b - a) % 251 for a, b in pairwise(numbers)}
    assert len(stride) <= 1
    assert capture.retrieved <= count * (2 + np.log2(max(length, 1)))
    assert len(video_worker.evenly(kept, count)) == min(count, length)


def test_evenly_keeps_both_ends() -> None:
    assert video_worker.evenly(list(range(7)), 3) == [0, 3, 6]
    assert video_worker.evenly(list(range(7)), 1) == [3]
    assert video_worker.evenly(list(range(3)), 9) == [0, 1, 2]


def test_an_unreadable_frame_is_left_out() -> None:
    assert len(video_worker._kept(Capture(4, bad=2), 4, 10**6)) == 3


def test_lengths_and_pixels_are_bounded(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    monkeypatch.setattr(video_worker, "MOST_FRAMES", 10)
    video_worker._kept(Capture(10), 4, 10**6)
    with pytest.raises(Exception, match="more than 10 frames"):
        video_worker._kept(Capture(11), 4, 10**6)
    monkeypatch.setattr(video, "_HELD_PIXELS", 2 * 5 * 48 * 64)
    assert len(video_frames(clip, 5)) == 5
    with pytest.raises(ImageError, match=r"6 frames of 64×48 are too many pixels\..*--frames 5"):
        video_frames(clip, 6)


@pytest.mark.parametrize("frames", [0, -1, 257])
def test_a_number_of_frames_out_of_range_is_refused(clip: Path, frames: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.256"):
        video_frames(clip, frames)


def test_what_is_no_file_is_never_opened(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "_reply_of", lambda *_: pytest.fail("a process was started"))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    cases: dict[str | Path, str] = {
        "http://host/a.avi": "is an address",
        f"file://{clip}": "is an address",
        tmp_path: "is no regular file",
        tmp_path / "pipe": "is no regular file",
        tmp_path / "link": "is no regular file",
        "/dev/zero": "is no regular file",
        tmp_path / "none.avi": "cannot be read",
        "a\0b": "cannot be read",
        "0": "cannot be read",
    }
    for path, text in cases.items():
        with pytest.raises(ImageError, match=text):
            video_frames(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"#EXTM3U\n#EXTINF:1,\nclip.avi\n",  # a playlist
        b"ffconcat version 1.0\nfile clip.avi\n",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",  # a session description, which names an address
        b"<?xml version='1.0'?><MPD></MPD>",
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_files_that_name_others_are_no_videos(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip.avi").write_bytes(content)
    with pytest.raises(ImageError, match="no MP4, MOV, MKV, WebM or AVI"):
        video_frames(tmp_path / "clip.avi")


@pytest.mark.parametrize("keep", [12, 200])
def test_a_damaged_video_is_an_error(clip: Path, keep: int) -> None:
    clip.write_bytes(clip.read_bytes()[:keep])
    with pytest.raises(ImageError, match=re.escape(str(clip))):
        video_frames(clip)


def test_a_video_that_was_cut_off_has_fewer_frames(clip: Path) -> None:
    clip.write_bytes(clip.read_bytes()[:20_000])
    assert 0 < len(video_frames(clip, 80)) < 80


def test_a_slow_video_is_killed(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match=r"takes longer than 0\.001 s"):
        video_frames(clip, max_seconds=0.001)
    with pytest.raises(DeadlineError):
        video_frames(clip, deadline=Deadline.after(1e-6))
    monkeypatch.setattr(video, "_MODULE", "runtime.nowhere")
    with pytest.raises(BackendError, match="does not start: ModuleNotFoundError"):
        video_frames(clip)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"abc",
        REPLY.pack(2, 2, 0) + b"x" * 11,
        REPLY.pack(2**31, 2**31, 0),
        REPLY.pack(1, 1, 0) + b"abc",
    ],
)
def test_a_reply_that_ends_early_is_an_error(
    clip: Path, monkeypatch: pytest.MonkeyPatch, reply: bytes
) -> None:
    monkeypatch.setattr(video, "_reply_of", lambda *_: reply)
    with pytest.raises(ImageError, match="ended the decoder"):
        video_frames(clip)


@pytest.fixture
def folder(empty_folder: Path) -> Path:
    """Engines, and a video of a portrait with two frames of nobody."""
    write_engines(empty_folder / "engines", {"a": Tiny(), "bb": Tiny(slope=50.0)})
    one = astronaut()[:256, 128:384]
    frames = [one, one // 2 * 2, np.zeros_like(one), one, np.zeros_like(one), one]
    write_video(empty_folder / "clip.avi", frames)
    return empty_folder


@pytest.mark.usefixtures("folder")
def test_predict_video_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--detector", "haar", "--video", "clip.avi"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "clip.avi: 4 of 6 frames"
    assert "years   (not calibrated: no interval)" in lines[1]
    assert lines[4].startswith("    spread between frames: ")
    assert lines[5:] == [
        "    frame 3: error: No face was found in the picture.",
        "    frame 5: error: No face was found in the picture.",
    ]


@pytest.mark.usefixtures("folder")
def test_predict_video_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", "--detector", "haar", "--video", "clip.avi", "--json", "--frames", "2"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["video"] == "clip.avi"
    assert len(found["frames"]) == 2
    assert found["correlation"] is None
    assert main(["predict", "--whole", "--video", "clip.avi", "--json"]) == 0
    assert all("age_years" in frame for frame in json.loads(capsys.readouterr().out)["frames"])


def test_a_policy_decides_on_a_video(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with AgeMoE(folder / "engines") as moe:
        policy = Policy(challenge=18.0, uncalibrated=True, binding=moe.binding)
    write_policy(folder / "engines/policy.json", policy)
    command = ["predict", "--detector", "haar", "--policy", "--video"]
    assert main([*command, "clip.avi", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["age_years"] > 18.0
    assert found["decision"]["outcome"] == "pass"
    assert found["decision"]["policy"] == policy.id
    assert main([*command, "clip.avi"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("  pass: ")
    assert main([*command, "gone.avi"]) == 1
    assert "refer: gone.avi cannot be read" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_a_video_without_a_face_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    write_video(Path("empty.avi"), [flat(9), flat(9)])
    assert main(["predict", "--detector", "haar", "--video", "empty.avi"]) == 1
    assert "None of 2 pictures of the person gives an age." in capsys.readouterr().err
    assert main(["predict", "--detector", "haar", "--video", "gone.avi", "--json"]) == 1
    assert "gone.avi cannot be read" in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "give photographs, or --video FILE"),
        (["--frames", "3", "a.png"], "--frames belongs to --video"),
        (["--video", "a.avi", "a.png"], "--video needs no photographs"),
        (["--video", "a.avi", "--box", "0,0,9,9"], "--video needs no photographs"),
        (["--video", "a.avi", "--frames", "257"], "must be within 1..256"),
        (["--video", "a.avi", "--frames", "0"], "must be a whole number"),
    ],
)
def test_options_that_contradict_each_other(
    options: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["predict", *options])
    assert text in capsys.readouterr().err
