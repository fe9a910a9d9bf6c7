"""Reading of files that people write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import FusionTableError, ManifestError
from runtime.files import read_rows, read_text
from runtime.fusion_file import read_fusion
from runtime.label_lists import photographs_in
from runtime.label_tables import LabelingError
from runtime.manifest_file import read_manifest
from runtime.serving.keys import KeyFileError, read_keys


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_with_and_without_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "f").write_text("name: Zoë\r\n", encoding=encoding, newline="")
    assert read_text(tmp_path / "f") == "name: Zoë\r\n"


def test_what_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\nb\xe4\n")
    with pytest.raises(ValueError, match="line 2 is not UTF-8"):
        read_text(tmp_path / "f")
    with pytest.raises(ValueError, match="more than 3 bytes"):
        read_text(tmp_path / "f", 3)
    with pytest.raises(ValueError, match="a folder"):
        read_text(tmp_path)
    os.mkfifo(tmp_path / "p")
    with pytest.raises(ValueError, match="a named pipe"):
        read_text(tmp_path / "p")
    with pytest.raises(OSError, match="No such file"):
        read_text(tmp_path / "none")


def test_an_endless_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        read_text(tmp_path / "f", 1000)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n", (["a", "b"], [["1", "2"]])),
        ("a;b\r\n1,5;2\r\n", (["a", "b"], [["1,5", "2"]])),
        ("a\tb\n1\t2\n", (["a", "b"], [["1", "2"]])),
        ('a,"b;c;d"\n1,2\n', (["a", "b;c;d"], [["1", "2"]])),
        ("\na , b\n\n1\n", (["a", "b"], [[], ["1"]])),
        ("", ([], [])),
    ],
)
def test_rows(text: str, rows: tuple[list[str], list[list[str]]]) -> None:
    assert read_rows(text) == rows


READERS: list[tuple[str, Callable[[Path], object], type[Exception]]] = [
    ("manifest.json", lambda path: read_manifest(path.parent), ManifestError),
    ("fusion.json", read_fusion, FusionTableError),
    ("keys.txt", read_keys, KeyFileError),
    ("list.csv", lambda path: photographs_in([str(path)]), LabelingError),
]


@pytest.mark.parametrize(("name", "read", "error"), READERS, ids=[name for name, *_ in READERS])
def test_pipes_and_other_encodings_end_in_the_readers_own_error(
    tmp_path: Path, name: str, read: Callable[[Path], object], error: type[Exception]
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(error, match="named pipe"):
        read(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).write_bytes(b'{"a": "\xe4"}')
    with pytest.raises(error, match="line 1 is not UTF-8"):
        read(tmp_path / name)
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / name).write_text("{}", encoding=encoding)
        with pytest.raises(error) as caught:
            read(tmp_path / name)
        assert "BOM" not in str(caught.value)
        assert "UTF" not in str(caught.value)
