"""What is appended is in the file at once, files end in time, and a full disk loses nothing unsaid."""

import errno
import os
import stat

import pytest
from ledgerkit import DAY_S, NOVEMBER_S, Patient, content, ids, record, written

from llmgw._core.pages import PAGE_BYTES
from llmgw.ledger import LedgerFile, mapped, writer
from llmgw.ledger.names import files_in

SMALL_BYTES = writer.FILE_MIN_BYTES


def names(directory):
    return sorted(os.listdir(directory))


def test_a_line_is_in_the_file_when_append_returns(opened, directory):
    ledger = opened()
    for number in range(10):
        assert ledger.append(record(f"a{number}"))
        assert ids(written(directory)) == [f"a{index}" for index in range(number + 1)]


def test_a_file_is_named_for_its_beginning_and_its_slot(opened, directory):
    opened(3, wall_s=lambda: NOVEMBER_S + 4.125)
    assert names(directory) == ["2026-11-01T00-00-04.125-s3.jsonl"]
    assert [(file.start_s, file.writer) for file in files_in(directory)] == [(NOVEMBER_S + 4.125, "s3")]


def test_two_beginnings_in_one_millisecond_are_two_files(opened, directory):
    opened(wall_s=lambda: NOVEMBER_S)
    opened(wall_s=lambda: NOVEMBER_S)
    assert names(directory) == ["2026-11-01T00-00-00.000-s0.jsonl", "2026-11-01T00-00-00.001-s0.jsonl"]


def test_nobody_else_may_read_it(opened, directory):
    opened()
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert {stat.S_IMODE(os.stat(file.path).st_mode) for file in files_in(directory)} == {0o600}


