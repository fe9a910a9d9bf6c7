from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from export.build.experts_file import DEFAULT_EXPERTS, DEMO_EXPERTS, read_experts
from export.build.options import resolve_options
from export.config.settings import GEOMETRY_KEYS, WHOLE_YEARS
from export.errors import OptionsError
from export.experts.cnn.settings import CnnSettings
from export.experts.onnx_file.settings import OnnxSettings
from runtime.geometry import Geometry, Resize


def read(tmp_path: Path, text: str) -> tuple[dict[str, object], list[str]]:
    path = tmp_path / "experts.toml"
    path.write_text(text)
    problems: list[str] = []
    return dict(read_experts(path, problems)), problems


@pytest.mark.parametrize("path", [DEFAULT_EXPERTS, DEMO_EXPERTS])
def test_shipped_files_are_valid(path: Path) -> None:
    problems: list[str] = []
    experts = read_experts(path, problems)
    assert not problems
    assert {"vgg16", "resnet50"} <= set(experts)


def test_the_commented_lines_of_the_example_are_valid_too(tmp_path: Path) -> None:
    text = DEFAULT_EXPERTS.read_text()
    start = text.index("# [experts.mine]")
    lines = text[start:].split("\n\n")[0].splitlines()
    uncommented = "\n".join(line.removeprefix("# ") for line in lines if not line.startswith("# #"))
    experts, problems = read(tmp_path, uncommented)
    assert not problems
    settings = experts["mine"].settings  # type: ignore[attr-defined]
    assert isinstance(settings, OnnxSettings)
    assert settings.normalization.color_order == "BGR"
    assert settings.head.years_per_unit == 100.0


def test_the_commented_example_of_an_aligned_expert_is_valid_too(tmp_path: Path) -> None:
    text = DEFAULT_EXPERTS.read_text()
    lines = text[text.index("# [experts.aligned]") :].split("\n\n")[0].splitlines()
    experts, problems = read(tmp_path, "\n".join(line.removeprefix("# ") for line in lines))
    assert not problems
    geometry = experts["aligned"].geometry  # type: ignore[attr-defined]
    assert geometry.fit == "align"
    assert geometry.template[2] == (56.0252, 71.7366)


def test_example_and_built_in_defaults_agree(tmp_path: Path) -> None:
    shipped = read_experts(DEFAULT_EXPERTS, [])["vgg16"]
    bare, _ = read(tmp_path, "[experts.vgg16]\narchitecture = 'vgg16'\n")
    assert bare["vgg16"] == shipped


def test_every_problem_is_reported_at_once_with_file_and_key(tmp_path: Path) -> None:
    _, problems = read(
        tmp_path,
        """
        [experts.a]
        architecture = "vgg16"
        hed = "regression"
        age_grid = [3, 3]
        std = [0.2, 0.2, 0.0]
        width_factor = 2
        [experts.a.geometry]
        fit = "squash"
        crop_margin = -1
        pad_color = [0, 0, 256]
        [experts.b]
        architecture = "alexnet"
        unknown = 1
        [experts.c]
        architecture = "resnet50"
        head = "regression"
        age_grid = "0..100"
        input_size = [224]
        [experts.D]
        architecture = "onnx"
        probabilities = true
        head = "regression"
        [experts.nul]
        architecture = "VGG-16"
        """,
    )
    text = "\n".join(problems)
    for expected in (
        "experts.a: unknown key hed",
        "experts.a.age_grid: must hold 2 to 2001 different ages",
        "experts.a.std: must be positive",
        "experts.a.width_factor: must be within (0, 1]",
        "experts.a.geometry.fit: must be one of stretch",
        "experts.a.geometry.crop_margin: must be within 0..10",
        "experts.a.geometry.pad_color: must be three numbers within 0..255",
        "experts.b.architecture: must be one of vgg16",
        "experts.c.age_grid: belongs to head = 'expectation'",
        "experts.c.input_size: must be one number or [height, width]",
        "experts.D: must be lower-case letters",
        "experts.nul: Windows reserves this name for a device; choose another",
        "mivolo, got 'VGG-16'; did you mean 'vgg16'?",
        "experts.D.probabilities: needs head = 'expectation'",
    ):
        assert expected in text
    assert "unknown key unknown" not in text  # an unknown architecture is the only problem
    assert all(problem.startswith(str(tmp_path / "experts.toml")) for problem in problems)


TEMPLATE = "[[18.28, 17.47], [44.61, 17.36], [31.05, 31.43], [20.1, 43.0], [41.79, 42.84]]"


