"""The request log against sinks that are good, slow, full and gone."""

import fcntl
import logging
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.log import RequestLog, split_batch

DEADLINE_S = 10.0


def wait_for(look):
    until_s = time.monotonic() + DEADLINE_S
    while not look():
        assert time.monotonic() < until_s, "not in time"
        time.sleep(0.005)


def line(number, size=600):
    return b"%08d" % number + b"." * (size - 9) + b"\n"


class Drops:
    """What was dropped so far; told by two threads."""

    def __init__(self):
        self.lines = 0
        self._lock = threading.Lock()

    def __call__(self, lines):
        with self._lock:
            self.lines += lines


@pytest.fixture
def drops():
    return Drops()


@pytest.fixture
def open_log(drops):
    logs = []

    def make(path, **options):
        logs.append(RequestLog(str(path), drops, **options))
        return logs[-1]

    yield make
    for log in logs:
        log.close(0.0)


@pytest.fixture
def pipe(tmp_path):
    """A named pipe and its reading end, small and non-blocking."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, 4096)
    yield path, read
    os.close(read)


@given(st.lists(st.integers(1, 100).map(lambda size: b"x" * (size - 1) + b"\n"), max_size=50))
def test_pieces_are_whole_lines_in_order_and_within_the_limit(lines):
    pieces = list(split_batch(lines, 64))
    assert b"".join(pieces) == b"".join(lines)
    assert all(piece.endswith(b"\n") and (len(piece) <= 64 or piece.count(b"\n") == 1) for piece in pieces)


def test_lines_are_in_the_file_soon_and_in_order(tmp_path, open_log):
    path = tmp_path / "log"
    log = open_log(path)
    lines = [line(number) for number in range(100)]
    for one in lines:
        log.write(one)
    wait_for(lambda: path.stat().st_size == 100 * 600)
    assert path.read_bytes() == b"".join(lines)
    assert path.stat().st_mode & 0o007 == 0, "not for everybody's eyes"


def test_a_line_written_after_a_silence_is_not_left_behind(tmp_path, open_log):
    path = tmp_path / "log"
    log = open_log(path)
    for number in range(1, 6):
        log.write(line(number))
        wait_for(lambda: path.stat().st_size == number * 600)  # noqa: B023


def test_closing_writes_what_is_queued(tmp_path, open_log, drops):
    path = tmp_path / "log"
    log = open_log(path)
    for number in range(5000):
        log.write(line(number))
    log.close()
    assert path.read_bytes() == b"".join(map(line, range(5000)))
    assert drops.lines == 0
    log.write(line(1))
    assert drops.lines == 1, "what comes after the end is counted too"


def test_a_reader_that_stops_costs_lines_but_never_the_writer_a_wait(pipe, open_log, drops):
    path, read = pipe
    log = open_log(path, queue_bytes=60_000)
    slowest_s = 0.0
    for number in range(1000):
        began_s = time.monotonic()
        log.write(line(number))
        slowest_s = max(slowest_s, time.monotonic() - began_s)
    assert slowest_s < 0.5
    assert 800 <= drops.lines <= 920, "all but what the queue and the pipe hold"
    held = b""
    until_s = time.monotonic() + DEADLINE_S
    while held.count(b"\n") < 1000 - drops.lines and time.monotonic() < until_s:
        try:
            held += os.read(read, 65536)
        except BlockingIOError:
            continue
    assert held.count(b"\n") == 1000 - drops.lines
    assert held.endswith(b"\n")
    assert all(len(one) == 599 for one in held.split(b"\n")[:-1])


def test_closing_does_not_wait_for_a_stopped_reader_beyond_its_deadline(pipe, open_log, drops):
    path, read = pipe
    log = open_log(path)
    for number in range(100):
        log.write(line(number))
    began_s = time.monotonic()
    log.close(0.2)
    assert time.monotonic() - began_s < 2
    written = os.read(read, 1 << 20).count(b"\n")
    assert written + drops.lines == 100


def test_a_full_disk_costs_lines_which_are_counted_and_said_once(open_log, drops, caplog):
    log = open_log("/dev/full")
    for number in range(50):
        log.write(line(number))
    wait_for(lambda: drops.lines == 50)
    log.write(line(51))
    wait_for(lambda: drops.lines == 51)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["request log /dev/full: No space left on device; lines are dropped and counted"]


def test_a_reader_that_goes_away_costs_lines_and_one_that_comes_gets_them_again(
    tmp_path, open_log, drops, caplog
):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log = open_log(path)
    log.write(line(1))
    wait_for(lambda: drops.lines == 1)
    read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def arrives():
        log.write(line(2))
        try:
            return os.read(read, 65536)
        except BlockingIOError:
            return b""

    wait_for(arrives)
    os.close(read)
    before = drops.lines
    wait_for(lambda: log.write(line(3)) or drops.lines > before)
    with caplog.at_level(logging.WARNING):
        assert any("works again" in record.getMessage() for record in caplog.records)


def test_a_dead_standard_output_ends_nothing(tmp_path, drops):
    """`llmgw serve | head`: the pipe's reader is gone, and the gateway goes on."""
    read, write = os.pipe()
    saved = os.dup(1)
    os.dup2(write, 1)
    os.close(write)
    try:
        log = RequestLog("-", drops)
        log.write(line(1))
        wait_for(lambda: fcntl.ioctl(read, 0x541B, b"\0\0\0\0") != b"\0\0\0\0")  # FIONREAD
        assert os.read(read, 65536) == line(1)
        os.close(read)
        log.write(line(2))
        wait_for(lambda: drops.lines == 1)
        log.close()
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def test_after_a_rotation_lines_go_to_the_new_file(tmp_path, open_log, drops):
    path, old = tmp_path / "log", tmp_path / "log.1"
    log = open_log(path)
    log.write(line(1))
    wait_for(lambda: path.stat().st_size == 600)
    path.rename(old)
    log.reopen()
    wait_for(path.exists)
    log.write(line(2))
    log.close()
    assert old.read_bytes() == line(1)
    assert path.read_bytes() == line(2)
    assert drops.lines == 0


