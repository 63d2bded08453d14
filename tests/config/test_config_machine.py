"""How many cores a process may use: those that it may run on, or as many as its control groups pay for."""

import os
from pathlib import Path

import pytest

from llmgw.config import fields
from llmgw.config.machine import cores

V2 = {"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n"}
V1 = {"proc/self/cgroup": "5:cpu,cpuacct:/pod/box\n4:memory:/box\n"}
OF_V1 = "sys/fs/cgroup/cpu/pod/box/cpu.cfs_"


def machine(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    "where", ["sys/fs/cgroup/pod/box/cpu.max", "sys/fs/cgroup/pod/cpu.max", "sys/fs/cgroup/cpu.max"]
)
@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("5000 100000", 1),
        ("9900000 100000", 8),
        ("max 100000", 8),
    ],
)
def test_the_quota_of_a_group_or_of_one_above_it_is_rounded_up(tmp_path, where, quota, count):
    assert cores(machine(tmp_path, V2 | {where: quota + "\n"})) == count


@pytest.mark.parametrize(("quota", "count"), [("250000", 3), ("-1", 8)])
def test_the_same_of_version_1(tmp_path, quota, count):
    files = {OF_V1 + "quota_us": quota + "\n", OF_V1 + "period_us": "100000\n"}
    assert cores(machine(tmp_path, V1 | files)) == count


def test_without_control_groups_every_core_counts(tmp_path):
    assert cores(tmp_path) == 8


def test_auto_is_a_worker_for_each(monkeypatch):
    monkeypatch.setattr(fields, "cores", lambda: 3)
    assert fields.worker_count("auto") == 3