def test_a_directory_that_others_may_write_to_is_refused(opened, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(PermissionError):
        opened(where=str(shared))


def test_closing_cuts_the_unwritten_end(opened, directory):
    ledger = opened()
    lines = [record(f"a{number}") for number in range(100)]
    for line in lines:
        ledger.append(line)
    ledger.close()
    (file,) = files_in(directory)
    with open(file.path, "rb") as left:
        assert left.read() == b"".join(lines)


def test_a_ledger_without_a_record_leaves_no_file(opened, directory):
    opened().close()
    assert names(directory) == []


def test_what_comes_after_closing_is_counted_as_lost(opened, directory, lost):
    ledger = opened()
    ledger.close()
    assert not ledger.append(record())
    assert lost == [1]


@pytest.mark.parametrize("kind", [LedgerFile, Patient], ids=["with its thread", "thread behind"])
@pytest.mark.parametrize("max_file_bytes", [SMALL_BYTES, 300_000, 3 << 20])
def test_files_end_at_their_greatest_size_and_no_line_is_lost_or_torn(
    opened, directory, lost, kind, max_file_bytes
):
    ledger = opened(kind=kind, max_file_bytes=max_file_bytes, sync_s=0.001)
    size_bytes = len(record("a00000"))
    count = 3 * max_file_bytes // size_bytes
    assert all(ledger.append(record(f"a{number:05}")) for number in range(count))
    ledger.close()
    lines = written(directory)
    assert ids(lines) == [f"a{number:05}" for number in range(count)]
    sizes = [os.stat(file.path).st_size for file in files_in(directory)]
    assert all(max_file_bytes - size_bytes < size <= max_file_bytes for size in sizes[:-1])
    assert len(sizes) in {3, 4}
    assert lost == []


def test_ticks_have_disk_and_the_next_file_ready_before_they_are_needed(opened, directory, monkeypatch):
    ledger = opened()
    reserved = []
    real = mapped.statefile.reserve
    monkeypatch.setattr(mapped.statefile, "reserve", lambda *where: (reserved.append(where), real(*where)))
    line = record()
    for _ in range((9 << 20) // len(line)):
        is_thinking = ledger._end + len(line) > ledger._limit
        before = len(reserved)
        ledger.append(line)
        assert len(reserved) == before
        if is_thinking:
            ledger.tick()
    assert len(names(directory)) == 3
    assert len(reserved) >= 8


def test_an_append_that_needs_no_thought_calls_nothing(opened, monkeypatch):
    ledger = opened()
    monkeypatch.setattr(ledger, "_append_thinking", None)
    line = record()
    assert all(ledger.append(line) for _ in range(500_000 // len(line)))


def test_a_file_ends_when_it_is_a_day_old(opened, directory):
    now_s = NOVEMBER_S
    ledger = opened(wall_s=lambda: now_s)
    ledger.append(record("old"))
    now_s += DAY_S + 1
    ledger.tick()
    ledger.append(record("new"))
    ledger.tick()
    assert [ids(content(file.path)) for file in files_in(directory)] == [["old"], ["new"]]
    assert os.stat(files_in(directory)[0].path).st_size == len(record("old"))


def test_a_file_without_a_record_may_grow_old(opened, directory):
    now_s = NOVEMBER_S
    ledger = opened(wall_s=lambda: now_s)
    now_s += 2 * DAY_S
    ledger.tick()
    ledger.append(record())
    assert len(names(directory)) == 1


@pytest.fixture
def synced(monkeypatch):
    """The ranges that were synced, from page to byte."""
    ranges = []
    real = mapped.pages.sync
    monkeypatch.setattr(
        mapped.pages,
        "sync",
        lambda where, start, size: (ranges.append((start, start + size)), real(where, start, size)),
    )
    return ranges


def test_what_was_written_is_synced_once(opened, synced):
    ledger = opened()
    ledger.append(record())
    for _ in range(3):
        ledger.tick()
    assert synced == [(0, len(record()))]


def test_while_many_come_the_page_being_written_is_synced_a_tick_later(opened, synced):
    ledger = opened()
    line = record()
    for _ in range(PAGE_BYTES // len(line) + 2):
        ledger.append(line)
    ledger.tick()
    assert synced == [(0, PAGE_BYTES)]
    ledger.tick()
    assert synced == [(0, PAGE_BYTES), (PAGE_BYTES, ledger._end)]


def test_a_sync_that_fails_is_tried_again(opened, synced, monkeypatch):
    ledger = opened()
    ledger.append(record())
    with monkeypatch.context() as broken:
        broken.setattr(mapped.pages, "sync", fail)
        ledger.tick()
    ledger.tick()
    assert synced == [(0, len(record()))]


def fail(*_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_memory_that_was_given_back_keeps_its_content(opened, directory):
    ledger = opened()
    lines = [record(f"a{number}") for number in range(3000)]
    for number, line in enumerate(lines):
        ledger.append(line)
        if number % 500 == 0:
            ledger.tick()
    assert written(directory) == b"".join(lines)


def test_a_full_disk_keeps_lines_in_memory_until_there_is_space(opened, small_disk, lost):
    where = os.path.join(small_disk, "ledger")
    os.mkdir(where, 0o700)
    ledger = opened(where=where)
    appended = []
    while ledger.append(line := record(f"a{len(appended)}", model_label="m" * 200)):
        appended.append(line)
    appended.append(line)
    for _ in range(100):
        appended.append(record(f"a{len(appended)}"))
        assert not ledger.append(appended[-1])
    assert ledger.backlog_bytes == sum(map(len, appended[-101:]))
    ledger.tick()
    assert ledger.backlog_bytes
    enlarge(small_disk)
    ledger.tick()
    assert ledger.backlog_bytes == 0
    assert ledger.append(record("last"))
    assert ids(written(where)) == [*ids(b"".join(appended)), "last"]
    assert lost == []


def enlarge(disk):
    """More room on the small disk."""
    assert os.system(f"mount -o remount,size=8m {disk}") == 0


def test_a_disk_that_is_full_from_the_start_is_no_end(opened, directory, lost, full):
    full.on = True
    ledger = opened()
    assert not ledger.append(record("a1"))
    full.on = False
    ledger.tick()
    assert ledger.append(record("a2"))
    assert ids(written(directory)) == ["a1", "a2"]
    assert lost == []


def test_how_many_wait_for_disk_is_told_whenever_it_changes(opened, full):
    """So that somebody knows who outlives the process."""
    told = []
    ledger = opened(on_backlog=told.append)
    full.on = True
    while len(told) < 3:
        ledger.append(record())
    full.on = False
    ledger.tick()
    assert told == [1, 2, 3, 2, 1, 0]
    assert ledger.append(record()) and len(told) == 6


def test_beyond_the_backlog_lines_are_lost_and_counted(opened, directory, lost, full):
    full.on = True
    ledger = opened()
    line = record()
    fit = writer.BACKLOG_BYTES // len(line)
    for _ in range(fit + 7):
        ledger.append(line)
    assert lost == [1] * 7
    full.on = False
    ledger.close()
    assert written(directory) == line * fit


def test_closing_on_a_full_disk_counts_what_waited(opened, directory, lost, full):
    full.on = True
    ledger = opened()
    for _ in range(3):
        ledger.append(record())
    ledger.close()
    assert sum(lost) == 3
    assert names(directory) == []


def test_full_in_the_middle_of_a_file_leaves_what_is_written_whole(opened, directory, full):
    ledger = opened(max_file_bytes=SMALL_BYTES)
    full.on = True
    appended = []
    while ledger.append(line := record(f"a{len(appended)}")):
        appended.append(line)
    full.on = False
    ledger.close()
    assert written(directory) == b"".join([*appended, line])


def test_a_record_too_long_for_any_file_is_counted_and_stops_nothing(opened, directory, lost):
    ledger = opened(max_file_bytes=SMALL_BYTES)
    assert not ledger.append(b"x" * (SMALL_BYTES + 1))
    assert ledger.append(record("a1"))
    assert lost == [1]
    assert ids(written(directory)) == ["a1"]


def test_trouble_is_told_once_and_its_end_too(opened, full, caplog):
    full.on = True
    ledger = opened()
    ledger.tick()
    ledger.tick()
    full.on = False
    ledger.tick()
    ledger.tick()
    said = [message.getMessage().rpartition(": ")[2] for message in caplog.records]
    assert said == [os.strerror(28), "works again"]


def test_a_full_disk_is_no_trouble_while_there_is_room(opened, full, caplog):
    ledger = opened()
    full.on = True
    for _ in range((600 << 10) // len(record())):
        assert ledger.append(record())
    ledger.tick()
    ledger.tick()
    assert caplog.records == []
