"""Base64 of pictures is decoded in steps."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from runtime.serving.schemas import AgesRequest


@pytest.mark.parametrize("size", [0, 1, 196_607, 196_608, 196_609, 800_001])
def test_base64_of_any_length_is_decoded_in_steps(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    text = base64.b64encode(data).decode()
    wrapped = "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    url_safe = base64.urlsafe_b64encode(data).decode().rstrip("=")
    for spelling in (text, wrapped, url_safe):
        assert AgesRequest.model_validate({"images": [spelling]}).images == [data]
