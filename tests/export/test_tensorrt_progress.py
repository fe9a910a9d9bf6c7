"""Progress of TensorRT's nested phases as one number, and its display."""

from __future__ import annotations

import io

from export.build.console import BuildDisplay
from export.build.tensorrt import Phases
from export.build.terminal import Console


def test_overall_progress_only_grows() -> None:
    received: list[float] = []
    phases = Phases(received.append)
    phases.start("building", None, 2)
    phases.start("optimizing", "building", 4)
    for step in range(4):
        phases.step("optimizing", step)
    phases.finish("optimizing")
    phases.step("building", 0)
    phases.start("timing", "building", 2)
    phases.start("one kernel", "timing", 2)
    phases.step("one kernel", 0)
    phases.finish("one kernel")
    phases.step("timing", 0)
    phases.finish("timing")
    phases.finish("building")
    assert received == [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0]


def test_progress_is_logged_rarely() -> None:
    received = io.StringIO()
    display = BuildDisplay(Console(file=received))
    display.stage("mivolo", "building")
    display.advance(0.2)
    display._shown -= 60.0  # as if a minute had passed
    display.advance(0.5)
    lines = [line.partition("] ")[2] for line in received.getvalue().splitlines()]
    assert lines == ["mivolo: building", "mivolo: building, 50%"]
