"""A small fake of Polygraphy, whose TensorRT is ONNX Runtime with one wrong weight."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from export.diagnosis.layers import OnnxLayers
from export.variants.fp16 import tensor_types
from tests.export import dense_graphs as dense

_TYPES = {"fp32": "FLOAT", "fp16": "HALF"}


class PolygraphyException(Exception):  # noqa: N818 - its name
    pass


class Layer:
    num_outputs = 1

    def __init__(self, name: str, kind: str) -> None:
        self._tensor = SimpleNamespace(name=name, dtype=SimpleNamespace(name=kind))

    def get_output(self, index: int) -> Any:
        assert index == 0
        return self._tensor


class Polygraphy:
    """The classes, and what they were given."""

    def __init__(self, wrong: Mapping[str, float], error: str = "") -> None:
        self.wrong = wrong
        self.error = error
        self.built: list[dict[str, Any]] = []

    def parsed(self, path: str, *, strongly_typed: bool) -> Callable[[], Any]:
        assert strongly_typed
        types = tensor_types(Path(path))
        nodes = onnx.load(path).graph.node
        layers = [Layer(o, _TYPES.get(types.get(o, ""), "INT64")) for n in nodes for o in n.output]
        return lambda: (path, layers, "parser")

    def marked(self, network: Callable[[], Any], *, outputs: Sequence[str]) -> Any:
        path, layers, _ = network()
        names = [layer.get_output(0).name for layer in layers]
        found = [name for pattern in outputs for name in fnmatch.filter(names, pattern)]
        assert len(found) == len(outputs)
        return path, found

    def engine(self, marked: tuple[str, list[str]], config: Mapping[str, Any]) -> Any:
        self.built.append({"outputs": marked[1], **config})
        return marked

    def run(self, runners: Sequence[tuple[str, list[str]]], *, data_loader: Any) -> Any:
        if self.error:
            raise PolygraphyException(self.error)
        ((path, names),), (faces,) = runners, data_loader
        wrong = Path(path).with_name("wrong.onnx")
        wrong.write_bytes(Path(path).read_bytes())
        for name, factor in self.wrong.items():
            dense.change_weight(wrong, name, factor)
        values: Mapping[str, NDArray[np.generic]] = OnnxLayers(wrong, faces).values(names)
        return [("trt-runner", [values])]


class Profile(dict[str, Any]):
    def add(self, name: str, min: Any, opt: Any, max: Any) -> Profile:  # noqa: A002 - their names
        self[name] = (min, opt, max)
        return self


def install(fake: Polygraphy, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = SimpleNamespace(
        Profile=Profile,
        NetworkFromOnnxPath=fake.parsed,
        ModifyNetworkOutputs=fake.marked,
        CreateConfig=dict,
        EngineFromNetwork=fake.engine,
        TrtRunner=lambda engine: engine,
    )
    contents: dict[str, dict[str, Any]] = {
        "polygraphy": {},
        "polygraphy.backend": {"trt": trt},
        "polygraphy.comparator": {"Comparator": SimpleNamespace(run=fake.run)},
        "polygraphy.exception": {"PolygraphyException": PolygraphyException},
        "polygraphy.logger": {"G_LOGGER": SimpleNamespace(ERROR=40)},
    }
    for name, attributes in contents.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
