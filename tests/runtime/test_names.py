"""Names of devices, precisions and the like: errors that name the valid ones and the nearest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime import AgeMoE, BackendError, GpuOptions, PrecisionWarning
from runtime.arguments import parsed_arguments
from runtime.backends.names import parse_device
from runtime.json_reader import JsonReader, one_of
from runtime.labeling import LabelJob
from tests.gpu.simulator import simulated_gpu
from tests.runtime.tiny_engines import Tiny, write_engines


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    return write_engines(tmp_path / "engines", {"resnet50": Tiny(), "vgg16": Tiny()})


PRECISIONS = "there are auto, fp32, fp16, bf16 and int8."
DEVICES = "there are auto, cpu, cuda, cuda:N, tensorrt and tensorrt:N."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"precision": "half"},
            f"precision='half' was requested; {PRECISIONS} Did you mean 'fp16'?",
        ),
        (
            {"precision": "FP16"},
            f"precision='FP16' was requested; {PRECISIONS} Did you mean 'fp16'?",
        ),
        ({"precision": "float16"}, "Did you mean 'fp16'?"),
        ({"precision": "bfloat16"}, "Did you mean 'bf16'?"),
        ({"precision": "fp64"}, "Did you mean 'fp"),
        ({"precision": 16}, f"precision=16 was requested; {PRECISIONS} Did you mean 'fp16'?"),
        ({"precision": "quick"}, f"precision='quick' was requested; {PRECISIONS}"),
        ({"device": "GPU"}, f"device='GPU' was requested; {DEVICES} Did you mean 'cuda'?"),
        ({"device": "CUDA:0"}, "device='CUDA:0' was requested; there are"),
        ({"device": "CUDA:0"}, "Did you mean 'cuda:0'?"),
        ({"device": "cuda:-1"}, "Did you mean 'cuda:0'?"),
        ({"device": "trt"}, "Did you mean 'tensorrt'?"),
        ({"device": 0}, f"device=0 was requested; {DEVICES} Use device='auto'."),
        ({"device": "cuda:" + "9" * 5000}, "was requested; there are auto, cpu"),
        ({"experts": ["VGG16"]}, "holds resnet50, vgg16. Did you mean 'vgg16'?"),
        ({"experts": "vgg16"}, "holds resnet50, vgg16. Give a list of names."),
        ({"detector": "CenterFace"}, "got 'CenterFace'. Did you mean 'centerface'?"),
        ({"detector": 5}, "centerface:MODEL, yunet:MODEL or haar, got '5'."),
        ({"detector": "yunet"}, "got 'yunet'. Did you mean 'yunet:MODEL'?"),
        (
            {"concurrency": "lane"},
            "concurrency='lane' was requested; there are auto, lanes and seq",
        ),
    ],
)
def test_the_error_of_a_wrong_name(engines: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((BackendError, ValueError)) as caught:
        AgeMoE(engines, **options)
    assert message in str(caught.value)


def test_names_are_checked_before_the_engines_are_read(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="Did you mean 'fp16'"):
        AgeMoE(tmp_path / "none", precision="FP16")


@pytest.mark.parametrize(
    ("option", "name", "hint"),
    [
        ("--precision", "half", "choose from auto, fp32, fp16, bf16, int8). Did you mean 'fp16'?"),
        ("--device", "CUDA:1", f"device='CUDA:1' was requested; {DEVICES} Did you mean 'cuda:0'?"),
    ],
)
def test_a_wrong_name_on_a_command_line_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], option: str, name: str, hint: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        parsed_arguments("predict", ["a.jpg", option, name])
    assert caught.value.code == 2
    assert hint in capsys.readouterr().err


def test_a_missing_gpu_is_told_with_those_that_are_there(engines: Path) -> None:
    with simulated_gpu():
        for device in ("cuda:99", "tensorrt:99"):
            with pytest.raises(
                BackendError,
                match=rf"^device='{device}' was requested\. .*finds 1 CUDA device: cuda:0\.",
            ):
                AgeMoE(engines, device=device)
        with pytest.raises(BackendError, match=r"Did you mean 'cuda'\? .* 1 CUDA device: cuda:0\."):
            parse_device("gpu")
    with simulated_gpu(devices=0), pytest.raises(BackendError, match="no usable CUDA device"):
        parse_device("gpu")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            lambda: GpuOptions(on_mismatch="Fallback"),
            "there are error and fallback. Did you mean 'f",
        ),
        (lambda: LabelJob(faces="photos"), "there are photo and whole. Did you mean 'photo'"),
    ],
)
def test_other_names(use: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        use()


def test_choices_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parsed_arguments("label", ["x", "--output", "a.csv", "--faces", "Photo"])
    assert "invalid choice: 'Photo' (choose from photo, whole). Did you mean 'photo'?" in (
        capsys.readouterr().err
    )


def test_names_in_files() -> None:
    problems: list[str] = []
    reader = JsonReader({"fit": "Stretch", "hight": 5}, "", problems)
    reader.child("fit").choice(("stretch", "align"))
    reader.only(("fit", "height"))
    assert problems == [
        "fit: must be one of stretch, align, got 'Stretch'; did you mean 'stretch'?",
        "unknown key hight; known: fit, height; did you mean 'height'?",
    ]
    assert one_of(("NCHW", "NHWC"))("nchw") == "must be one of NCHW, NHWC; did you mean 'NCHW'?"


def test_another_precision_than_requested_is_a_warning(engines: Path) -> None:
    """As docs/cpu.md states."""
    with pytest.warns(PrecisionWarning) as caught:
        AgeMoE(engines, precision="bf16", device="cpu").close()
    (warning,) = caught
    assert str(warning.message) == (
        "precision='bf16' was requested, but expert 'resnet50' runs in fp32 and expert 'vgg16' "
        "runs in fp32: there is no bf16 variant for this device. Rebuild: python -m runtime "
        f"build --bf16 --output {engines}"
    )
    assert warning.filename.endswith("test_names.py")
