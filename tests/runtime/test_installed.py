"""Modules as imported, on made-up distributions in a folder of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import cv2
import pytest

from runtime import BackendError, doctor
from runtime.__main__ import main
from runtime.detectors import HaarDetector
from runtime.installed import Installed, imported
from runtime.opencv import haar_cascade, import_opencv

NAME = "made_up_module"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like site-packages, first in `sys.path`, with the module in version 5.0.0."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "__init__.py").write_text("__version__ = '5.0.0'\n", encoding="utf-8")
    return tmp_path


def add_distribution(site: Path, name: str, version: str, *, record: bool = True) -> None:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = {"RECORD": f"other.py,,\n{NAME}/__init__.py,sha256=x,1\n", "top_level.txt": f"{NAME}\n"}
    file = "RECORD" if record else "top_level.txt"
    (folder / file).write_text(lines[file], encoding="utf-8")


def report() -> Installed:
    try:
        return imported(NAME, "wanted<5")
    finally:
        sys.modules.pop(NAME, None)


@pytest.mark.parametrize("record", [True, False], ids=["RECORD", "top_level.txt"])
def test_a_module_and_its_owner(site: Path, *, record: bool) -> None:
    add_distribution(site, "made-up", "5.0.0.93", record=record)
    found = report()
    assert (found.version, found.distributions) == ("5.0.0", ("made-up 5.0.0.93",))
    assert found.file == str(site / NAME / "__init__.py")
    assert found.problem is None


def test_two_owners_of_the_same_files(site: Path) -> None:
    add_distribution(site, "made-up-headless", "4.14.0.94")
    add_distribution(site, "made-up", "5.0.0.93")
    found = report()
    assert found.distributions == ("made-up 5.0.0.93", "made-up-headless 4.14.0.94")
    assert found.problem is not None
    assert "pip uninstall -y made-up made-up-headless; pip install 'wanted<5'" in found.problem


def test_files_of_another_version_than_the_metadata_say(site: Path) -> None:
    add_distribution(site, "made-up", "4.14.0.94")
    problem = report().problem
    assert problem is not None
    assert "the files are those of 5.0.0, not of made-up 4.14.0.94" in problem


@pytest.mark.usefixtures("site")
def test_a_distribution_elsewhere_does_not_own_the_module(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    add_distribution(other, "made-up", "4.0")
    monkeypatch.setattr(sys, "path", [*sys.path, str(other)])
    assert report().distributions == ()


def test_what_is_left_after_an_uninstall(site: Path) -> None:
    (site / NAME / "__init__.py").unlink()
    found = report()
    assert (found.version, found.file) == (None, None)
    assert "an empty folder" in str(found.problem)


def test_a_module_that_fails_when_imported(site: Path) -> None:
    (site / NAME / "__init__.py").write_text("nothing.there\n", encoding="utf-8")
    assert "cannot be imported (name 'nothing' is not defined)" in str(report().problem)
    assert imported("no_such_module", "wanted").problem is not None


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Makes OpenCV one that lacks functions."""
    for name in names:
        monkeypatch.delattr(cv2, name)


@pytest.mark.haar
def test_opencv_without_cascades(monkeypatch: pytest.MonkeyPatch, empty_folder: Path) -> None:
    assert haar_cascade().is_file()
    without(monkeypatch, "CascadeClassifier")
    with pytest.raises(BackendError, match=r"no Haar cascades.*opencv-python-headless<5"):
        HaarDetector()
    entries = {entry.topic: entry for entry in doctor.examine(empty_folder)}
    assert entries["cv2"].fine  # a problem only where a folder has no detector
    assert "no Haar cascades" in entries["cv2"].text


def test_opencv_without_its_functions(
    monkeypatch: pytest.MonkeyPatch, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "resize", "warpAffine")
    with pytest.raises(BackendError, match=r"has no resize and no warpAffine.*doctor"):
        import_opencv()
    assert main(["doctor", "--json", "--engines", str(empty_folder)]) == 1
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (entry,) = (entry for entry in entries if entry["topic"] == "cv2")
    assert entry["fine"] is False
    assert entry["module"]["version"] == cv2.__version__
    assert entry["module"]["file"] == cv2.__file__
    assert any(name.startswith("opencv-") for name in entry["module"]["distributions"])
    assert "has no resize" in entry["module"]["problem"]


def test_a_broken_opencv_is_a_backend_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(BackendError, match="cannot be imported"):
        import_opencv()
    monkeypatch.setitem(sys.modules, "cv2", ModuleType("cv2"))
    with pytest.raises(BackendError, match="from an empty folder has no FaceDetectorYN"):
        import_opencv()


def test_doctor_names_modules_in_use(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", "--json", "--engines", str(empty_folder)])
    found = map(json.loads, capsys.readouterr().out.splitlines())
    modules = {entry["module"]["name"] for entry in found if "module" in entry}
    assert modules >= {"numpy", "PIL", "cv2", "onnxruntime"}


def test_a_pillow_without_a_decoder(monkeypatch: pytest.MonkeyPatch, empty_folder: Path) -> None:
    monkeypatch.setattr("PIL.features.check", lambda name: name != "webp")
    entries = {entry.topic: entry for entry in doctor.examine(empty_folder)}
    assert not entries["PIL"].fine
    assert "compiled without webp" in entries["PIL"].text