def test_every_key_of_a_geometry(tmp_path: Path) -> None:
    """The golden reading of `[experts.NAME.geometry]`, which the presets depend on."""
    experts, problems = read(
        tmp_path,
        f"""
        [experts.crop]
        architecture = "onnx"
        [experts.crop.geometry]
        crop_margin = 0.25
        margins = [0, -0.05, 0.5, -0.3]
        offset = [0.1, -0.2]
        before = [{{ resize = [20, 30], interpolation = "opencv_area" }}]
        fit = "pad_square"
        interpolation = "opencv_area"
        border = "replicate"
        pad_color = [1, 2, 3]
        [experts.align]
        architecture = "onnx"
        [experts.align.geometry]
        fit = "align"
        template = {TEMPLATE}
        interpolation = "opencv_area"
        """,
    )
    assert not problems
    crop, align = (experts[name].geometry for name in experts)  # type: ignore[attr-defined]
    assert crop == Geometry(
        crop_margin=0.25,
        fit="pad_square",
        interpolation="opencv_area",
        pad_color=(1, 2, 3),
        before=(Resize(20, 30, "opencv_area"),),
        margins=(0.0, -0.05, 0.5, -0.3),
        offset=(0.1, -0.2),
        border="replicate",
    )
    points = ((18.28, 17.47), (44.61, 17.36), (31.05, 31.43), (20.1, 43.0), (41.79, 42.84))
    assert align == Geometry(fit="align", interpolation="opencv_area", template=points)
    assert {field.name for field in fields(Geometry)} - set(GEOMETRY_KEYS) == {
        *("edges", "erase_face", "min_side", "min_visible_share", "rounding")
    }


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("margins = [0, 0, 0]", "geometry.margins: must hold 4 numbers, got 3"),
        ("margins = [0, -1.5, 0, 0]", "geometry.margins: must be within -1..10"),
        ("margins = [-0.5, 0, -0.5, 0]", "geometry.margins: must leave 5% of the box"),
        ("offset = [0]", "geometry.offset: must hold 2 numbers, got 1"),
        ("offset = [11, 0]", "geometry.offset: must be within -10..10"),
        ("border = 'mirror'", "geometry.border: must be one of color, replicate"),
        (f"template = {TEMPLATE}", "geometry.template: belongs to fit = 'align'"),
        ("fit = 'align'\ninterpolation = 'opencv_area'", "geometry.template: is needed by fit"),
        (
            "fit = 'align'\ninterpolation = 'opencv_area'\ntemplate = [[1, 2], [3, 4]]",
            "geometry.template: must hold five points",
        ),
        (
            "fit = 'align'\ninterpolation = 'opencv_area'\ntemplate = [[1], 2, [3, 4, 5], [], 0]",
            "geometry.template[0]: must hold 2 numbers, got 1",
        ),
        (
            f"fit = 'align'\ntemplate = {TEMPLATE}",
            "geometry.interpolation: must be one of opencv_area, opencv_bilinear, opencv_bicubic",
        ),
        (
            f"fit = 'align'\ninterpolation = 'opencv_area'\ncrop_margin = 1\ntemplate = {TEMPLATE}",
            "geometry.margins: has no effect with fit = 'align'",
        ),
    ],
)
def test_problems_of_a_geometry(tmp_path: Path, lines: str, problem: str) -> None:
    _, problems = read(
        tmp_path, f"[experts.a]\narchitecture = 'onnx'\n[experts.a.geometry]\n{lines}"
    )
    assert any(problem in found for found in problems), problems


def test_mivolo_and_janus_are_not_aligned(tmp_path: Path) -> None:
    align = f"fit = 'align'\ninterpolation = 'opencv_area'\ntemplate = {TEMPLATE}"
    for architecture, problem in (("mivolo", "takes crops"), ("janus", "comes from the check")):
        _, problems = read(
            tmp_path,
            f"[experts.a]\narchitecture = '{architecture}'\n[experts.a.geometry]\n{align}",
        )
        assert any(problem in found for found in problems)


def test_damaged_toml_is_a_problem(tmp_path: Path) -> None:
    _, problems = read(tmp_path, "[experts.vgg16\n")
    assert len(problems) == 1
    assert "cannot be read" in problems[0]


@pytest.mark.parametrize(
    ("architecture", "line", "problem"),
    [
        ("resnet50", "stride_on = '7x7'", "stride_on: must be one of 3x3, 1x1"),
        ("resnet50", "pooling = 'adaptive'", "pooling: must be one of padded, caffe"),
        ("vgg16", "pooling = 'caffe'", "pooling: must be one of average, adaptive"),
        ("vgg16", "stride_on = '1x1'", "unknown key stride_on"),
        ("vgg16", "round_years = 1", "round_years: must be true or false"),
        ("onnx", "head = 'regression'\nround_years = true", "belongs to head = 'expectation'"),
    ],
)
def test_keys_of_layouts_and_rounding(
    tmp_path: Path, architecture: str, line: str, problem: str
) -> None:
    _, problems = read(tmp_path, f"[experts.a]\narchitecture = '{architecture}'\n{line}")
    assert len(problems) == 1
    assert problem in problems[0]


def test_settings_remember_the_keys_that_a_checkpoint_could_give(tmp_path: Path) -> None:
    experts, problems = read(
        tmp_path,
        "[experts.a]\narchitecture = 'resnet50'\nstd = [1, 1, 1]\npooling = 'caffe'\n"
        "stride_on = '1x1'\nround_years = true\n"
        "[experts.a.geometry]\nfit = 'stretch'\ninterpolation = 'opencv_bilinear'\n"
        "[experts.b]\narchitecture = 'vgg16'\n[experts.b.geometry]\nfit = 'stretch'",
    )
    assert not problems
    first, second = (experts[name].settings for name in "ab")  # type: ignore[attr-defined]
    assert isinstance(first, CnnSettings)
    assert first.given == ("std", "interpolation")
    assert (first.pooling, first.stride_on, first.head.round_years) == ("caffe", "1x1", True)
    assert (second.given, second.pooling, second.head.round_years) == ((), None, False)


