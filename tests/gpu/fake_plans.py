"""Plans of the fake TensorRT: a header in JSON and an ONNX graph."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tests.gpu.fake_models import Model

Profile = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
_MAGIC = b"simulated TensorRT plan\n"


def plan_bytes(graph: bytes, *, profile: tuple[int, int, int] | Profile, **fields: Any) -> bytes:
    """Returns a plan: magic, length of the header, header, graph."""
    if not isinstance(profile, Mapping):
        model, batches = Model(graph), profile
        profile = {
            name: tuple(model.shape(name, batch) for batch in batches)  # type: ignore[misc]
            for name in model.inputs
        }
    header = fields | {"profile": profile, "sha256": hashlib.sha256(graph).hexdigest()}
    encoded = json.dumps(header).encode()
    return _MAGIC + len(encoded).to_bytes(8, "little") + encoded + graph


def parts(plan: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns header and graph."""
    if not plan.startswith(_MAGIC):
        raise ValueError("not a plan")
    start = len(_MAGIC) + 8
    end = start + int.from_bytes(plan[len(_MAGIC) : start], "little")
    return json.loads(plan[start:end]), plan[end:]
