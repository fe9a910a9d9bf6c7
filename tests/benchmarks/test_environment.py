"""Load of the machine before a measurement."""

from __future__ import annotations

from benchmarks.environment import busy


def test_busy_from_a_load_of_half_a_program_per_core() -> None:
    assert busy([1.1, 0.0, 0.0], 2)
    assert not busy([0.9, 9.0, 9.0], 2)
