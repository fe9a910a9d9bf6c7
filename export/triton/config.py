"""Triton's `config.pbtxt` for the experts, the fusion, and the ensemble that connects them.

Configurations are plain dictionaries with the field names of Triton's `ModelConfig` message, and
`pbtxt` writes them in protobuf's text format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from export.errors import OptionsError
from runtime.manifest import Expert, InputSpec, output_shape

ENSEMBLE, FUSION = "agemoe", "agemoe_fusion"
"""Names of the two models besides the experts; clients call the first."""

Config = dict[str, Any]


class Word(str):
    """An enum value, written without quotes."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Scheduling:
    """Scheduling of the experts in Triton."""

    instances: int = 1
    """Instances of each expert, on each GPU or on the CPU."""
    queue_delay_us: int = 2000
    """Maximum batching delay of a request in microseconds."""

    def __post_init__(self) -> None:
        """Validates the values."""
        if self.instances < 1 or self.queue_delay_us < 0:
            raise OptionsError(
                [f"instances must be positive and the queue delay not negative, got {self}"]
            )


def expert_config(
    name: str, expert: Expert, backend: str, kind: str, scheduling: Scheduling
) -> Config:
    """Returns the configuration of an expert's graph."""
    profile = expert.profile
    inputs = [_picture(spec.name, spec) for spec in expert.inputs]
    black = {
        tensor.pop("name"): tensor | {"zero_data": Word("true")} for tensor in map(dict, inputs)
    }
    return {
        "name": name,
        "backend": backend,
        "max_batch_size": profile.largest,
        "input": inputs,
        "output": [_expert_output(output, expert) for output in expert.outputs],
        "dynamic_batching": {
            "preferred_batch_size": sorted({profile.best, profile.largest}),
            "max_queue_delay_microseconds": scheduling.queue_delay_us,
        },
        "instance_group": [{"count": scheduling.instances, "kind": Word(kind)}],
        "model_warmup": [{"name": "black picture", "batch_size": 1, "inputs": _map(black)}],
    }


def fusion_config(experts: Mapping[str, Expert]) -> Config:
    """Returns the configuration of the fusion: predictions in, the estimate out."""
    specs = list(distinct_inputs(experts).values())
    inputs_of = {
        name: [specs.index(spec) for spec in expert.inputs] for name, expert in experts.items()
    }
    predictions = [_tensor(f"age_years.{name}", "TYPE_FP32", [1]) for name in experts]
    return {
        "name": FUSION,
        "backend": "python",
        "max_batch_size": _largest(experts),
        "input": [*predictions, _visible(len(specs))],
        "output": _estimate_outputs(len(experts)),
        "instance_group": [{"count": 1, "kind": Word("KIND_CPU")}],
        "parameters": [_parameter("experts", inputs_of)],
    }


def ensemble_config(experts: Mapping[str, Expert]) -> Config:
    """Returns the configuration of the whole: a picture per distinct input in, the estimate out.

    The parameters describe to a client how a crop becomes each input, and the order of the experts
    in `expert_years`, `corrected_years` and `weights`.
    """
    named = distinct_inputs(experts)
    name_of = {spec: name for name, spec in named.items()}
    predictions = {f"age_years.{name}": f"age_years.{name}" for name in experts}
    outputs = _estimate_outputs(len(experts))
    steps = [
        {
            "model_name": name,
            "model_version": -1,
            "input_map": _map({spec.name: name_of[spec] for spec in expert.inputs}),
            "output_map": _map({"age_years": f"age_years.{name}"}),
        }
        for name, expert in experts.items()
    ]
    fusion = {
        "model_name": FUSION,
        "model_version": -1,
        "input_map": _map({**predictions, "visible": "visible"}),
        "output_map": _map({output["name"]: output["name"] for output in outputs}),
    }
    return {
        "name": ENSEMBLE,
        "platform": "ensemble",
        "max_batch_size": _largest(experts),
        "input": [*(_picture(name, spec) for name, spec in named.items()), _visible(len(named))],
        "output": outputs,
        "ensemble_scheduling": {"step": [*steps, fusion]},
        "parameters": [
            _parameter("experts", list(experts)),
            *(_parameter(name, asdict(spec)) for name, spec in named.items()),
        ],
    }


def distinct_inputs(experts: Mapping[str, Expert]) -> dict[str, InputSpec]:
    """Returns the distinct inputs of all experts, named after their content and the experts.

    Experts with equal inputs share one, such as `face.resnet50.vgg16`.
    """
    users: dict[InputSpec, list[str]] = {}
    for name, expert in experts.items():
        for spec in expert.inputs:
            users.setdefault(spec, []).append(name)
    return {".".join((spec.name, *names)): spec for spec, names in users.items()}


def pbtxt(config: Mapping[str, Any], indent: str = "") -> str:
    """Returns a message in protobuf's text format."""
    return "".join(f"{indent}{key}{_value(value, indent)}\n" for key, value in config.items())


def _value(value: object, indent: str) -> str:
    if isinstance(value, Mapping):
        return f" {_message(value, indent)}"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        inner = indent + "  "
        messages = ",\n".join(f"{inner}{_message(element, inner)}" for element in value)
        return f" [\n{messages}\n{indent}]"
    if isinstance(value, list):
        return f": [{', '.join(map(str, value))}]"
    if isinstance(value, Word | int):
        return f": {value}"
    return f": {json.dumps(value, ensure_ascii=False)}"


def _message(value: Mapping[str, Any], indent: str) -> str:
    return f"{{\n{pbtxt(value, indent + '  ')}{indent}}}"


def _tensor(name: str, data_type: str, dims: Sequence[int]) -> Config:
    return {"name": name, "data_type": Word(data_type), "dims": list(dims)}


def _picture(name: str, spec: InputSpec) -> Config:
    return _tensor(name, "TYPE_UINT8", [spec.height, spec.width, 3])


def _visible(inputs: int) -> Config:
    """Returns the flags of the visible pictures, in the order of the ensemble's inputs."""
    return _tensor("visible", "TYPE_BOOL", [inputs])


def _expert_output(name: str, expert: Expert) -> Config:
    _, *columns = output_shape(name, 0, expert.age_grid)
    if columns:
        return _tensor(name, "TYPE_FP32", columns)
    # The graph has (N,); Triton does not allow a tensor without dims and reshapes it to (N, 1).
    return {**_tensor(name, "TYPE_FP32", [1]), "reshape": {"shape": []}}


def _estimate_outputs(experts: int) -> list[Config]:
    columns = dict.fromkeys(("age_years", "low_years", "high_years"), 1)
    columns |= dict.fromkeys(("expert_years", "corrected_years", "weights"), experts)
    return [_tensor(name, "TYPE_FP64", [count]) for name, count in columns.items()]


def _largest(experts: Mapping[str, Expert]) -> int:
    return min(expert.profile.largest for expert in experts.values())


def _map(pairs: Mapping[str, object]) -> list[Config]:
    return [{"key": key, "value": value} for key, value in pairs.items()]


def _parameter(key: str, value: object) -> Config:
    return {"key": key, "value": {"string_value": json.dumps(value)}}
