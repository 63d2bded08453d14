"""The segment's file and what stands in it besides series."""

import os
import random
import stat
import struct

import pytest

from llmgw._core import statefile
from llmgw._core.segment import BEAT_S, SERIES_BYTES, Segment
from llmgw._core.series import Series, key_of, merged
from llmgw._core.statefile import PAGE_BYTES, Region, open_state

KEY = key_of("acme", "m")


def counted(path, workers=2, amount=5):
    """A segment file in which something was counted, and nobody holds."""
    Series(Segment(path, workers), 0).add(1, KEY, 2, 1, amount)


def total(segment):
    return merged(segment).get((1, KEY), [0, 0])[1]


def test_file_and_directory_are_for_the_owner_only(path):
    counted(path)
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_counts_outlive_the_process_and_any_change_of_the_number_of_workers(path):
    counted(path, workers=2)
    for workers in (2, 5, 1, 8):
        segment = Segment(path, workers)
        assert (segment.notice, segment.workers, total(segment)) == ("", workers, 5)
        del segment
    assert Segment(path, 1).slots == 8, "what eight workers counted is still shown"


def test_a_segment_in_use_is_refused_and_says_by_whom(path):
    held = Segment(path, 2)
    with pytest.raises(BlockingIOError, match=f"in use by another gateway .process {os.getpid()}."):
        Segment(path, 2)
    del held
    Segment(path, 2)


def test_what_concerned_processes_starts_at_nothing_again_but_restarts_do_not(path):
    segment = Segment(path, 2)
    segment.enlist(1, 4711)
    segment.beat(1)
    segment.count_restart(1)
    segment.count_reload(True)
    del segment
    segment = Segment(path, 2)
    assert (segment.pid(1), segment.heartbeat_ns(1), segment.inflight(1), segment.lag_s(1)) == (0, 0, 0, 0)
    assert (segment.restarts(1), segment.reloads()) == (1, (1, 0))
    assert segment.supervisor_pid() == os.getpid()


def write(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def damage_truncated(path):
    os.truncate(path, os.stat(path).st_size // 2)


def damage_emptied(path):
    os.truncate(path, 0)


def damage_grown(path):
    os.truncate(path, os.stat(path).st_size + 1)


def damage_old_version(path):
    write(path, 8, struct.pack("<I", statefile.LAYOUT_VERSION - 1))


def damage_foreign(path):
    write(path, 0, b"not this")


def damage_header(path):
    write(path, 40, b"\xff")


def damage_everything(path):
    write(path, 0, random.Random(1).randbytes(os.stat(path).st_size))


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncated,
        damage_emptied,
        damage_grown,
        damage_old_version,
        damage_foreign,
        damage_header,
        damage_everything,
    ],
)
def test_a_damaged_file_is_replaced_by_an_empty_one_that_works(path, damage):
    counted(path)
    damage(path)
    segment = Segment(path, 2)
    assert "starting with empty counters" in segment.notice
    assert total(segment) == 0
    del segment
    counted(path, amount=3)
    assert total(Segment(path, 2)) == 3


def test_no_byte_of_the_header_can_be_changed_unnoticed(path):
    counted(path, workers=1)
    with open(path, "rb") as file:
        header = file.read(PAGE_BYTES)
    for offset in [*range(200), PAGE_BYTES - 1, *random.Random(2).sample(range(200, PAGE_BYTES), 30)]:
        write(path, offset, bytes([header[offset] ^ 0x41]))
        assert "starting with empty counters" in Segment(path, 1).notice
        write(path, 0, header)
        assert Segment(path, 1).notice == ""


@pytest.mark.parametrize("lines", range(20))
def test_random_bytes_behind_a_sound_header_never_crash_a_reader_or_a_writer(path, lines):
    generator = random.Random(lines)
    segment = Segment(path, 2)
    for slot in range(2):
        series = Series(segment, slot)
        for index in range(50):
            series.add(index % 5, key_of(f"t{index}"), 1 + index % 7, 0, 1)
    start = os.stat(path).st_size - 2 * SERIES_BYTES
    for _ in range(generator.choice([1, 10, 1000])):
        write(
            path,
            start + generator.randrange(SERIES_BYTES + 4096),
            generator.randbytes(generator.randrange(1, 9)),
        )
    merged(segment)
    del segment, series
    segment = Segment(path, 2)
    before = total(segment)
    Series(segment, 0).add(1, KEY, 2, 1, 9)
    assert total(segment) == before + 9


