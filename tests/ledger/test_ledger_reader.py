"""Each attempt comes once, from every file that can hold it, and what is torn is counted and left out."""

import os
import tracemalloc

import orjson
import pytest
from ledgerkit import DAY_S, NOVEMBER_S, record

from llmgw.ledger import Reader, append_crashed, expire, recover
from llmgw.ledger import reader as reading
from llmgw.ledger.names import files_in, name_of


def left(directory, data, start_s=NOVEMBER_S, writer="s0", *, mtime_s=None):
    os.makedirs(directory, 0o700, exist_ok=True)
    path = os.path.join(directory, name_of(start_s, writer))
    with open(path, "wb") as file:
        file.write(data)
    if mtime_s is not None:
        os.utime(path, (mtime_s, mtime_s))


def found(reader):
    return [record["attempt_id"] for record in reader]


def test_records_of_all_files_come(directory):
    left(directory, record("a1") + record("a2"))
    left(directory, record("b1"), writer="s1")
    left(directory, record("c1"), NOVEMBER_S + DAY_S)
    assert found(Reader(directory)) == ["a1", "a2", "b1", "c1"]


def test_a_record_comes_as_it_was_written(directory):
    left(directory, record("a1", tags=("x", "y"), input_tokens=7, cost_usd_micro=12, user="ü"))
    (only,) = Reader(directory)
    assert only["ts"] == "2026-11-01T00:00:00.000Z"
    assert (only["tags"], only["input_tokens"], only["cost_usd_micro"], only["user"]) == (
        ["x", "y"],
        7,
        12,
        "ü",
    )


def test_a_file_that_is_being_written_is_read_as_far_as_it_is(opened, directory):
    ledger = opened()
    ledger.append(record("a1"))
    reader = Reader(directory)
    assert found(reader) == ["a1"]
    ledger.append(record("a2"))
    assert found(reader) == ["a1", "a2"]
    assert reader.torn_lines == 0


@pytest.mark.parametrize("tail", [b"", bytes(9), bytes(3 << 20)])
@pytest.mark.parametrize("size_bytes", [1, 20, len(record("torn")) - 1])
def test_a_torn_end_is_left_out_and_counted(directory, tail, size_bytes):
    left(directory, record("a1") + record("torn")[:size_bytes] + tail)
    reader = Reader(directory)
    assert found(reader) == ["a1"]
    assert reader.torn_lines == 1


