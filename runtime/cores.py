"""Number of CPU cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Returns the number of cores this process may use, at least 1.

    That is the smaller of the cores in its affinity mask and the CPU quota of its cgroup, rounded
    up: a container limited to 1.5 CPUs computes on 2 cores.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(min(cores, math.ceil(quota)), 1)


def cpu_quota(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> float | None:
    """Returns the smallest CPU quota, in cores, of this process's cgroup and those above it.

    Source: the kernel's documentation of cgroups, `cpu.max` of version 2; `cpu.cfs_quota_us` and
    `cpu.cfs_period_us` of version 1.

    Args:
        root: where the cgroup file systems are mounted.
        membership: the process's `/proc/PID/cgroup`.

    Returns:
        None without a quota, and where there are no cgroups.
    """
    quotas = [_quota(folder) for folder in _folders(root, membership)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _folders(root: Path, membership: Path) -> list[Path]:
    """Returns the cgroup folders that may limit this process.

    Inside a container the path of the membership may be the host's, which does not exist there; the
    container's own cgroup is then mounted as the root.
    """
    folders: list[Path] = []
    for line in _text(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers if controllers else root
        below = top / path.lstrip("/")
        folders += [top, *(p for p in (below, *below.parents) if top in p.parents)]
    return folders


def _quota(folder: Path) -> float | None:
    """Returns the quota of one cgroup in cores; None if it has none."""
    words = _text(folder / "cpu.max").split() or [
        *_text(folder / "cpu.cfs_quota_us").split(),
        *_text(folder / "cpu.cfs_period_us").split(),
    ]
    try:
        limit, period = map(float, words)
    except ValueError:  # "max", or no such files
        return None
    return limit / period if limit > 0 and period > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
