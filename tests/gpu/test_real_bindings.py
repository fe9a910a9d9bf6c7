"""The runtime's GPU code on NVIDIA's own cuda-python, connected to the simulated device."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tensorrt

ROOT = Path(__file__).resolve().parents[2]
TESTS_OF_THE_FAKES = {"test_contract.py", "test_simulator.py", "test_simulated_libraries.py"}
"""Tests of the fakes themselves, which do not apply to the real module."""


def test_the_gpu_tests_pass_on_the_real_cuda_python() -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc): the driver library cannot be compiled")
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    ours = [str(f) for f in files if f.name not in TESTS_OF_THE_FAKES and f != Path(__file__)]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *ours, "-p", "tests.gpu.driver_library", "-q"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    (passed,) = re.findall(r"(\d+) passed", run.stdout)
    assert int(passed) > 150
