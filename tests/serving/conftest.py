"""The service shared by most tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runtime.quality import QualityLimits
from runtime.serving.settings import Settings
from tests.conftest import has_haar
from tests.serving.live import Live, engines_in, serving


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with default limits, shared by the tests of a module."""
    engines = engines_in(tmp_path_factory.mktemp("served") / "engines")
    # The pictures are noise, in which a detector that finds landmarks finds no face.
    quality = QualityLimits(require_face=has_haar())
    with serving(Settings(engines, quality=quality)) as running:
        yield running
