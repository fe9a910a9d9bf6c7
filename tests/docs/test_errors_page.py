"""docs/errors.md: every exception, warning and HTTP problem, and messages as they are."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

import runtime
from runtime import AgeMoE, AgeMoEError, Face, ImageLimits, Liveness, QualityLimits
from runtime.serving import problems
from runtime.serving.problems import ServiceError
from tests.docs.pages import code, matches, page, rows, section
from tests.runtime.tiny_engines import Tiny, write_engines

TEXT = page("errors.md")
T = TypeVar("T")
EXCEPTIONS = {code(row[0]): row[1] for row in rows(section(TEXT, "## Exceptions"))}
WARNINGS = {code(row[0]): row[1] for row in rows(section(TEXT, "## Warnings"))}
PROBLEMS = {code(row[1]): int(row[0]) for row in rows(section(TEXT, "## HTTP problems"))}
OF_FRAMEWORK = {"not-found": 404, "method-not-allowed": 405, "unexpected": 500}
GRAY = np.full((64, 64, 3), 90, np.uint8)


def subclasses(kind: type[T]) -> set[type[T]]:
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


def imported() -> None:
    for module in pkgutil.walk_packages(runtime.__path__, "runtime."):
        if not any(part in module.name for part in ("__main__", "ray_", "worker")):
            importlib.import_module(module.name)


def of_runtime(kind: type[T]) -> set[type[T]]:
    imported()
    return {found for found in subclasses(kind) if found.__module__.startswith("runtime.")}


def test_every_exception_is_listed() -> None:
    public = {kind.__name__ for kind in of_runtime(AgeMoEError) - subclasses(ServiceError)}
    assert {name for name in runtime.__all__ if name.endswith("Error")} <= public
    assert set(EXCEPTIONS) == {name for name in public if not name.startswith("_")}


def test_every_warning_is_listed() -> None:
    assert set(WARNINGS) == {kind.__name__ for kind in of_runtime(Warning)}
    assert set(WARNINGS) == {name for name in runtime.__all__ if name.endswith("Warning")}


def test_every_problem_is_listed_with_its_status() -> None:
    own = {kind.slug: kind.status for kind in subclasses(ServiceError) - {ServiceError}}
    library = {slug: status for _, status, slug in problems._LIBRARY_ERRORS}
    assert own | library | OF_FRAMEWORK == PROBLEMS


class NeverLive:
    def check(self, image: Any, face: Face) -> Liveness:
        del image, face
        return Liveness(0.0, live=False, provenance="never")


def predict(folder: Path, picture: Any = GRAY, options: Any = None, **fault: Any) -> Any:
    """Estimates one face with two experts."""
    with AgeMoE(two(folder, **fault), **(options or {})) as moe:
        return moe.predict(picture)


def two(folder: Path, **fault: Any) -> Path:
    return write_engines(folder, {"alpha": Tiny(**fault), "beta": Tiny(**fault)})


def with_file(folder: Path, name: str, content: bytes) -> Path:
    (two(folder) / name).write_bytes(content)
    return folder


def late(folder: Path) -> None:
    with AgeMoE(two(folder)) as moe:
        moe.predict(GRAY, deadline_ms=1e-6)


def without_picture(folder: Path) -> None:
    with AgeMoE(two(folder)) as moe:
        moe.predict_person([b"none"])


def closed(folder: Path) -> None:
    with AgeMoE(two(folder)) as moe:
        pass
    moe.predict(GRAY)


FOUR_LANDMARKS: Any = ((0, 0),) * 4
CASES: dict[str, Callable[[Path], object]] = {
    "ImageError": lambda f: predict(f, b"no picture"),
    "ImageTooLargeError": lambda f: predict(f, options={"limits": ImageLimits(max_pixels=99)}),
    "BoxError": lambda f: predict(f, Face(GRAY, box=(100, 100, 5, 5))),
    "LandmarkError": lambda f: predict(f, Face(GRAY, box=(0, 0, 60, 60), landmarks=FOUR_LANDMARKS)),
    "QualityError": lambda f: predict(f, options={"quality": QualityLimits(min_face_pixels=80)}),
    "LivenessError": lambda f: predict(f, options={"liveness": NeverLive()}),
    "PredictionError": lambda f: predict(f, nan_above=0.1),
    "DeadlineError": late,
    "NoUsablePictureError": without_picture,
    "NotCalibratedError": lambda f: predict(f).interval(0.9),
    "ManifestError": lambda f: AgeMoE(f / "nothing"),
    "EngineFileError": lambda f: AgeMoE(with_file(f, "alpha/alpha.fp32.onnx", b"short")),
    "FusionTableError": lambda f: AgeMoE(with_file(f, "fusion.json", b"{}")),
    "ContractError": lambda f: AgeMoE(two(f, broken="size")),
    "BackendError": lambda f: AgeMoE(two(f), device="cuda"),
    "ClosedError": closed,
}


def test_messages_are_as_the_page_says(tmp_path: Path) -> None:
    for name, act in CASES.items():
        with pytest.raises(getattr(runtime, name)) as caught:
            act(tmp_path / name)
        assert type(caught.value).__name__ == name
        assert matches(str(caught.value), EXCEPTIONS[name]), (name, str(caught.value))


def test_the_warning_of_placeholders_is_as_the_page_says(tmp_path: Path) -> None:
    folder = write_engines(tmp_path, {"alpha": Tiny(kind="demo")})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        AgeMoE(folder).close()
    assert matches(str(caught[0].message), WARNINGS[caught[0].category.__name__])