@pytest.mark.parametrize("block_bytes", [512, 4096])
@pytest.mark.parametrize("hole_bytes", [4096, 8192, 12288])
@pytest.mark.parametrize("at", [0, 4096, 8192])
def test_pages_that_never_reached_the_disk_cost_the_lines_in_them_and_no_other(
    directory, monkeypatch, block_bytes, hole_bytes, at
):
    monkeypatch.setattr(reading, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(reading, "UNWRITTEN", bytes(block_bytes))
    monkeypatch.setattr(reading, "RECORD_MAX_BYTES", 1024)
    lines = [record(f"a{number}") for number in range(100)]
    data = b"".join(lines)
    left(directory, data[:at] + bytes(hole_bytes) + data[at + hole_bytes :])
    starts = [sum(map(len, lines[:index])) for index in range(len(lines))]
    whole = [
        f"a{index}"
        for index, start in enumerate(starts)
        if start + len(lines[index]) <= at or start >= at + hole_bytes
    ]
    reader = Reader(directory)
    assert found(reader) == whole
    assert reader.torn_lines in {1, 2}


def test_what_is_no_record_is_left_out_and_counted(directory):
    left(directory, b'[1]\n{"ts":"2026-11-01T00:00:00.000Z"}\n42\n\xff\xfe\n' + record("a1"))
    reader = Reader(directory)
    assert found(reader) == ["a1"]
    assert reader.torn_lines == 4


def test_a_period_begins_with_its_first_moment_and_ends_before_its_last(directory):
    moments = [NOVEMBER_S + index for index in range(5)]
    left(directory, b"".join(record(f"a{index}", at_s) for index, at_s in enumerate(moments)))
    assert found(Reader(directory, NOVEMBER_S + 1, NOVEMBER_S + 3)) == ["a1", "a2"]
    assert found(Reader(directory, NOVEMBER_S + 0.001)) == ["a1", "a2", "a3", "a4"]


def test_only_files_that_may_matter_are_opened(directory, monkeypatch):
    for day in range(5):
        at_s = NOVEMBER_S + day * DAY_S
        left(directory, record(f"a{day}", at_s), at_s, mtime_s=at_s)
    opened = []
    real = reading.lines_of
    monkeypatch.setattr(
        reading, "lines_of", lambda path: (opened.append(os.path.basename(path)[:10]), real(path))[1]
    )
    assert found(Reader(directory, NOVEMBER_S + 2 * DAY_S, NOVEMBER_S + 3 * DAY_S)) == ["a2"]
    assert opened == ["2026-11-03", "2026-11-04"]


def test_a_record_that_is_older_than_its_file_is_found(directory):
    left(directory, record("a1", NOVEMBER_S - 3600), NOVEMBER_S)
    assert found(Reader(directory, NOVEMBER_S - 7200, NOVEMBER_S - 1800)) == ["a1"]


def test_of_a_recovered_record_and_a_normal_one_the_normal_one_counts(directory):
    append_crashed(
        directory,
        record("a1", outcome="crashed", recovered=True),
        record("a2", outcome="crashed", recovered=True),
    )
    left(directory, record("a1", outcome="ok"))
    assert [(one["attempt_id"], one["outcome"]) for one in Reader(directory)] == [
        ("a1", "ok"),
        ("a2", "crashed"),
    ]


def test_a_recovered_record_that_was_written_twice_counts_once(directory):
    for _ in range(2):
        append_crashed(directory, record("a1", recovered=True))
    assert found(Reader(directory)) == ["a1"]


def test_a_recovered_record_outside_the_period_does_not_count(directory):
    append_crashed(directory, record("a1", NOVEMBER_S, recovered=True))
    assert found(Reader(directory, NOVEMBER_S + 1)) == []


def test_torn_lines_are_the_same_before_and_after_recovery_but_for_their_count(directory):
    left(directory, record("a1") + record("torn")[:40] + bytes(100))
    before = found(Reader(directory))
    recover(directory)
    reader = Reader(directory)
    assert found(reader) == before == ["a1"]
    assert reader.torn_lines == 0


def test_a_file_that_goes_while_others_are_read_is_passed_over(directory):
    left(directory, record("a1"))
    left(directory, record("b1"), NOVEMBER_S + 1)
    records = iter(Reader(directory))
    next(records)
    os.unlink(files_in(directory)[1].path)
    assert list(records) == []


def test_a_directory_that_is_not_there_is_an_error(directory):
    with pytest.raises(FileNotFoundError):
        found(Reader(directory))


def test_memory_does_not_grow_with_the_ledger(directory):
    line = record("a1")
    left(directory, line * ((12 << 20) // len(line)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in Reader(directory)) > 20_000
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("ts", value) for value in (7, None, "yesterday", "2026-13-01T00:00:00.000Z", "2026-11-01")),
        *(
            (name, value)
            for name in ("input_tokens", "output_tokens")
            for value in (None, "7", 1.5, 10**18 * 9)
        ),
        *(("cost_usd_micro", value) for value in ("12", True, [])),
        *(("tags", value) for value in (None, "x", [1])),
        *(("tenant_id", 5), ("charged", 1), ("attempt_id", None)),
    ],
)
def test_a_record_with_a_wrong_value_is_left_out_and_counted(directory, field, value):
    wrong = orjson.dumps({**orjson.loads(record("wrong")), field: value}) + b"\n"
    left(directory, record("a1") + wrong + record("a2"))
    left(directory, wrong, writer="supervisor")
    reader = Reader(directory)
    assert found(reader) == ["a1", "a2"]
    assert reader.torn_lines == 2


def test_what_is_no_file_is_passed_over_whatever_its_name(directory, tmp_path):
    left(directory, record("a1"))
    os.mkdir(os.path.join(directory, name_of(NOVEMBER_S, "s1")))
    os.symlink(tmp_path / "elsewhere", os.path.join(directory, name_of(NOVEMBER_S, "s2")))
    os.symlink(directory, os.path.join(directory, name_of(NOVEMBER_S, "supervisor")))
    assert found(Reader(directory)) == ["a1"]
    assert recover(directory).files == 0
    append_crashed(directory, record("c1", recovered=True))
    assert found(Reader(directory)) == ["a1", "c1"]
    assert expire(directory, DAY_S, NOVEMBER_S + 9 * DAY_S) == 1
