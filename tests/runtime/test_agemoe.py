"""`AgeMoE` on tiny engines: opening, predicting, choosing."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime import (
    AgeEstimate,
    AgeMoE,
    BackendError,
    BoxError,
    Face,
    FusionTableError,
    ImageError,
    ImageLimits,
    ImageTooLargeError,
    PlaceholderWeightsWarning,
)
from runtime.fusion import AGE_GRID, FusionTables, Spread
from runtime.fusion_file import write_fusion
from runtime.geometry import Geometry
from runtime.images import load_rgb
from tests.runtime.fusion_tables import Row, pivot_tables
from tests.runtime.tiny_engines import HALF_OFFSET_YEARS, SHA, Tiny, write_engines

if TYPE_CHECKING:
    from runtime.results import FaceLike, ImageSource

Pixels = NDArray[np.uint8]
pytestmark = pytest.mark.usefixtures("no_thread_left")


def gray(level: int, side: int = 12) -> Pixels:
    return np.full((side, side, 3), level, np.uint8)


def years(level: float) -> float:
    return level / 2.55


def estimate(result: object) -> AgeEstimate:
    assert isinstance(result, AgeEstimate), result
    return result


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    margin = Geometry(0.5, "letterbox", "opencv_bilinear", (255, 255, 255))
    experts = {
        "a": Tiny(outputs=("age_years", "age_probs"), precisions=("fp32", "fp16")),
        "b": Tiny(slope=50.0, offset=10.0, largest=3, geometry=margin),
        "both": Tiny(inputs=("face", "person"), side=10),
    }
    return write_engines(tmp_path / "engines", experts)


@pytest.fixture
def moe(engines: Path) -> Iterator[AgeMoE]:
    with AgeMoE(engines) as opened:
        yield opened


def test_the_opened_experts(moe: AgeMoE) -> None:
    assert moe.experts == ("a", "b", "both")
    assert moe.backends == dict.fromkeys(moe.experts, "onnx-cpu")
    assert not moe.calibrated


def test_one_face_is_the_plain_mean_without_calibration(moe: AgeMoE) -> None:
    found = moe.predict(gray(102))
    assert found.experts["a"].age_years == pytest.approx(40.0)
    assert found.experts["b"].age_years == pytest.approx(30.0)
    assert found.experts["both"].age_years == pytest.approx(20.0)  # the person is black
    assert found.age_years == pytest.approx(30.0)
    assert found.missing == {}
    assert found.low_years is None


def test_every_source_of_a_picture_gives_the_same_estimate(moe: AgeMoE, tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Image.fromarray(gray(51)).save(path)
    sources = (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), Image.open(path))
    for source in sources:
        assert moe.predict(source) == moe.predict(gray(51))


def test_an_empty_list_gives_an_empty_list(moe: AgeMoE) -> None:
    assert moe.predict([]) == []
    assert moe.predict(()) == []


def test_a_list_keeps_its_order_and_a_bad_item_affects_no_other(moe: AgeMoE) -> None:
    closed = io.BytesIO(b"")
    closed.close()
    faces: list[FaceLike] = [
        gray(10),
        b"nothing",
        Face(gray(20), (50, 50, 3, 3)),
        gray(30),
        "no/such/file",
        Face(gray(40), ("x", 0, 1, 1)),  # type: ignore[arg-type]
        closed,
        Image.new("RGB", (0, 3)),
        gray(50),
    ]
    results = moe.predict(faces)
    kinds = [type(result) for result in results]
    bad = [ImageError, BoxError, ImageError, BoxError, ImageError, ImageError]
    assert kinds == [AgeEstimate, *bad[:2], AgeEstimate, *bad[2:], AgeEstimate]
    for index, level in ((0, 10), (3, 30), (8, 50)):
        assert estimate(results[index]) == moe.predict(gray(level))


def test_one_bad_face_raises(moe: AgeMoE) -> None:
    with pytest.raises(ImageError):
        moe.predict(b"nothing")
    with pytest.raises(BoxError):
        moe.predict(Face(gray(1), (0, 0, 0, 0)))


def test_estimates_do_not_depend_on_the_rest_of_the_batch(moe: AgeMoE) -> None:
    rng = np.random.default_rng(5)
    faces = [rng.integers(0, 256, (9 + i, 30 - i, 3), dtype=np.uint8) for i in range(11)]
    alone = [moe.predict(face) for face in faces]
    assert len({one.age_years for one in alone}) == len(faces)
    assert moe.predict(faces) == alone  # bitwise
    assert moe.predict(tuple(faces[::-1])) == alone[::-1]
    assert moe.predict(faces[3:8]) == alone[3:8]


def test_boxes_and_margins_reach_the_experts(moe: AgeMoE) -> None:
    image = gray(0, 30)
    image[10:20, 10:20] = 255
    found = moe.predict(Face(image, (10, 10, 10, 10)))
    assert found.experts["a"].age_years == pytest.approx(100.0)
    assert found.experts["b"].age_years < 40.0  # its margin shows the black around
    person = moe.predict(Face(image, (10, 10, 10, 10), (0, 0, 5, 5)))
    assert person.experts["both"].age_years == pytest.approx(50.0)


def test_experts_whose_inputs_are_not_visible_are_missing(moe: AgeMoE) -> None:
    found = moe.predict(Face(gray(255), person_box=(0, 0, 5, 5)))
    assert list(found.experts) == ["both"]
    assert found.experts["both"].age_years == pytest.approx(50.0)  # the face is black
    assert set(found.missing) == {"a", "b"}
    assert "needs the face" in found.missing["a"]
    faces: list[FaceLike] = [Face(gray(255), person_box=(0, 0, 5, 5)), gray(51)]
    assert moe.predict(faces) == [found, moe.predict(gray(51))]


def test_predicting_in_two_steps(moe: AgeMoE, tmp_path: Path) -> None:
    faces: list[FaceLike] = [gray(10), str(tmp_path / "gone.png"), gray(200)]
    wanted = moe.predict(faces)
    assert str(moe.predict_prepared(moe.prepare(faces))) == str(wanted)
    unmeasured = moe.predict_prepared(moe.prepare(faces, quality=False))
    for one, other in zip(unmeasured, wanted, strict=True):
        if isinstance(one, AgeEstimate) and isinstance(other, AgeEstimate):
            assert one == replace(other, quality=None)
        else:
            assert str(one) == str(other)


def test_prepared_faces_keep_their_pixels(tmp_path: Path) -> None:
    with AgeMoE(write_engines(tmp_path, {"a": Tiny()})) as moe:
        frame = gray(200, Tiny().side)
        prepared = moe.prepare([frame])
        frame[:] = 0  # as a camera's next frame does
        (found,) = moe.predict_prepared(prepared)
        assert estimate(found).age_years == moe.predict(gray(200)).age_years


def test_only_prepared_faces_of_the_same_inputs_are_predicted(moe: AgeMoE, engines: Path) -> None:
    with AgeMoE(engines, experts=["a"]) as other:
        foreign = other.prepare([gray(10)])
    mixed = [*moe.prepare([gray(10)]), *foreign]
    for faces in (foreign, mixed):
        with pytest.raises(ValueError, match="other inputs prepared this face"):
            moe.predict_prepared(faces)
    with pytest.raises(TypeError, match="what `prepare` returns, got str"):
        moe.predict_prepared("ab")  # type: ignore[arg-type]
    for single in ("face.png", b"face", gray(10), Face("face.png")):
        with pytest.raises(TypeError, match="a list of faces, got"):
            moe.prepare(single)  # type: ignore[arg-type]


def test_a_picture_is_decoded_once_per_call(
    moe: AgeMoE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[object] = []

    def load(source: ImageSource, limits: ImageLimits, _: object) -> Pixels:
        decoded.append(source)
        return load_rgb(source, limits)

    monkeypatch.setattr(moe._preparer, "_decode", load)
    path = tmp_path / "p.png"
    Image.fromarray(gray(99)).save(path)
    file, boxes = path.open("rb"), [(0, 0, 4, 4), (1, 1, 9, 9), None]
    with file:
        moe.predict([Face(file, box) for box in boxes])
    assert len(decoded) == 1
    moe.predict([Face(str(path)), Face(path), Face(Path(path))])
    assert len(decoded) == 2
    moe.predict([Face("gone.png"), Face("gone.png")])
    assert len(decoded) == 3


def test_a_long_list_does_not_keep_its_pictures_in_memory(moe: AgeMoE, tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Image.fromarray(gray(99, 800)).save(path)
    data = path.read_bytes()
    tracemalloc.start()
    moe.predict([bytes(bytearray(data)) for _ in range(20)])
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 5 * 800 * 800 * 3


def test_the_given_limits_apply(engines: Path) -> None:
    with (
        AgeMoE(engines, limits=ImageLimits(max_pixels=100)) as moe,
        pytest.raises(ImageTooLargeError),
    ):
        moe.predict(gray(1, 11))


def test_only_the_requested_experts_are_used(engines: Path) -> None:
    (engines / "b/b.fp32.onnx").unlink()  # not requested
    with AgeMoE(engines, experts=["both", "a"]) as moe:
        assert moe.experts == ("both", "a")
        assert set(moe.predict(gray(1)).experts) == {"a", "both"}


@pytest.mark.parametrize("names", [["a", "z"], [], "a,b"])
def test_unknown_experts_are_rejected(engines: Path, names: list[str]) -> None:
    with pytest.raises(ValueError, match="holds a, b, both"):
        AgeMoE(engines, experts=names)


@pytest.mark.parametrize(
    ("precision", "more"), [("auto", 0.0), ("fp32", 0.0), ("fp16", HALF_OFFSET_YEARS)]
)
def test_the_requested_precision_is_opened(engines: Path, precision: str, more: float) -> None:
    with AgeMoE(engines, experts=["a"], precision=precision) as moe:
        assert moe.predict(gray(51)).age_years == pytest.approx(20.0 + more)


def test_a_precision_that_was_not_built_is_rejected(engines: Path) -> None:
    with pytest.raises(BackendError, match="'b' was built in fp32"):
        AgeMoE(engines, precision="fp16")


@pytest.mark.parametrize(
    "device", ["cuda:", "cuda:x", "cuda:-1", "cpu:1", "auto:0", "tpu", "", "CPU"]
)
def test_an_unknown_device_is_rejected(engines: Path, device: str) -> None:
    with pytest.raises(BackendError, match=r"device='.*' was requested; there are auto, cpu, cuda"):
        AgeMoE(engines, device=device)


@pytest.mark.parametrize("count", [0, -2, 1.5, float("nan"), "2", True])
def test_less_than_one_thread_or_batch_is_rejected(engines: Path, count: Any) -> None:
    with pytest.raises(ValueError, match="threads must be a whole number of at least 1"):
        AgeMoE(engines, threads=count)
    with pytest.raises(ValueError, match="batches must be a whole number of at least 1"):
        AgeMoE(engines, batches=count)


@pytest.mark.parametrize(
    ("kind", "message"), [("demo", "drawn faces"), ("random", "random weights")]
)
def test_placeholder_weights_are_warned_of_once(tmp_path: Path, kind: str, message: str) -> None:
    folder = write_engines(tmp_path, {"a": Tiny(kind=kind), "b": Tiny(kind=kind), "c": Tiny()})
    with pytest.warns(PlaceholderWeightsWarning, match=f"^a, b: .*{message}") as caught:
        AgeMoE(folder).close()
    assert len(caught) == 1
    assert caught[0].filename == __file__


def tables(*, sha256: str = SHA) -> FusionTables:
    """Corrects `a` by -5 years and gives it all the weight where it answers."""
    experts = {"a": Row(-5.0, 60.0, 60.0, sha256), "b": Row(), "both": Row(), "elsewhere": Row()}
    quantiles = np.tile([-4.0, 0.0, 6.0], (len(AGE_GRID), 1))
    spread = Spread((0.05, 0.5, 0.95), {frozenset(("a", "b", "both")): quantiles})
    return pivot_tables(experts, spread=spread)


def test_fusion_tables_are_used(engines: Path) -> None:
    write_fusion(engines / "fusion.json", tables())
    with AgeMoE(engines) as moe:
        assert moe.calibrated
        found = moe.predict(gray(102))
        unseen = moe.predict(Face(gray(102), person_box=(0, 0, 5, 5)))
    assert found.age_years == pytest.approx(35.0)
    assert (found.low_years, found.high_years) == pytest.approx((31.0, 41.0))
    assert found.experts["a"].corrected_years == pytest.approx(35.0)
    assert found.probability_at_least(35.0) == pytest.approx(0.5)
    assert unseen.low_years is None  # this subset was not calibrated, so there is no interval


def test_fusion_tables_of_other_checkpoints_are_rejected(engines: Path) -> None:
    write_fusion(engines / "fusion.json", tables(sha256="cd" * 32))
    with pytest.raises(
        FusionTableError, match=r"experts\.a: was calibrated for another checkpoint"
    ):
        AgeMoE(engines)