def test_what_stands_before_the_first_damaged_record_is_kept(path):
    segment = Segment(path, 1)
    series = Series(segment, 0)
    for index in range(10):
        series.add(3, key_of(f"t{index}"), 1, 0, 1)
    size = (series.used_bytes - 16) // 10
    write(path, os.stat(path).st_size - SERIES_BYTES + 16 + 6 * size + 17 + 8, b"X")  # in the seventh key
    del series, segment
    segment = Segment(path, 1)
    series = Series(segment, 0)
    assert len(merged(segment)) == 6
    series.add(3, key_of("t8"), 1, 0, 1)
    assert merged(segment)[3, key_of("t8")] == [1]


def test_a_link_or_a_second_name_or_no_plain_file_is_refused(path, tmp_path):
    counted(path)
    elsewhere = tmp_path / "elsewhere"
    os.rename(path, elsewhere)
    os.symlink(elsewhere, path)
    with pytest.raises(OSError, match="symbolic links"):
        Segment(path, 2)
    os.unlink(path)
    os.link(elsewhere, path)
    with pytest.raises(PermissionError, match="second name"):
        Segment(path, 2)
    os.unlink(path)
    os.mkfifo(path)
    with pytest.raises(PermissionError, match="not a plain file"):
        Segment(path, 2)
    os.unlink(path)
    os.unlink(path + ".lock")
    os.symlink(elsewhere, path + ".lock")
    with pytest.raises(OSError, match="symbolic links"):
        Segment(path, 2)


def test_a_directory_that_is_a_link_or_open_to_others_is_refused(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(NotADirectoryError):
        Segment(str(tmp_path / "link" / "segment"), 1)
    real.chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by other users"):
        Segment(str(real / "segment"), 1)
    real.chmod(0o755)
    Segment(str(real / "segment"), 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
def test_what_belongs_to_another_user_is_refused(path):
    counted(path)
    os.chown(path, 12345, 12345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        Segment(path, 2)
    os.chown(os.path.dirname(path), 12345, 12345)
    with pytest.raises(PermissionError, match="directory belongs to another user"):
        Segment(path, 2)


def test_a_failed_opening_leaves_no_descriptor_and_no_lock(path):
    os.makedirs(os.path.dirname(path), 0o700)
    os.mkfifo(path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(PermissionError):
            Segment(path, 2)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_further_region_does_not_cost_the_counters_that_are_there(path):
    """What a later version does: the old regions are taken over, wherever they now stand."""
    table = [Region("supervisor", 1, 1, 128), Region("series", 1, 2, 8192)]
    file = open_state(path, table)
    os.pwrite(file.fd, b"counted", file.regions["series"].offset + 8192)
    for fd in (file.fd, file.lock_fd):
        os.close(fd)
    grown = [Region("supervisor", 2, 1, 256), Region("limits", 1, 1, 100_000), Region("series", 1, 3, 8192)]
    file = open_state(path, grown)
    assert file.notice == ""
    assert file.size_bytes == os.fstat(file.fd).st_size
    assert os.pread(file.fd, 7, file.regions["series"].offset + 8192) == b"counted"
    assert os.pread(file.fd, 256, file.regions["supervisor"].offset) == bytes(256), "another version is empty"
    assert all(region.offset % PAGE_BYTES == 0 for region in file.regions.values())
    for fd in (file.fd, file.lock_fd):
        os.close(fd)


def test_a_lag_is_the_time_beyond_the_interval_and_is_kept_for_a_scraper(segment, spin):
    assert segment.lag_s(0) == 0
    segment.beat(0)
    spin(BEAT_S + 0.05)
    assert segment.lag_s(0) >= 0.05, "a loop that stands still now"
    segment.beat(0)
    segment.beat(0)
    assert 0.05 <= segment.lag_s(0) < 5, "the worst of the last seconds, not the last"
    assert segment.lag_s(1) == 0


def test_a_slot_that_does_not_exist_is_an_error(segment):
    for slot in (-1, 2):
        with pytest.raises(IndexError):
            segment.beat(slot)


def test_forked_processes_see_one_segment(segment):
    child = os.fork()
    if child == 0:
        series = Series(segment, 1)
        for _ in range(1000):
            series.add(1, KEY, 2, 1, 1)
        segment.beat(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert total(segment) == 1000
    assert segment.heartbeat_ns(1) > 0


def test_what_waited_for_disk_is_known_when_its_process_is_gone(path):
    segment = Segment(path, 2)
    segment.note_unwritten(1, 7)
    segment.release(1)
    assert (segment.unwritten(0), segment.unwritten(1)) == (0, 7)
