"""The program as a whole: its name, its commands and those of other packages, its completion."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import runtime
from runtime import program
from runtime.__main__ import main
from runtime.commands import INTERRUPTED, run_command
from runtime.program import build_command, command_line, usage_name
from runtime.subcommands import GROUP, added_commands

ROOT = Path(__file__).parents[2]
MODULE = "python -m runtime"


@pytest.mark.parametrize(
    ("started", "checkout", "name"),
    [
        ("/usr/bin/agemoe", False, "agemoe"),
        ("env/bin/agemoe.exe", True, "agemoe"),
        ("/lib/site-packages/runtime/__main__.py", False, MODULE),
        ("-m", False, MODULE),
        ("export/calibrate.py", True, MODULE),
        ("other.py", False, "agemoe"),
    ],
)
def test_messages_name_the_command_as_it_can_be_typed_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, started: str, checkout: bool, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setattr(program, "PROJECT", Path(__file__) if checkout else tmp_path / "none")
    assert command_line("build --plan") == f"{name} build --plan"


@pytest.mark.parametrize(
    ("system", "folder", "options", "arguments"),
    [
        ("linux", None, {}, "build"),
        ("linux", Path("new"), {"precision": "auto"}, "build --output new"),
        ("linux", Path("my; it's"), {"only": "a"}, "build --only a --output 'my; it'\"'\"'s'"),
        ("win32", Path("my it"), {"precision": "int8"}, 'build --int8 --output "my it"'),
    ],
)
def test_the_command_that_rebuilds_names_the_folder_as_the_shell_takes_it(
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    folder: Path | None,
    options: dict[str, str],
    arguments: str,
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    found = build_command(folder, **options)
    assert found == command_line(arguments)


def test_usage_shows_the_file_that_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["../export/calibrate.py"])
    assert usage_name("calibrate", "/x/export/calibrate.py") == "python ../export/calibrate.py"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/agemoe"])
    assert usage_name("calibrate", "/x/export/calibrate.py") == "agemoe calibrate"


def stopped(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code, *capsys.readouterr()


def test_help_lists_the_commands_and_version_is_the_number_of_the_project(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, err = stopped(capsys, "--help")
    assert (status, err) == (0, "")
    for line in ("    predict ", "    serve ", "    completion ", "    build  ", "  130  "):
        assert f"\n{line}" in out
    assert stopped(capsys, "help") == (0, out, "")
    assert main([]) == 2
    assert capsys.readouterr() == ("", out)
    assert stopped(capsys, "help", "predict") == stopped(capsys, "predict", "--help")
    assert stopped(capsys, "--version") == (0, f"agemoe {runtime.__version__}\n", "")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "runtime/__init__.py"


@pytest.mark.parametrize(
    ("word", "cure"),
    [
        ("predcit", "Did you mean 'predict'?"),
        ("calibration", "Did you mean 'calibrate'?"),
        ("light.png", "For the ages in a photograph: python -m runtime predict light.png"),
        ("xyz", "There are predict, label, serve, doctor, audit, completion, build,"),
    ],
)
def test_a_word_that_is_no_command_is_an_error_with_a_cure(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    cure: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("light.png").touch()
    status, out, err = stopped(capsys, word, "--json")
    assert (status, out) == (2, "")
    assert f"there is no command {word!r}. {cure}" in err


def test_an_unknown_option_of_the_program_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = stopped(capsys, "-v")
    assert (status, out) == (2, "")
    assert err.endswith("error: unrecognized arguments: -v\n")


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, entries: str, modules: dict[str, str]
) -> None:
    """Makes a distribution with entry points and modules, as pip would install it."""
    record = folder / "other-1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (record / "entry_points.txt").write_text(f"[{GROUP}]\n{entries}\n")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()


def test_commands_of_other_packages_are_found_and_imported_only_when_used(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        tmp_path,
        monkeypatch,
        "greet = greeting_command\npredict = greeting_command\nbare = bare_command [export]\n"
        "absent = absent_command\n",
        {
            "greeting_command": '"""Greets."""\n'
            "def main(arguments):\n    print(arguments)\n    return 7",
            "bare_command": '"""Needs more."""\nimport surely_not_installed',
        },
    )
    _, out, _ = stopped(capsys, "--help")
    assert "    greet           greets\n" in out
    assert "    bare            needs more\n" in out
    assert "absent" not in out
    assert "greeting_command" not in sys.modules
    assert "predict" not in added_commands()
    assert main(["greet", "--much"]) == 7
    assert capsys.readouterr().out == "['--much']\n"
    assert main(["bare"]) == 1
    error = capsys.readouterr().err
    assert "The command bare needs the package 'surely_not_installed'" in error
    assert "pip install 'agemoe-runtime[export]'" in error
    assert "Traceback" not in error


def test_what_needs_no_large_package_loads_none(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom runtime.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "names = {name.partition('.')[0] for name in sys.modules} | set(sys.modules)\n"
        "large = {'torch', 'onnx', 'onnxruntime', 'cv2', 'scipy', 'shtab', 'fastapi'}\n"
        "large |= {'export.build_engines', 'export.calibrate', 'runtime.serving'}\n"
        "print('loaded:', sorted(names & large))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.endswith("loaded: []\n")
    assert "    build " in done.stdout


def test_the_installed_command_runs_no_module_of_the_working_directory(tmp_path: Path) -> None:
    command = tmp_path / "bin" / "agemoe"  # as pip writes it
    command.parent.mkdir()
    text = "import sys\nfrom runtime.__main__ import main\nsys.exit(main())\n"
    command.write_text(text, encoding="utf-8")
    (tmp_path / "runtime.py").write_text("raise SystemExit('the wrong runtime')")
    done = subprocess.run(
        [sys.executable, str(command), "predict", "--frames", "3"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: agemoe predict ")
    assert "agemoe predict: error: --frames belongs to --video" in done.stderr


def test_ctrl_c_is_status_130_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run_command(interrupted, interrupted="Interrupted: nothing was kept.") == INTERRUPTED
    assert capsys.readouterr().err == "Interrupted: nothing was kept.\n"


BASH = shutil.which("bash")


@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_bash_completes_commands_options_choices_and_paths(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    (tmp_path / "photos").mkdir()
    (tmp_path / "photo.jpg").touch()
    lines = ["lab", "predict --who", "label --faces ", "predict ph", "predict --engines ph",
             "build --weights r", "evaluate --max-f"]  # fmt: skip
    tries = "\n".join(
        f"try agemoe {line.rstrip()} {'' if line[-1] != ' ' else chr(34) * 2}" for line in lines
    )
    script = (
        capsys.readouterr().out
        + '\ntry() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()\n'
        + '_shtab_agemoe agemoe "${COMP_WORDS[COMP_CWORD]}"\n'
        + 'printf "%s;" "${COMPREPLY[@]}"; echo; }\n'
        + tries
    )
    assert BASH is not None
    done = subprocess.run(
        [BASH, "--norc", "-s"],
        input=script,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    found = [line.strip(";").split(";") for line in done.stdout.splitlines()]
    assert found == [
        ["label"],
        ["--whole"],
        ["photo", "whole"],
        ["photo.jpg", "photos"],
        ["photos"],
        ["random"],
        ["--max-false-positive"],
    ]


def test_completion_without_its_package_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "zsh"]) == 1
    assert "pip install 'agemoe-runtime[completion]'" in capsys.readouterr().err


def test_the_project_states_what_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [
        "runtime",
        "export",
    ]
    assert project["project"]["scripts"] == {"agemoe": "runtime.__main__:main"}
    extras = project["project"]["optional-dependencies"]
    for command in added_commands().values():
        assert callable(command.load().main)
        assert set(command.entry.extras) <= set(extras)
        assert command.summary()
