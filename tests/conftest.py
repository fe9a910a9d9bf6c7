"""Versions in the header of every test run, and shared fixtures."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cv2
import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

# A test asserts no time: the machine may be busy.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("repeatable")

_SHOWN = ("numpy", "pillow", "opencv-python-headless", "onnx", "torch", "timm", "tensorrt")


def pytest_report_header() -> list[str]:
    """Names the versions a failure may depend on, and the providers ONNX Runtime lists."""
    found = [f"{name} {number}" for name in _SHOWN if (number := _version(name))]
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    return [f"agemoe: {machine}; {', '.join(found)}", _onnxruntime()]


def has_haar() -> bool:
    """Returns whether the installed OpenCV has Haar cascades."""
    return hasattr(cv2, "CascadeClassifier")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _onnxruntime() -> str:
    try:
        import onnxruntime
    except ImportError:
        return "onnxruntime: not installed"
    providers = ", ".join(onnxruntime.get_available_providers())
    return f"onnxruntime {onnxruntime.__version__}: {providers}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests of the Haar cascade where OpenCV has none."""
    if not has_haar():
        for item in items:
            if item.get_closest_marker("haar"):
                item.add_marker(pytest.mark.skip(reason="OpenCV 5 has no Haar cascades"))


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    """Fails a test that leaves a thread of the runtime behind."""
    yield from _no_thread_left()


@pytest.fixture(scope="module", autouse=True)
def no_thread_left_by_the_module() -> Iterator[None]:
    """Fails a module that leaves one behind: fixtures of a module may hold threads meanwhile."""
    yield from _no_thread_left()


def _no_thread_left() -> Iterator[None]:
    before = _runtime_threads()
    yield
    patience = time.monotonic() + 5.0
    while (left := _runtime_threads() - before) and time.monotonic() < patience:
        time.sleep(0.01)
    assert not left


def _runtime_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("agemoe-")}


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory, so that relative defaults find nothing of the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def noise() -> NDArray[np.uint8]:
    """uint8 RGB (48, 64, 3), the same in every run."""
    return np.random.default_rng(7).integers(0, 256, (48, 64, 3), dtype=np.uint8)
