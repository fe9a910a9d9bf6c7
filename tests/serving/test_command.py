"""The command line of `serve` and the key file."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.serving.command import main
from runtime.serving.keys import KeyFileError, find_key, read_keys
from runtime.serving.server import Shutdown
from runtime.serving.settings import Batching, Limits, Settings
from tests.serving.live import engines_in


def test_options_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[object] = []

    def run(*args: object) -> int:
        received.extend(args)
        return 0

    monkeypatch.setattr("runtime.serving.server.run", run)
    options = "--engines e --device cpu --keys k --host 0.0.0.0 --port 9 --max-faces 5"
    assert (
        main(
            [
                *options.split(),
                "--max-body-seconds",
                "2.5",
                "--workers",
                "3",
                "--notice-seconds",
                "4",
            ]
        )
        == 0
    )
    settings = Settings(
        Path("e"),
        device="cpu",
        keys=Path("k"),
        limits=Limits(faces=5, body_seconds=2.5),
        batching=Batching(workers=3),
    )
    assert received == [settings, "0.0.0.0", 9, Shutdown(4.0, 30.0)]  # noqa: S104
    assert main([]) == 0
    local = Settings(allowed_hosts=("localhost", "127.0.0.1", "[::1]"))
    assert received[4:] == [local, "127.0.0.1", 8000, Shutdown()]
    assert main(["--allowed-hosts", "Ages.example"]) == 0
    assert received[8] == Settings(allowed_hosts=("ages.example",))
    assert main(["--allowed-origins", "*", "--without-keys"]) == 0
    assert received[12] == replace(local, allowed_origins=("*",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--host 0.0.0.0", "accepts connections from other machines, and there are no API keys"),
        ("--host example.org", "accepts connections from other machines"),
        ("--keys nowhere", "The key file nowhere cannot be read"),
        ("--engines nowhere", "manifest.json"),
        ("--allowed-origins *", "lets the scripts of every web page"),
        ("--without-keys --allowed-origins * https://a.example", "leave out the others"),
        ("--allowed-origins https://a.example/", "it ends in a slash or has a path"),
        ("--max-faces 300", "A request may have 300 faces, but the queue holds only 256"),
    ],
)
def test_startup_errors_are_reported(
    options: str, message: str, capsys: pytest.CaptureFixture[str], empty_folder: Path
) -> None:
    assert empty_folder
    assert main(["--port", "0", *options.split()]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "options",
    [
        ["--port", "99999"],
        ["--port", "-1"],
        ["--new-key", "a b"],
        ["--new-key", "a#b"],
        ["--detector", "nose"],
    ],
)
def test_invalid_arguments_are_usage_errors(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2
    assert f"got '{options[1]}'" in capsys.readouterr().err


def test_broken_engines_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engines = engines_in(tmp_path / "engines")
    (engines / "a" / "a.fp32.onnx").write_bytes(b"")
    assert main(["--engines", str(engines), "--port", "0"]) == 1
    assert "has 0 bytes, the manifest lists" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "role"), [([], "user"), (["--admin"], "admin")])
def test_new_keys(
    flags: list[str], role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--new-key", "phone", *flags]) == 0
    first, second = capsys.readouterr().out.splitlines()
    secret = first.rpartition(" ")[2]
    (tmp_path / "keys").write_text(second.partition(": ")[2])
    (key,) = keys = read_keys(tmp_path / "keys")
    assert (key.name, key.role) == ("phone", role)
    assert key.digest == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in second
    assert find_key(keys, secret) == key
    assert find_key(keys, secret[:-1]) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no key found"),
        ("# comment\n", "no key found"),
        ("app user secret", "line 1 is not a key"),
        (f"app king {'0' * 64}", "line 1 is not a key"),
        (f"a\tuser\t{'5' * 64}\napp user", "line 2 is not a key"),
    ],
)
def test_invalid_key_files_are_rejected(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(KeyFileError, match=message):
        read_keys(tmp_path / "keys")


def test_a_port_behind_the_host_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--host", "127.0.0.1:8000"])
    assert "give the port as --port" in capsys.readouterr().err
