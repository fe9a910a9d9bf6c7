from __future__ import annotations

from pathlib import Path

import pytest

from runtime import cores
from runtime.cores import cpu_quota, usable_cores


def cgroups(root: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    listed = root / "membership"
    listed.write_text(membership)
    return root, listed


V1 = "4:memory:/a\n3:cpu,cpuacct:/docker/abc\n"
QUOTA, PERIOD = "cpu.cfs_quota_us", "cpu.cfs_period_us"
QUOTAS: list[tuple[str, dict[str, str], float | None]] = [
    ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 0.5),
    ("0::/a/b\n", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "200000 100000"}, 2.0),
    ("0::/not/here\n", {"cpu.max": "200000 100000"}, 2.0),
    ("0::/../../x\n", {"cpu.max": "200000 100000"}, 2.0),
    (V1, {f"cpu,cpuacct/{QUOTA}": "250000", f"cpu,cpuacct/{PERIOD}": "100000"}, 2.5),
    (
        V1,
        {
            f"cpu,cpuacct/docker/abc/{QUOTA}": "100000",
            f"cpu,cpuacct/docker/abc/{PERIOD}": "50000",
            f"cpu,cpuacct/{QUOTA}": "-1",
            f"cpu,cpuacct/{PERIOD}": "100000",
        },
        2.0,
    ),
    (V1, {f"cpu,cpuacct/{QUOTA}": "-1", f"cpu,cpuacct/{PERIOD}": "100000"}, None),
    ("", {}, None),
    ("nonsense\n::\n0\n", {"cpu.max": "x y z"}, None),
]


@pytest.mark.parametrize(("membership", "files", "quota"), QUOTAS)
def test_the_quota_of_a_container(
    tmp_path: Path, membership: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(*cgroups(tmp_path, membership, files)) == quota


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path / "none", tmp_path / "no membership") is None


@pytest.mark.parametrize(("quota", "used"), [(None, 8), (0.2, 1), (1.5, 2), (4.0, 4), (64.0, 8)])
def test_the_smaller_of_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, used: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert usable_cores() == used
