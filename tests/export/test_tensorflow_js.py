"""Weights in TensorFlow.js's format: values, and every kind of damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.checkpoints.tensorflow_js import read_tensorflow_js
from export.errors import CheckpointError

NAME = "m-weights_manifest.json"
FLOATS = np.array([[1.5, -2.0, 3.25]], np.float32)
CODES = np.array([0, 1, 255, 128], np.uint8)
WIDE = np.array([0, 65535], np.uint16)
INTEGERS = np.array([-7, 2**31 - 1], np.int32)
BYTES = np.array([[3], [200]], np.uint8)


def weight(name: str, shape: list[int], dtype: str = "float32", **quantization: Any) -> Any:
    entry = {"name": name, "shape": shape, "dtype": dtype}
    return entry | ({"quantization": quantization} if quantization else {})


def manifest() -> Any:
    return [
        {
            "paths": ["m-shard1", "m-shard2"],
            "weights": [
                weight("floats", [1, 3]),
                weight("codes", [4], dtype="float32")
                | {"quantization": {"dtype": "uint8", "scale": 0.1, "min": -3.7}},
                weight("wide", [2])
                | {"quantization": {"dtype": "uint16", "scale": 1e-3, "min": 0.5}},
            ],
        },
        {
            "paths": ["m.bin"],
            "weights": [
                weight("integers", [2], "int32"),
                weight("bytes", [2, 1], "uint8"),
                weight("scalar", []),
            ],
        },
    ]


def write(folder: Path, document: Any = None) -> Path:
    first = FLOATS.tobytes() + CODES.tobytes() + WIDE.tobytes()
    (folder / "m-shard1").write_bytes(first[:5])
    (folder / "m-shard2").write_bytes(first[5:])
    (folder / "m.bin").write_bytes(
        INTEGERS.tobytes() + BYTES.tobytes() + np.float32(0.25).tobytes()
    )
    path = folder / NAME
    path.write_text(json.dumps(manifest() if document is None else document))
    return path


def test_all_types_and_several_files_are_read(tmp_path: Path) -> None:
    weights = read_tensorflow_js(write(tmp_path))
    assert list(weights) == ["floats", "codes", "wide", "integers", "bytes", "scalar"]
    np.testing.assert_array_equal(weights["floats"], FLOATS)
    # JavaScript computes in float64, and a Float32Array rounds what is stored in it.
    exact = [float(np.float32(int(code) * 0.1 + -3.7)) for code in CODES]
    assert weights["codes"].dtype == np.float32
    assert weights["codes"].tolist() == exact
    assert weights["wide"].tolist() == pytest.approx([0.5, 66.035])
    np.testing.assert_array_equal(weights["integers"], INTEGERS)
    np.testing.assert_array_equal(weights["bytes"], BYTES)
    assert weights["scalar"] == np.float32(0.25)
    assert weights["integers"].dtype == np.int32


def changed(place: tuple[Any, ...], value: Any) -> Any:
    document = manifest()
    *before, last = place
    entry = document
    for key in before:
        entry = entry[key]
    entry[last] = value
    return document


FIRST = (0, "weights", 0)
QUANTIZED = (0, "weights", 1, "quantization")


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        ((0, "paths"), ["../m.bin"], "must be the name of a file beside the manifest"),
        ((0, "paths"), ["m-/etc/passwd"], "must be the name of a file beside the manifest"),
        ((0, "paths"), ["other.bin"], "that begins with 'm', got 'other.bin'"),
        ((0, "paths"), ["m." + "x" * 300], "must be the name of a file beside the manifest"),
        ((0, "paths"), ["m.\ud800"], "there is no"),
        ((0, "paths"), [], "names no file"),
        ((0, "paths"), ["m-shard1", "m-shard3"], "there is no 'm-shard3' beside the manifest"),
        ((0, "paths"), ["m-shard1"], "the weights need 20 bytes, the files have 5"),
        ((*FIRST, "shape"), [2, 3], "the weights need 32 bytes, the files have 20"),
        ((*FIRST, "shape"), [0, 3], "must be a whole number of at least 1"),
        ((*FIRST, "shape"), [True, 3], "must be a whole number of at least 1"),
        ((*FIRST, "shape"), [1.0, 3], "must be a whole number of at least 1"),
        ((*FIRST, "shape"), [10**900, 3], "must have at most 8 axes of at most"),
        ((*FIRST, "shape"), [2**29] * 8, "the weights need"),
        ((*FIRST, "shape"), [1] * 9, "must have at most 8 axes"),
        ((*FIRST, "shape"), "13", "must be a list"),
        ((*FIRST, "dtype"), "complex64", "must be one of float32, int32, uint8"),
        ((*FIRST, "name"), "codes", "weight 'codes' comes twice"),
        ((*FIRST, "name"), 7, "must be a string"),
        ((*QUANTIZED, "scale"), "x", "must be a finite number"),
        ((*QUANTIZED, "dtype"), "int4", "must be one of uint8, uint16"),
        (
            (1, "weights", 0, "quantization"),
            {"dtype": "uint8", "scale": 1, "min": 0},
            "float32 only",
        ),
        ((0,), {"weights": []}, "paths: missing"),
        ((1,), "text", "must be an object"),
    ],
)
def test_damaged_manifests_are_refused(
    tmp_path: Path, place: tuple[Any, ...], value: Any, problem: str
) -> None:
    path = write(tmp_path, changed(place, value))
    with pytest.raises(CheckpointError, match="is no readable manifest") as caught:
        read_tensorflow_js(path)
    assert problem in str(caught.value)
    assert str(caught.value).endswith("Download the manifest and the files beside it again.")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff", "[1" + "0" * 5000 + "]", "[NaN]"])
def test_files_that_are_not_json(tmp_path: Path, text: str) -> None:
    path = write(tmp_path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"cannot be read as JSON|must be an object"):
        read_tensorflow_js(path)


def test_an_empty_or_huge_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there are no weights"):
        read_tensorflow_js(write(tmp_path, []))
    path = write(tmp_path)
    path.write_bytes(b" " * (4 << 20) + b"[]")
    with pytest.raises(CheckpointError, match="it has more than 4,194,304 bytes"):
        read_tensorflow_js(path)
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        read_tensorflow_js(tmp_path / "absent-weights_manifest.json")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    path = write(tmp_path)
    file = tmp_path / "m-shard1"
    file.write_bytes(np.float32(value).tobytes() + file.read_bytes()[4:])
    with pytest.raises(CheckpointError, match="'floats' holds values that are NaN or infinite"):
        read_tensorflow_js(path)
    write(tmp_path, changed((*QUANTIZED, "scale"), 1e308))
    with pytest.raises(CheckpointError, match="'codes' holds values that are NaN or infinite"):
        read_tensorflow_js(path)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_an_error_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes are changed, inserted or cut anywhere in the manifest or the weights."""
    path = write(tmp_path)
    target = data.draw(st.sampled_from([path, tmp_path / "m-shard2", tmp_path / "m.bin"]))
    content = bytearray(target.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 8))
        content[at : at + length] = data.draw(st.binary(max_size=8))
    target.write_bytes(content)
    try:
        weights = read_tensorflow_js(path)
    except CheckpointError:
        return
    assert all(np.isfinite(values).all() for values in weights.values())
