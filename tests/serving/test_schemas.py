"""Base64 of pictures is decoded in steps."""

from __future__ import annotations

import base64
import tracemalloc

import numpy as np
import pytest
from pydantic import ValidationError

from runtime.serving.base64_text import decoded_base64
from runtime.serving.schemas import AgesRequest


@pytest.mark.parametrize("size", [0, 1, 196_607, 196_608, 196_609, 800_001])
def test_base64_of_any_length_is_decoded_in_steps(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    text = base64.b64encode(data).decode()
    wrapped = "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    url_safe = base64.urlsafe_b64encode(data).decode().rstrip("=")
    for spelling in (text, wrapped, url_safe):
        assert AgesRequest.model_validate({"images": [spelling]}).images == [data]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("QQ==QQ==", "padding before the end"),
        ("Q" * (1 << 18) + "==" + "Q" * 4, "padding before the end"),
        ("Q" * ((1 << 18) - 1) + "=" + "\n=QQ", "padding before the end"),
        ("QQ=" + " " * (1 << 18) + "Q", "padding before the end"),
        ("Q", "not base64"),
        ("Q" * (1 << 18) + "Q", "not base64"),
        ("é", "other than ASCII"),
        ("data:" + "x" * 300 + ";base64,QQ==", "not a data URI"),
        ("data:image/png,QQ==", "not a data URI"),
    ],
)
def test_what_is_no_base64_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        AgesRequest.model_validate({"images": [text]})


def test_padding_may_be_spread_over_steps() -> None:
    for text in ("QQ" + "=" * (1 << 19), "QQ=" + "\n" * (1 << 19) + "=", "data:;base64,QQ"):
        assert AgesRequest.model_validate({"images": [text]}).images == [b"A"]


def test_decoding_holds_little_beside_the_picture() -> None:
    """The text itself, which the caller holds, is not copied."""
    text = base64.b64encode(bytes(12_000_000)).decode()
    tracemalloc.start()
    try:
        assert len(decoded_base64(text)) == 12_000_000
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()
