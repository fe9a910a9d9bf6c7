"""Freed blocks go back to the system, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import gc, re, sys
from pathlib import Path
from runtime.serving.process_memory import return_large_blocks
def held():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
if not return_large_blocks(): sys.exit("no glibc")
start = held()
for size in (5, 8, 13, 21, 31):  # each freed block raised glibc's own limit
    blocks, pins = [], []
    for _ in range(8):
        blocks.append(bytearray(b"x") * (size << 20))
        pins.append(bytearray(b"x") * (1 << 16))
    del blocks
    assert held() - start < 16 << 20, held() - start
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
def test_freed_blocks_go_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    if "no glibc" in done.stderr:
        pytest.skip("another C library")
    assert done.returncode == 0, done.stderr
