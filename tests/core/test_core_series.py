"""Metric series in the segment: found again, bounded, never half."""

import os
import signal

from hypothesis import given
from hypothesis import strategies as st

from llmgw._core.segment import SERIES_BYTES, Segment
from llmgw._core.series import OVERFLOW, Series, key_of, labels_of, merged


def test_a_successor_goes_on_in_the_same_series(segment):
    for _ in range(3):
        series = Series(segment, 0)
        series.add(1, key_of("a", "b"), 1, 0, 2)
        used = series.used_bytes
    assert series.used_bytes == used
    assert merged(segment) == {(1, b"a\0b"): [6]}


def test_slots_are_summed_value_by_value(segment):
    for slot in range(2):
        series = Series(segment, slot)
        for index in range(3):
            series.add(2, key_of("x"), 3, index, 10**slot * (index + 1))
    assert merged(segment) == {(2, b"x"): [11, 22, 33]}


def test_the_same_labels_in_two_families_are_two_series(segment):
    series = Series(segment, 0)
    series.add(1, key_of("x"), 1, 0, 1)
    series.add(2, key_of("x"), 2, 1, 1)
    assert merged(segment) == {(1, b"x"): [1], (2, b"x"): [0, 1]}


def test_when_it_is_full_counts_go_to_the_overflow_series_and_none_is_lost(segment):
    series = Series(segment, 0)
    series.ensure_overflow(1, 2, 1)
    for index in range(40_000):
        series.add(1, key_of(f"tenant-{index:06}", "m"), 1, 0, 1)
    found = merged(segment)
    assert sum(values[0] for values in found.values()) == 40_000
    assert found[1, key_of(OVERFLOW, OVERFLOW)][0] > 1000
    assert len(found) > 10_000
    assert series.used_bytes <= SERIES_BYTES
    series.add(7, key_of("new"), 64, 63, 5)  # a family without an overflow series yet
    assert merged(segment)[7, key_of(OVERFLOW)][63] == 5


def test_where_not_even_overflow_has_room_counting_is_still_no_error(segment):
    series = Series(segment, 0)
    for family in range(3000):
        for _ in range(2):
            series.add(family, key_of("x" * 900), 64, 0, 1)
    assert series.used_bytes <= SERIES_BYTES


def test_a_full_disk_makes_overflow_and_no_error(tmp_path, monkeypatch):
    segment = Segment(str(tmp_path / "state" / "segment"), 1)

    def no_space(fd, offset, size):
        raise OSError(28, "No space left on device")

    before_blocks = os.stat(segment.path).st_blocks
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    series = Series(segment, 0)
    series.ensure_overflow(1, 1, 1)
    for index in range(5000):
        series.add(1, key_of(f"t{index}"), 1, 0, 1)
    found = merged(segment)
    assert sum(values[0] for values in found.values()) == 5000
    assert found[1, key_of(OVERFLOW)][0] > 0
    assert (os.stat(segment.path).st_blocks - before_blocks) * 512 < SERIES_BYTES


label = st.text(max_size=600)


@given(st.lists(label, min_size=1, max_size=4))
def test_labels_come_back_as_they_were_but_for_what_no_label_can_hold(labels):
    found = labels_of(key_of(*labels))
    assert len(found) == len(labels)
    assert len(key_of(*labels)) <= 1024
    for given_label, label_found in zip(labels, found, strict=True):
        sound = given_label.replace("\0", " ").encode("utf-8", "replace").decode()
        assert sound.startswith(label_found)
        assert sound == label_found or len(label_found.encode()) > 1024 // len(labels) - 6


def test_a_writer_killed_at_any_moment_leaves_whole_records(segment):
    """Twenty writers in turn, each killed while it makes series; what is there afterwards is sound."""
    for _ in range(20):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            series = Series(segment, 0)
            os.write(write, b"!")
            for index in range(10**9):
                series.add(1, key_of(f"{os.getpid()}-{index}"), 1, 0, 1)
        os.read(read, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)
    before = merged(segment)
    assert all(values in ([0], [1]) or labels_of(key) == (OVERFLOW,) for (_, key), values in before.items())
    Series(segment, 0)
    assert merged(segment) == before