def test_a_file_that_was_moved_without_a_word_is_noticed(tmp_path, open_log, drops):
    path, old = tmp_path / "log", tmp_path / "log.1"
    log = open_log(path)
    log.write(line(1))
    wait_for(lambda: path.exists() and path.stat().st_size)
    path.rename(old)
    written = 1

    def moved_on():
        nonlocal written
        log.write(line(0))
        written += 1
        return path.exists() and path.stat().st_size

    wait_for(moved_on)
    log.close()
    assert len(old.read_bytes()) + len(path.read_bytes()) == written * 600


def test_a_rotation_into_nothing_keeps_the_file_that_is_open(tmp_path, open_log, drops):
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "log"
    log = open_log(path)
    held = os.open(path, os.O_RDONLY)
    path.unlink()
    directory.rmdir()
    log.reopen()
    log.write(line(1))
    wait_for(lambda: os.fstat(held).st_size == 600)
    os.close(held)


def test_a_path_that_cannot_be_opened_is_an_error_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        RequestLog(str(tmp_path / "missing" / "log"))
    with pytest.raises(IsADirectoryError):
        RequestLog(str(tmp_path))


def test_what_a_full_disk_tore_is_ended_before_the_next_line(tmp_path, monkeypatch, open_log, drops):
    path = tmp_path / "log"
    log = open_log(path)
    real, state = os.write, {"fail": False, "cut": True}

    def write(fd, data):
        if state["fail"]:
            raise OSError(28, "No space left on device")
        if state["cut"] and len(data) > 1000:
            state["cut"], state["fail"] = False, True
            return real(fd, data[:900])
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    for number in range(2):
        log.write(line(number))
    wait_for(lambda: drops.lines == 1)
    state["fail"] = False
    log.write(line(2))
    wait_for(lambda: path.read_bytes().endswith(line(2)))
    assert path.read_bytes() == line(0) + line(1)[:300] + b"\n" + line(2)


def child_writes(path, worker, count, size):
    """A worker process that logs to a sink which others write to as well."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            log = RequestLog(path)
            for number in range(count):
                log.write(b"%d:%06d" % (worker, number) + bytes([65 + worker]) * size + b"\n")
                if number % 50 == 0:
                    time.sleep(0.001)  # lets batches of all sizes come about
            log.close(DEADLINE_S)
            code = 0
        finally:
            os._exit(code)
    return pid


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_lines_of_two_processes_in_one_sink_never_mix(tmp_path, kind):
    path, count, size = tmp_path / "sink", 2000, 700
    read = -1
    if kind == "pipe":
        os.mkfifo(path)
        read = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        keep = os.open(path, os.O_WRONLY)
        os.set_blocking(read, True)
    children = [child_writes(str(path), worker, count, size) for worker in range(2)]
    found = b""
    if kind == "pipe":
        while found.count(b"\n") < 2 * count:
            found += os.read(read, 65536)
        os.close(read)
        os.close(keep)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    found = found or Path(path).read_bytes()
    for worker in range(2):
        own = [one for one in found.splitlines() if one.startswith(b"%d:" % worker)]
        assert own == [b"%d:%06d" % (worker, number) + bytes([65 + worker]) * size for number in range(count)]
    assert found.count(b"\n") == 2 * count
