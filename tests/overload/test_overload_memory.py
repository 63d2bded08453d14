"""What memory there is, what is in use, and when the allocator is asked to give back."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmgw.config import Overload as Settings
from llmgw.overload import TRIM_EVERY_MAX_S, Overload, Resident, memory_bound

MB = 1 << 20
AUTO = Settings()


def machine(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:        1024000 kB\nMemFree:          4 kB\n"}
TOTAL = 1_024_000 << 10


def test_without_control_groups_it_is_four_fifths_of_the_machine_for_all_workers(tmp_path: Path) -> None:
    assert memory_bound(AUTO, 4, machine(tmp_path, MEMINFO)) == TOTAL * 8 // 10 // 4


@pytest.mark.parametrize(
    ("where", "limit"),
    [
        ("sys/fs/cgroup/memory.max", "100000000\n"),
        ("sys/fs/cgroup/pod/memory.max", "100000000\n"),
        ("sys/fs/cgroup/pod/box/memory.max", "100000000\n"),
    ],
)
def test_a_group_of_the_second_kind_bounds_it_and_so_do_those_above(
    tmp_path: Path, where: str, limit: str
) -> None:
    files = {"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/box/memory.max": "max\n", where: limit}
    assert memory_bound(AUTO, 1, machine(tmp_path, MEMINFO | files)) == 80_000_000


def test_a_group_of_the_first_kind_bounds_it(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n",
        "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "100000000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    assert memory_bound(AUTO, 2, machine(tmp_path, MEMINFO | files)) == 40_000_000


def test_in_a_container_its_own_group_stands_at_the_root_of_the_mount(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/docker/4711\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "100000000\n",
    }
    assert memory_bound(AUTO, 1, machine(tmp_path, MEMINFO | files)) == 80_000_000


def test_a_bound_that_was_set_is_taken_as_it_is(tmp_path: Path) -> None:
    settings = Settings.model_validate({"max_memory": "256MB"})
    assert memory_bound(settings, 4, machine(tmp_path, MEMINFO)) == settings.max_memory_bytes > 200 * MB


def test_a_machine_that_does_not_say_sets_no_bound(tmp_path: Path) -> None:
    assert memory_bound(AUTO, 1, tmp_path) == 0


def test_this_machine_says(tmp_path: Path) -> None:
    assert memory_bound(AUTO, 1) > 64 * MB


def test_what_a_process_takes_shows_in_what_it_holds() -> None:
    resident = Resident()
    before = resident()
    taken = bytearray(b"x") * (40 * MB)
    assert 39 * MB < resident() - before < 60 * MB
    assert len(taken) == 40 * MB


class Process:
    """Memory in use, and what the allocator keeps beside it."""

    def __init__(self, used: int, kept: int) -> None:
        self.used, self.kept, self.trims = used, kept, 0
        self.counted: list[str] = []
        self.overload = Overload(
            AUTO, 256 * MB, self.counted.append, lambda: self.used + self.kept, self.trim
        )

    def trim(self) -> None:
        self.trims += 1
        self.kept = 0


def test_what_the_allocator_keeps_is_given_back_near_the_bound_and_only_there() -> None:
    far, near = Process(60 * MB, 100 * MB), Process(60 * MB, 180 * MB)
    for process in (far, near):
        process.overload.look(100.0)
    assert (far.trims, far.overload.gate.room_bytes) == (0, 96 * MB)
    assert (near.trims, near.overload.gate.room_bytes) == (1, 196 * MB)


def test_giving_back_what_gains_nothing_is_tried_ever_more_rarely_and_at_last_once_a_minute() -> None:
    process = Process(250 * MB, 0)
    for beat in range(20 * 600):
        process.overload.look(100.0 + beat * 0.05)
    assert 600 / TRIM_EVERY_MAX_S <= process.trims < 600 / TRIM_EVERY_MAX_S + 10


def test_the_room_is_what_is_left_below_the_bound() -> None:
    process = Process(100 * MB, 0)
    process.overload.look(100.0)
    gate = process.overload.gate
    assert [gate.enter(80 * MB) for _ in range(2)] == [0, 2]
    process.used += 80 * MB  # it was read
    process.overload.look(100.05)
    assert gate.room_bytes == 76 * MB


def test_a_refusal_is_counted_and_says_when_to_come_back() -> None:
    process = Process(0, 0)
    errors = [process.overload.refusal(number) for number in (1, 2, 3, 3)]
    assert process.counted == ["inflight", "memory", "lag", "lag"]
    assert {(error.status, error.type, error.code, error.should_retry) for error in errors} == {
        (503, "api_error", "overloaded", True)
    }
    waits = {error.retry_after_s for error in errors}
    assert len(waits) == 4
    assert all(wait is not None and 1 <= wait <= 2 for wait in waits)


def test_a_reload_sets_other_bounds_for_what_is_in_flight_already() -> None:
    process = Process(100 * MB, 0)
    gate = process.overload.gate
    for _ in range(3):
        assert gate.enter(0) == 0
    process.overload.configure(Settings.model_validate({"max_inflight": 2}), 0)
    process.overload.look(100.0)
    assert gate.enter(0) == 1
    gate.leave()
    gate.leave()
    assert gate.enter(1000 * MB) == 0
