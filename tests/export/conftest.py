"""Keeps networks that PyTorch's exporter traces, for seconds each, out of the quick tests."""

from __future__ import annotations

from collections.abc import Generator
from unittest import mock

import pytest

_NOT_QUICK = ("conversion", "slow", "gpu", "tensorrt", "public")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Fails a quick test that traces a network, and its fixtures."""
    if any(item.get_closest_marker(marker) for marker in _NOT_QUICK):
        return (yield)
    error = AssertionError("This test traces a network: it needs the marker `conversion`.")
    with mock.patch("torch.onnx.export", side_effect=error):
        return (yield)
