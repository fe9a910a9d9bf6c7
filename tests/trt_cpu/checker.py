"""Parses an ONNX file with NVIDIA's parser and builds a plan, in a separate process.

    python checker.py model.onnx

The last line of output is a JSON object with the fields of `TrtReport`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import tensorrt_bindings as trt  # type: ignore[import-not-found]

BATCHES = (1, 4, 8)


def main(path: str) -> None:
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(path)
    report = describe(network)
    report["errors"] = [str(parser.get_error(i)) for i in range(parser.num_errors)]
    report["plan_bytes"] = plan_bytes(builder, network) if parsed else 0
    print(json.dumps(report))  # noqa: T201


def describe(network: trt.INetworkDefinition) -> dict[str, Any]:
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    dtypes = [[x.get_output(j).dtype.name for j in range(x.num_outputs)] for x in layers]
    return {
        "layers": len(layers),
        "int64_layers": sum("INT64" in names for names in dtypes),
        "dtype_counts": Counter(name for names in dtypes for name in names),
    }


def plan_bytes(builder: trt.Builder, network: trt.INetworkDefinition) -> int:
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shapes = [(batch, *list(tensor.shape)[1:]) for batch in BATCHES]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return 0 if plan is None else int(plan.nbytes)


if __name__ == "__main__":
    main(sys.argv[1])