def test_the_built_in_experts_leave_preprocessing_to_a_checkpoint_that_gives_it() -> None:
    experts = read_experts(DEFAULT_EXPERTS, [])
    assert experts["vgg16"].settings.given == experts["resnet50"].settings.given == ()


@pytest.mark.parametrize(
    ("text", "grid"),
    [
        ('"0..100"', WHOLE_YEARS),
        ('"18..21"', (18.0, 19.0, 20.0, 21.0)),
        ("[1, 2.5]", (1.0, 2.5)),
        ("[10, 2, 1]", (10.0, 2.0, 1.0)),
        ("\"8..11\"\nclass_order = 'text'", (10.0, 11.0, 8.0, 9.0)),
    ],
)
def test_age_grids(tmp_path: Path, text: str, grid: tuple[float, ...]) -> None:
    experts, problems = read(
        tmp_path, f"[experts.a]\narchitecture = 'vgg16'\nage_grid = {text}\ninput_size = [96, 64]"
    )
    assert not problems
    settings = experts["a"].settings  # type: ignore[attr-defined]
    assert isinstance(settings, CnnSettings)
    assert settings.head.age_grid == grid
    assert (settings.height, settings.width) == (96, 64)


def test_a_checkpoint_on_the_command_line_selects_the_built_in_experts(tmp_path: Path) -> None:
    weights = tmp_path / "vgg16.safetensors"
    weights.touch()
    options = resolve_options(
        output=tmp_path, checkpoints=[f"vgg16={weights}"], only=["vgg16"], fp16=True
    )
    assert options.weights == "checkpoint"
    assert [expert.checkpoint for expert in options.experts] == [str(weights)]
    assert options.precisions_of(options.experts[0]) == ("fp32", "fp16")
    assert options.partial


def test_only_built_in_experts_with_checkpoints_are_built(tmp_path: Path) -> None:
    weights = tmp_path / "vgg16.safetensors"
    weights.touch()
    options = resolve_options(output=tmp_path, checkpoints=[f"vgg16={weights}"])
    assert [expert.name for expert in options.experts] == ["vgg16"]
    assert options.partial  # experts of earlier builds are kept


def test_an_unreadable_file_is_the_only_problem(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="cannot be read") as caught:
        resolve_options(output=tmp_path, experts_file=tmp_path / "none.toml", only=["vgg16"])
    assert len(caught.value.problems) == 1


def test_relative_checkpoints_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    experts, _ = read(tmp_path, "[experts.a]\narchitecture = 'vgg16'\ncheckpoint = 'w.pth'")
    assert experts["a"].checkpoint == str(tmp_path / "w.pth")  # type: ignore[attr-defined]
    options = resolve_options(output=tmp_path, experts_file=tmp_path / "experts.toml")
    assert options.weights == "checkpoint"


def test_random_weights_drop_checkpoints(tmp_path: Path) -> None:
    options = resolve_options(output=tmp_path, weights="random", only=["resnet50"])
    assert [(e.name, e.checkpoint) for e in options.experts] == [("resnet50", None)]


def test_contradictions_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(OptionsError) as caught:
        resolve_options(
            output=tmp_path,
            checkpoints=["vgg16", "unknown=x", "resnet50=/nowhere.pth", "resnet50=again"],
            only=["vgg61"],
            max_batch=0,
        )
    text = str(caught.value)
    for expected in (
        "--checkpoint: must be like vgg16=PATH, got 'vgg16'",
        "--checkpoint unknown: no such expert",
        "--checkpoint resnet50: given twice",
        "--only vgg61: no such expert; there are vgg16",
        "--max-batch: must be at least 1, got 0",
    ):
        assert expected in text


def test_missing_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionsError) as caught:
        resolve_options(
            output=tmp_path, checkpoints=["vgg16=/nowhere.pth"], only=["vgg16", "resnet50"]
        )
    assert "experts.vgg16.checkpoint: there is nothing at /nowhere.pth" in str(caught.value)
    assert "experts.resnet50.checkpoint: missing" in str(caught.value)


@pytest.mark.parametrize("weights", ["demo", "random"])
def test_weights_contradict_checkpoints(tmp_path: Path, weights: str) -> None:
    with pytest.raises(OptionsError, match=f"--weights {weights}: contradicts --checkpoint"):
        resolve_options(output=tmp_path, weights=weights, checkpoints=["vgg16=x"])


def test_a_given_onnx_file_has_no_random_weights(tmp_path: Path) -> None:
    read(tmp_path, "[experts.a]\narchitecture = 'onnx'\ncheckpoint = 'a.onnx'")
    with pytest.raises(OptionsError, match=r"experts\.a: a given ONNX file has no random"):
        resolve_options(output=tmp_path, experts_file=tmp_path / "experts.toml", weights="random")
