"""What this machine, or the container, lets its processes have."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """Those that this process may run on, or as many as its control groups grant the time of."""
    if sys.platform != "linux":  # there one worker is what is tried
        return 1
    return min([len(os.sched_getaffinity(0)), *quotas(root)])


def quotas(root: Path) -> Iterator[int]:
    """Cores whose time a group may use, rounded up."""
    for group in groups(root, "cpu"):
        texts = maybe_text(group / "cpu.max").split() or [
            maybe_text(group / "cpu.cfs_quota_us").strip(),
            maybe_text(group / "cpu.cfs_period_us").strip(),
        ]
        if all(text.isdigit() for text in texts):  # else `max`, or -1
            quota_us, period_us = map(int, texts)
            yield max(-(-quota_us // period_us), 1)


def groups(root: Path, controller: str) -> Iterator[Path]:
    """The control groups (v1 and v2) that this process is in, and those above them.

    In a container its own group stands at the mount's root.
    """
    mount = root / "sys/fs/cgroup"
    for line in maybe_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from upwards(mount, path)
        elif controller in controllers.split(","):
            yield from upwards(mount / controller, path)


def upwards(mount: Path, path: str) -> Iterator[Path]:
    group = mount / path.lstrip("/")
    for directory in (group, *group.parents):
        yield directory
        if directory == mount:
            return


def maybe_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
