"""What a death leaves is made whole, and what is old goes."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from ledgerkit import DAY_S, NOVEMBER_S, content, ids, record, written

from llmgw.ledger import Reader, Recovery, append_crashed, expire, recover
from llmgw.ledger.names import files_in, name_of

HERE = Path(__file__).parent
TORN = record("torn")


def left(directory, data, start_s=NOVEMBER_S, writer="s0"):
    """A file as a dead worker left it."""
    os.makedirs(directory, 0o700, exist_ok=True)
    path = os.path.join(directory, name_of(start_s, writer))
    with open(path, "wb") as file:
        file.write(data)
    return path


@pytest.mark.parametrize("after", [1, 100, 2000])
def test_kill_9_in_the_middle_of_appending_loses_no_line_that_was_appended(directory, after):
    child = subprocess.Popen(
        [sys.executable, str(HERE / "appender.py"), directory],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    for _ in range(after):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    said = child.stdout.read()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    count = after + len(said.splitlines())
    recover(directory)
    found = ids(b"".join(Path(file.path).read_bytes() for file in files_in(directory)))
    assert found[:count] == [f"a{number}" for number in range(count)]
    assert len(found) <= count + 1
    assert recover(directory) == Recovery(0, 0)


@pytest.mark.parametrize("size_bytes", range(1, len(TORN)))
def test_wherever_a_line_broke_off_it_goes_and_those_before_it_stay(directory, size_bytes):
    path = left(directory, record("a1") + TORN[:size_bytes] + bytes(5000))
    assert recover(directory) == Recovery(1, 1)
    assert Path(path).read_bytes() == record("a1")


def test_a_line_whose_end_was_copied_before_its_middle_is_torn(directory):
    path = left(directory, record("a1") + TORN[:50] + bytes(20) + TORN[70:] + bytes(5000))
    assert recover(directory) == Recovery(1, 1)
    assert Path(path).read_bytes() == record("a1")


def test_a_whole_last_line_behind_a_hole_stays(directory):
    data = bytes(4096) + record("a1")
    path = left(directory, data + bytes(100))
    assert recover(directory) == Recovery(1, 0)
    assert Path(path).read_bytes() == data


@pytest.mark.parametrize("unwritten_bytes", [1, 4095, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_the_unwritten_end_is_cut(directory, unwritten_bytes):
    path = left(directory, record("a1") + bytes(unwritten_bytes))
    assert recover(directory) == Recovery(1, 0)
    assert Path(path).read_bytes() == record("a1")


@pytest.mark.parametrize("data", [b"", bytes(10_000), TORN[:20] + bytes(100)])
def test_a_file_without_a_whole_line_goes(directory, data):
    left(directory, data)
    recover(directory)
    assert os.listdir(directory) == []


def test_a_file_that_is_whole_is_not_touched(directory):
    path = left(directory, record("a1") + record("a2"))
    before = os.stat(path)
    assert recover(directory) == Recovery(0, 0)
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns
    assert Path(path).read_bytes() == record("a1") + record("a2")


def test_a_file_that_is_cut_keeps_the_time_of_its_last_write(directory):
    path = left(directory, record("a1") + bytes(100))
    os.utime(path, (NOVEMBER_S, NOVEMBER_S))
    recover(directory)
    assert os.stat(path).st_mtime == NOVEMBER_S


def test_a_file_that_is_being_written_is_left_alone(opened, directory):
    ledger = opened()
    ledger.append(record("a1"))
    assert recover(directory) == Recovery(0, 0)
    ledger.append(record("a2"))
    assert ids(written(directory)) == ["a1", "a2"]


def test_a_ledger_that_does_not_exist_needs_no_recovery(directory):
    assert recover(directory) == Recovery(0, 0)


def test_files_of_somebody_else_are_left_alone(directory):
    left(directory, record("a1"))
    other = Path(directory) / "notes.txt"
    other.write_bytes(bytes(100))
    recover(directory)
    expire(directory, 0.0, NOVEMBER_S + 999 * DAY_S)
    assert os.listdir(directory) == ["notes.txt"]
    assert other.read_bytes() == bytes(100)


def test_records_of_the_dead_are_appended_to_one_file_of_the_supervisor(directory):
    append_crashed(directory, record("a1", recovered=True), record("a2", recovered=True))
    append_crashed(directory, record("a3", recovered=True))
    (file,) = files_in(directory)
    assert file.writer == "supervisor"
    assert ids(content(file.path)) == ["a1", "a2", "a3"]
    assert os.stat(file.path).st_mode & 0o777 == 0o600


def test_what_a_dead_supervisor_had_half_written_is_overwritten(directory):
    path = left(directory, record("a1") + record("torn" * 20)[:-1], writer="supervisor")
    append_crashed(directory, record("a2"))
    assert Path(path).read_bytes() == record("a1") + record("a2")


def test_on_a_full_disk_all_of_them_fail_and_nothing_is_left_torn(directory, monkeypatch):
    append_crashed(directory, record("a1"))
    real = os.pwrite

    def pwrite(fd, data, offset):
        if len(data) < 300:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data[:300], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError):
        append_crashed(directory, record("a2"))
    assert written(directory) == record("a1")


def test_whole_files_go_when_their_last_record_is_old(directory):
    left(directory, record("a1", NOVEMBER_S) + record("a2", NOVEMBER_S + 100), NOVEMBER_S)
    left(directory, record("b1", NOVEMBER_S) + record("b2", NOVEMBER_S + DAY_S), NOVEMBER_S + 1)
    left(directory, record("c1", NOVEMBER_S + 2 * DAY_S), NOVEMBER_S + 2 * DAY_S)
    now_s = NOVEMBER_S + 7 * DAY_S + 101
    assert expire(directory, 7 * DAY_S, now_s) == 1
    assert ids(written(directory)) == ["b1", "b2", "c1"]
    assert expire(directory, 7 * DAY_S, now_s) == 0
    assert expire(directory, 7 * DAY_S, now_s + DAY_S) == 1
    assert ids(written(directory)) == ["c1"]


def test_a_file_is_judged_by_its_last_record_and_not_by_its_last_change(directory):
    path = left(directory, record("a1") + bytes(100))
    os.utime(path, (NOVEMBER_S - DAY_S, NOVEMBER_S - DAY_S))
    assert expire(directory, DAY_S, NOVEMBER_S + DAY_S - 1) == 0
    os.utime(path, (NOVEMBER_S + 9 * DAY_S, NOVEMBER_S + 9 * DAY_S))
    assert expire(directory, DAY_S, NOVEMBER_S + DAY_S + 1) == 1


def test_a_file_that_is_being_written_does_not_go_however_old_it_is(opened, directory):
    ledger = opened(wall_s=lambda: NOVEMBER_S)
    ledger.append(record("a1", NOVEMBER_S))
    assert expire(directory, DAY_S, NOVEMBER_S + 99 * DAY_S) == 0
    ledger.append(record("a2"))
    assert ids(written(directory)) == ["a1", "a2"]


def test_a_worker_that_starts_while_others_are_cleared_away_keeps_its_file(opened, directory, monkeypatch):
    real = os.open

    def open_slowly(path, flags, mode=0o777):
        fd = real(path, flags, mode)
        if flags & os.O_EXCL:
            monkeypatch.undo()
            recover(directory)
        return fd

    monkeypatch.setattr(os, "open", open_slowly)
    ledger = opened()
    ledger.append(record("a1"))
    assert [found["attempt_id"] for found in Reader(directory)] == ["a1"]
    assert orjson.loads(written(directory))["attempt_id"] == "a1"
