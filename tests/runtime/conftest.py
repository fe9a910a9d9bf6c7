"""Processes for decoding, shared or replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from runtime.decoding import DecoderPool
from tests.runtime.decoders import fake_decoders


@pytest.fixture(scope="module")
def shared() -> Iterator[DecoderPool]:
    """Two processes."""
    with DecoderPool(2) as decoders:
        decoders.start()
        yield decoders


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the next processes that start run other code."""
    return partial(fake_decoders, monkeypatch)
