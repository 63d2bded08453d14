"""The ring of a worker's latest requests: whoever looks sees whole records, whatever becomes of the writer."""

import os
import random
import signal
import struct
import time

import pytest
from limiterworld import end, forked, place

from llmgw._core.recent import RECORD_BYTES, RECORDS, Recent, find, latest
from llmgw._core.segment import RECENT_BYTES, Segment

PART = bytes(range(48))
STRESS_S = 1.0


def version_at(segment, slot, index, value=None):
    """The version of a record as it stands in the file; sets it where a value is given."""
    offset = place(segment, "recent") + slot * RECENT_BYTES + index * RECORD_BYTES
    with open(segment.path, "r+b") as file:
        file.seek(offset)
        (found,) = struct.unpack("<Q", file.read(8))
        if value is not None:
            file.seek(offset)
            file.write(struct.pack("<Q", value))
    return found


def test_what_one_worker_keeps_every_other_finds(segment):
    Recent(segment, 1).keep("req_1", b'{"a":1}\n', "up/m:503,b/m:ok", PART * 3)
    with forked(
        lambda: check(find(segment, "req_1") == (b'{"a":1}\n', b"up/m:503,b/m:ok", PART * 3))
    ) as child:
        assert end(child) == 0
    assert find(segment, "req_2") is find(segment, "") is find(segment, "req_1" * 100) is None


def check(fact):
    if not fact:
        os._exit(3)


def test_a_ring_has_the_last_so_many_and_tells_them_newest_first(segment):
    recent = Recent(segment, 0)
    for number in range(RECORDS + 10):
        recent.keep(f"req_{number}", b"%d" % number, "", b"")
    assert find(segment, "req_9") is None
    assert find(segment, "req_10") == (b"10", b"", b"")
    assert [int(line) for line, _, _ in latest(segment, 0, 5)] == [RECORDS + 9 - back for back in range(5)]
    assert len(latest(segment, 0, 10**6)) == RECORDS
    assert latest(segment, 1, 100) == []


def test_the_next_worker_of_a_slot_goes_on_where_the_last_one_stopped(path):
    first = Segment(path, 1)
    for number in range(RECORDS + 3):
        Recent(first, 0).keep(f"req_{number}", b"%d" % number, "", b"")
    del first
    again = Segment(path, 1)
    Recent(again, 0).keep("req_new", b"new", "", b"")
    assert [line for line, _, _ in latest(again, 0, 3)] == [b"new", b"514", b"513"]
    assert find(again, "req_3") is None and find(again, "req_4") is not None


def test_what_is_longer_than_a_record_is_left_out_and_limits_end_between_two(segment):
    recent = Recent(segment, 0)
    recent.keep("req_long", b"x" * RECORD_BYTES, "a/b:ok", PART)
    assert find(segment, "req_long") == (b"", b"a/b:ok", PART)
    recent.keep("req_many", b"x" * 1_800, "a/b:ok", PART * 32)
    line, route, limits = find(segment, "req_many")
    assert (len(line), route, limits) == (1_800, b"a/b:ok", PART * 4)
    recent.keep("x" * 65, b"no id is so long", "", b"")
    assert len(latest(segment, 0, 10)) == 2


def test_a_record_whose_writer_died_in_it_is_nobodys_to_read_and_holds_up_nobody(segment):
    recent = Recent(segment, 0)
    for number in range(3):
        recent.keep(f"req_{number}", b"%d" % number, "", b"")
    assert version_at(segment, 0, 2) == 6
    version_at(segment, 0, 2, 5)
    assert find(segment, "req_2") is None and find(segment, "req_1") is not None
    Recent(segment, 0).keep("req_3", b"3", "", b"")
    assert [line for line, _, _ in latest(segment, 0, 4)] == [b"3", b"1", b"0"]
    assert version_at(segment, 0, 3) == 8


def test_no_byte_of_the_segment_is_trusted(segment):
    offset = place(segment, "recent")
    rng = random.Random(5)
    for _ in range(5):
        with open(segment.path, "r+b") as file:
            file.seek(offset)
            file.write(rng.randbytes(RECENT_BYTES))
        for line, route, limits in latest(segment, 0, RECORDS):
            assert len(line) + len(route) + len(limits) < RECORD_BYTES
        assert find(segment, "req_1") is None
        Recent(segment, 0).keep("req_after", b"after", "", b"")


def write(segment, until_s):
    """Records of which each byte tells whose it is, as fast as can be."""
    recent, number = Recent(segment, 0), 0
    while time.monotonic() < until_s:
        for _ in range(200):
            number += 1
            digit = b"%d" % (number % 10)
            recent.keep(f"req_{number % 10}", digit * (1 + number * 7 % 900), digit.decode() * 40, digit * 48)


def is_of_one(record):
    return len({byte for part in record for byte in part}) == 1


def test_a_reader_beside_a_writer_never_sees_parts_of_two_records(segment):
    until_s = time.monotonic() + STRESS_S
    seen = 0
    with forked(lambda: write(segment, until_s)) as child:
        while time.monotonic() < until_s:
            for record in latest(segment, 0, RECORDS):
                assert is_of_one(record)
                seen += 1
            for digit in range(10):
                found = find(segment, f"req_{digit}")
                assert found is None or (is_of_one(found) and found[0][:1] == b"%d" % digit)
        assert end(child) == 0
    assert seen > RECORDS


@pytest.mark.parametrize("after_s", [0.02, 0.05, 0.08])
def test_a_writer_that_is_killed_leaves_whole_records_and_a_ring_that_goes_on(segment, after_s):
    with forked(lambda: write(segment, time.monotonic() + 30)) as child:
        until_s = time.monotonic() + 10
        while not latest(segment, 0, 1):
            assert time.monotonic() < until_s
        until_s = time.monotonic() + after_s
        while time.monotonic() < until_s:
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    left = latest(segment, 0, RECORDS)
    assert left and all(map(is_of_one, left))
    Recent(segment, 0).keep("req_next", b"next", "", b"")
    assert latest(segment, 0, 1) == [(b"next", b"", b"")]
