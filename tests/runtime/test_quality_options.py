"""Quality limits on the command lines."""

from __future__ import annotations

import argparse

import pytest

from runtime.quality import QualityLimits
from runtime.quality_options import add_no_face_option, add_quality_options, quality_limits


def test_options_become_limits() -> None:
    parser = argparse.ArgumentParser()
    add_quality_options(parser)
    add_no_face_option(parser)
    assert quality_limits(parser.parse_args([]), require_face=True) == QualityLimits()
    sizes = ["--min-face-pixels", "40", "--min-inter-eye", "20"]
    given = [*sizes, "--min-sharpness", "9", "--min-contrast", "5"]
    parsed = parser.parse_args([*given, "--max-yaw", "30", "--max-cut-off", "0.2"])
    assert quality_limits(parsed, require_face=False) == QualityLimits(
        False, 40, 20, 9, 5, max_yaw_degrees=30, max_cut_off=0.2
    )


@pytest.mark.parametrize(
    "wrong",
    [["--min-sharpness", "-1"], ["--max-cut-off", "1.5"], ["--max-yaw", "nan"], ["--max-yaw", "x"]],
)
def test_options_out_of_range_are_usage_errors(
    capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_quality_options(parser)
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(wrong)
    assert stopped.value.code == 2
    assert f"argument {wrong[0]}: must be a number within 0.." in capsys.readouterr().err
