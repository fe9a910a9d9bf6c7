"""manifest.json and the files it lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime import EngineFileError, ManifestError
from runtime import manifest as manifest_module
from runtime.geometry import Geometry, Resize
from runtime.manifest import (
    Artifact,
    BatchProfile,
    Expert,
    FileRecord,
    InputSpec,
    Manifest,
    Parity,
    Source,
    file_intact,
    output_shape,
    verify_files,
)
from runtime.manifest_file import engines_fingerprint, read_manifest, write_manifest
from tests.runtime.tiny_engines import SHA, Tiny, write_engines


def full_manifest() -> Manifest:
    letterbox = Geometry(
        *(0.2, "letterbox", "opencv_bilinear", (1, 2, 255)),
        margins=(0.0, -0.05, 0.1, 0.0),
        offset=(0.5, -0.25),
        border="replicate",
    )
    files = (FileRecord("x/x.fp16.onnx", SHA, 3), FileRecord("x/x.fp16.onnx.data", SHA, 0))
    artifact = Artifact("onnx", "fp16", files, {"code": "00"}, 0.9, Parity(0.01, 0.2, 32, 0.5))
    square = Geometry(
        fit="pad_square", before=(Resize(256, 255, "pillow_lanczos"),), rounding="truncate"
    )
    points = tuple((float(x), float(y)) for x, y in POINTS)
    to_points = Geometry(fit="align", interpolation="opencv_area", template=points)
    inputs = (
        InputSpec("face", 224, 200, square),
        InputSpec("person", 384, 384, letterbox),
        InputSpec("face", 64, 64, to_points),
    )
    expert = Expert(
        architecture="mivolo",
        source=Source("checkpoint", "hf://somebody/something", SHA),
        inputs=inputs,
        outputs=("age_years", "age_probs"),
        age_grid=(0.0, 50.5),
        profile=BatchProfile(1, 4, 16),
        artifacts=(artifact,),
        whole_years=True,
        no_answer="nothing to say",
        details={"anything": [1, {"deep": None}]},
    )
    return Manifest("2026-11-23T00:00:00Z", {"torch": "2.15"}, {"x": expert})


def broken(folder: Path, *changes: Callable[[dict[str, Any]], object]) -> ManifestError:
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    for change in changes:
        change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ManifestError) as caught:
        read_manifest(folder)
    return caught.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_manifest(tmp_path, full_manifest())
    return tmp_path


def test_round_trip(folder: Path) -> None:
    assert read_manifest(folder) == full_manifest()
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_the_error_of_a_missing_manifest_explains_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no such file\n.*runtime build --output"):
        read_manifest(tmp_path / "nowhere")


def test_version_2_is_read_with_the_defaults_of_later_keys(tmp_path: Path) -> None:
    write_engines(tmp_path, {"a": Tiny()})
    path = tmp_path / "manifest.json"
    document = json.loads(path.read_bytes()) | {"schema_version": 2}
    entry = document["experts"]["a"]
    del entry["whole_years"], entry["no_answer"]
    del entry["inputs"][0]["geometry"]["before"], entry["inputs"][0]["geometry"]["rounding"]
    expected = read_manifest(tmp_path)
    path.write_text(json.dumps(document))
    assert read_manifest(tmp_path) == expected


@pytest.mark.parametrize(
    ("version", "problem", "cure"),
    [
        (5, "5 is newer than the 4", "Update agemoe-runtime"),
        (1, "1 is older than the 2", "Rebuild"),
    ],
)
def test_another_version_is_one_problem_with_its_own_cure(
    folder: Path, version: int, problem: str, cure: str
) -> None:
    error = broken(folder, lambda d: d.update(schema_version=version, experts="of another time"))
    assert len(error.problems) == 1
    assert f"schema_version {problem}" in str(error)
    assert cure in str(error)
    assert f"runtime build --output {folder}" in str(error)


def expert(document: dict[str, Any]) -> dict[str, Any]:
    return document["experts"]["x"]  # type: ignore[no-any-return]


def artifact(document: dict[str, Any]) -> dict[str, Any]:
    return expert(document)["artifacts"][0]  # type: ignore[no-any-return]


def geometry(document: dict[str, Any]) -> dict[str, Any]:
    return expert(document)["inputs"][1]["geometry"]  # type: ignore[no-any-return]


POINTS = [[18.28, 17.47], [44.61, 17.36], [31.05, 31.43], [20.1, 43.0], [41.79, 42.84]]


def aligned(document: dict[str, Any], **changes: object) -> None:
    plain = {"crop_margin": 0.0, "margins": [0, 0, 0, 0], "offset": [0, 0]}
    align = {"fit": "align", "interpolation": "opencv_area", "template": POINTS}
    geometry(document).update(plain | align | changes)


def step(**changed: object) -> dict[str, object]:
    return {"height": 5, "width": 5, "interpolation": "pillow_lanczos", **changed}


def escape(to: str) -> Callable[[dict[str, Any]], object]:
    return lambda d: artifact(d)["files"][0].update(path=to)


CHANGES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("unknown key plus", lambda d: d.update(plus=1)),
    ("experts.x: unknown key plus", lambda d: expert(d).update(plus=1)),
    ("schema_version: must be 4, got '1'", lambda d: d.update(schema_version="1")),
    ("experts: must not be empty", lambda d: d.update(experts={})),
    ("experts.x.source: unknown key plus", lambda d: expert(d)["source"].update(plus=1)),
    ("geometry: unknown key pad_colour", lambda d: geometry(d).update(pad_colour=[0, 0, 0])),
    ("binding: must be given exactly for", lambda d: artifact(d).update(backend="tensorrt")),
    ("age_grid[1]: must be a finite", lambda d: expert(d).update(age_grid=[0.0, None])),
    ("created: missing", lambda d: d.pop("created")),
    ("source.kind: must be one of", lambda d: expert(d)["source"].update(kind="gift")),
    ("source.sha256: must be 64 hex", lambda d: expert(d)["source"].update(sha256="12")),
    ("inputs[0].name: must be one of", lambda d: expert(d)["inputs"][0].update(name="dog")),
    (
        "inputs[0].height: must be within 1..4096, got 0",
        lambda d: expert(d)["inputs"][0].update(height=0),
    ),
    ("inputs: must not be empty", lambda d: expert(d).update(inputs=[])),
    ("artifacts: must not be empty", lambda d: expert(d).update(artifacts=[])),
    ("must hold age_years", lambda d: expert(d).update(outputs=["age_probs"])),
    ("exactly when age_probs", lambda d: expert(d).update(age_grid=None)),
    ("profile: must not decrease", lambda d: expert(d)["profile"].update(largest=2)),
    ("geometry.fit: must be one of", lambda d: geometry(d).update(fit="squeeze")),
    ("geometry.rounding: must be one of", lambda d: geometry(d).update(rounding="up")),
    (
        "before[0].height: must be within 1..4096, got 0",
        lambda d: geometry(d).update(before=[step(height=0)]),
    ),
    (
        "before[0].interpolation: must be one of",
        lambda d: geometry(d).update(before=[step(interpolation="sinc")]),
    ),
    ("crop_margin: must be within 0..10", lambda d: geometry(d).update(crop_margin=-0.6)),
    ("crop_margin: must be within 0..10", lambda d: geometry(d).update(crop_margin=1e9)),
    ("pad_color[2]: must be within 0..255", lambda d: geometry(d).update(pad_color=[0, 0, 256])),
    ("pad_color: must hold 3 values, got 2", lambda d: geometry(d).update(pad_color=[0, 0])),
    ("pad_color[1]: must be a whole", lambda d: geometry(d).update(pad_color=[0, "b", 0])),
    ("margins[1]: must be within -1..10", lambda d: geometry(d).update(margins=[0, -1.1, 0, 0])),
    ("margins: must leave 5%", lambda d: geometry(d).update(margins=[-0.9, 0, -0.9, 0])),
    ("offset: must hold 2 values", lambda d: geometry(d).update(offset=[0.1])),
    ("offset[0]: must be within -10..10", lambda d: geometry(d).update(offset=[1e9, 0])),
    ("border: must be one of color, replicate", lambda d: geometry(d).update(border="mirror")),
    ("template: belongs to fit = 'align'", lambda d: geometry(d).update(template=POINTS)),
    ("template: is needed by fit = 'align'", lambda d: geometry(d).update(fit="align")),
    ("template: must hold five", lambda d: aligned(d, template=POINTS[:4])),
    ("template[1]: must hold 2 values", lambda d: aligned(d, template=[[1, 2], [3], *POINTS[2:]])),
    ("template[0][0]: must be a finite", lambda d: aligned(d, template=[[None, 2], *POINTS[1:]])),
    ("template: must hold points in pixels", lambda d: aligned(d, template=[[1, 1]] * 5)),
    (
        "interpolation: must be one of opencv_area",
        lambda d: aligned(d, interpolation="pillow_bilinear"),
    ),
    ("margins: has no effect with fit = 'align'", lambda d: aligned(d, crop_margin=0.2)),
    ("inputs[1].geometry.fit: 'align' is for faces", aligned),
    ("backend: must be one of", lambda d: artifact(d).update(backend="abacus")),
    ("files: must not be empty", lambda d: artifact(d).update(files=[])),
    ("reduced_share: must be a finite", lambda d: artifact(d).update(reduced_share="much")),
    ("parity.faces: must be at least 1", lambda d: artifact(d)["parity"].update(faces=0)),
    ("build_key.code: must be a string", lambda d: artifact(d)["build_key"].update(code=3)),
    ("path: must lie within the folder", escape("/etc/passwd")),
    ("path: must lie within the folder", escape("../other/x.onnx")),
    ("path: must lie within the folder", escape("x/../../x.onnx")),
    ("path: must lie within the folder", escape("..\\x.onnx")),
    ("path: must lie within the folder", escape("C:x.onnx")),
]


@pytest.mark.parametrize(("problem", "change"), CHANGES)
def test_each_problem_is_reported(
    folder: Path, problem: str, change: Callable[[dict[str, Any]], object]
) -> None:
    assert any(problem in found for found in broken(folder, change).problems)


def test_all_problems_are_reported_at_once(folder: Path) -> None:
    chosen = [CHANGES[index] for index in (0, 9, 11, 21, 27, 32)]
    error = broken(folder, *(change for _, change in chosen))
    assert len(error.problems) == len(chosen)
    for problem, _ in chosen:
        assert problem in str(error)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'"x"', b"{}", b"[" * 200_000])
def test_any_other_content_is_a_manifest_error(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        read_manifest(folder)
    assert len(set(caught.value.problems)) == len(caught.value.problems)


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    return write_engines(tmp_path / "engines", {"a": Tiny(), "b": Tiny(slope=50.0)})


def error_of(engines: Path, *, hashes: bool = True) -> str:
    entry = read_manifest(engines).experts["a"].artifacts[0]
    with pytest.raises(EngineFileError) as caught:
        verify_files(engines, "a", entry, hashes=hashes)
    assert not file_intact(engines, entry.files[0])
    assert "runtime build --only a" in str(caught.value)
    return str(caught.value)


def test_the_cure_of_a_damaged_variant_builds_it(engines: Path) -> None:
    entry = replace(read_manifest(engines).experts["a"].artifacts[0], precision="fp16")
    (engines / "a/a.fp32.onnx").unlink()
    with pytest.raises(EngineFileError, match=f"build --only a --fp16 --output {engines}$"):
        verify_files(engines, "a", entry)


def test_intact_files_pass(engines: Path) -> None:
    entry = read_manifest(engines).experts["a"].artifacts[0]
    verify_files(engines, "a", entry)
    assert file_intact(engines, entry.files[0])


def test_a_missing_file(engines: Path) -> None:
    (engines / "a/a.fp32.onnx").unlink()
    assert "is missing" in error_of(engines)


def test_a_folder_in_place_of_a_file(engines: Path) -> None:
    (engines / "a/a.fp32.onnx").unlink()
    (engines / "a/a.fp32.onnx").mkdir()
    assert "is missing" in error_of(engines)


def test_a_truncated_file(engines: Path) -> None:
    path = engines / "a/a.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-10])
    assert "the manifest lists" in error_of(engines, hashes=False)


def test_swapped_files(engines: Path) -> None:
    one, other = engines / "a/a.fp32.onnx", engines / "b/b.fp32.onnx"
    first, second = one.read_bytes(), other.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    other.write_bytes(first)
    assert "SHA-256 differs" in error_of(engines)


def test_foreign_content_of_the_right_size_passes_only_by_size(engines: Path) -> None:
    path = engines / "a/a.fp32.onnx"
    path.write_bytes(bytes(path.stat().st_size))
    verify_files(engines, "a", read_manifest(engines).experts["a"].artifacts[0], hashes=False)
    assert "SHA-256 differs" in error_of(engines)


def test_an_unreadable_file_is_an_engine_file_error(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(manifest_module, "sha256_of", forbidden)
    assert "cannot be read" in error_of(engines)


def test_shapes_of_the_outputs() -> None:
    grid = (0.0, 50.0, 100.0)
    assert output_shape("age_years", 4, None) == (4,)
    assert output_shape("age_probs", 4, grid) == (4, 3)
    assert output_shape("gender_probs", "N", None) == ("N", 2)
    assert output_shape("answer_mass", "N", grid) == ("N",)


def test_the_fingerprint_covers_the_manifest_and_the_fusion_tables(folder: Path) -> None:
    without = engines_fingerprint(folder)
    (folder / "other.json").write_text("{}")
    assert engines_fingerprint(folder) == without
    (folder / "fusion.json").write_text("{}")
    with_tables = engines_fingerprint(folder)
    write_manifest(folder, replace(full_manifest(), created="later"))
    assert len({without, with_tables, engines_fingerprint(folder)}) == 3
    assert set(without) <= set("0123456789abcdef")
    assert len(without) == 64
