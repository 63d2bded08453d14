"""Pages of a mapping are made ready, synced and given back, and their content never changes by it."""

import mmap
import os
import threading

import pytest

from llmgw._core import pages
from llmgw._core.pages import PAGE_BYTES

SIZE_BYTES = 64 * PAGE_BYTES


@pytest.fixture
def mapping(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, SIZE_BYTES)
    with mmap.mmap(fd, SIZE_BYTES) as mapped:
        yield mapped
    os.close(fd)


@pytest.fixture
def filled(mapping):
    mapping[:] = os.urandom(SIZE_BYTES)
    return mapping


@pytest.mark.parametrize("call", [pages.touch, pages.sync, pages.forget])
@pytest.mark.parametrize(
    ("start", "size"), [(0, SIZE_BYTES), (PAGE_BYTES, 1), (PAGE_BYTES, PAGE_BYTES + 1), (0, 0)]
)
def test_content_stays_as_it_is(filled, call, start, size):
    before = filled[:]
    call(filled, start, size)
    assert filled[:] == before


@pytest.mark.parametrize("call", [pages.touch, pages.sync, pages.forget])
@pytest.mark.parametrize(
    ("start", "size"), [(1, 1), (0, SIZE_BYTES + 1), (SIZE_BYTES, 1), (SIZE_BYTES + PAGE_BYTES, 0)]
)
def test_a_range_that_is_not_the_mappings_is_an_error(mapping, call, start, size):
    with pytest.raises(ValueError, match="not a range"):
        call(mapping, start, size)


def test_what_may_not_be_written_is_not_touched(mapping):
    with pytest.raises(BufferError):
        pages.touch(memoryview(mapping).toreadonly(), 0, PAGE_BYTES)


def test_a_mapping_can_be_closed_after_each_call(tmp_path):
    with open(tmp_path / "file", "wb+") as file:
        file.truncate(PAGE_BYTES)
        mapped = mmap.mmap(file.fileno(), PAGE_BYTES)
        for call in (pages.touch, pages.sync, pages.forget):
            call(mapped, 0, PAGE_BYTES)
        with pytest.raises(ValueError, match="not a range"):
            pages.touch(mapped, 0, PAGE_BYTES + 1)
        mapped.close()


def test_touching_loses_nothing_that_is_written_meanwhile(mapping):
    is_done = threading.Event()

    def touch_on():
        while not is_done.is_set():
            pages.touch(mapping, 0, SIZE_BYTES)

    thread = threading.Thread(target=touch_on)
    thread.start()
    try:
        for number in range(2000):
            at = number % 64 * PAGE_BYTES
            mapping[at : at + 8] = number.to_bytes(8, "big")
            assert mapping[at : at + 8] == number.to_bytes(8, "big")
    finally:
        is_done.set()
        thread.join()


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="Linux tells of a mapping's pages")
def test_touched_pages_are_dirty_and_forgotten_ones_are_not_in_memory(mapping, tmp_path):
    pages.touch(mapping, 0, 16 * PAGE_BYTES)
    touched = of_mapping(tmp_path / "file")
    assert touched["Rss"] >= touched["Shared_Dirty"] + touched["Private_Dirty"] >= 16 * PAGE_BYTES // 1024
    pages.forget(mapping, 0, SIZE_BYTES)
    assert of_mapping(tmp_path / "file")["Rss"] == 0


def of_mapping(path):
    """What the kernel says of this process's mapping of a file, in KB."""
    with open("/proc/self/smaps") as file:
        text = file.read()
    lines = text[text.index(str(path)) :].splitlines()[1:15]
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}
