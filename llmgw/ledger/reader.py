"""Records of all files of a ledger, those that are being written included.

A line that is not whole is left out and counted, as is one that is no record. A `recovered` record,
which the supervisor wrote for a worker that died, counts only where its attempt has no other one.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from llmgw._core.record import RECORD_MAX_BYTES
from llmgw.ledger.names import BLOCK_BYTES, SUPERVISOR, UNWRITTEN, LedgerPath, files_in, moment_of, stamp_of

Record = dict[str, Any]  # docs/ledger.md

# What sums need of a record, and its types; later versions may add to it.
FIELDS: Final[dict[str, tuple[type, ...]]] = {
    **dict.fromkeys(("ts", "attempt_id"), (str,)),
    **dict.fromkeys(("tenant_id", "key_name", "user"), (str, type(None))),
    **dict.fromkeys(("model_requested", "model", "provider_used"), (str, type(None))),
    "tags": (list,),
    **dict.fromkeys(("input_tokens", "output_tokens", "cached_tokens"), (int,)),
    "cost_usd_micro": (int, type(None)),
    "charged": (bool,),
}
STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
AMOUNT_MAX: Final = 1 << 60  # as limits count
TORN: Final = b""  # stands for a line without its end
# How far a record's `ts` may lie from what its file says of itself: a request's whole time, and steps of
# the wall clock. It decides only which files are opened.
SLACK_S: Final = 6 * 3600.0
FOREVER_S: Final = 253402300799.0  # the last second of 9999


class Reader:
    """Iterated, it gives each record of [since_s, until_s) once. Memory: a block, and the ids recovered."""

    def __init__(self, directory: str, since_s: float = 0.0, until_s: float = math.inf) -> None:
        self.directory = directory
        self._since_s = since_s
        self._until_s = until_s
        self._since = stamp_of(max(since_s, 0.0))
        self._until = stamp_of(min(until_s, FOREVER_S))
        self.torn_lines = 0  # left out, so far

    def __iter__(self) -> Iterator[Record]:
        """Raises OSError."""
        files = [file for file in files_in(self.directory) if self._may_matter(file)]
        crashed = [file for file in files if file.writer == SUPERVISOR]
        pending = {record["attempt_id"] for file in crashed for record in self._read(file)}
        self.torn_lines = 0
        for file in files:
            if file.writer == SUPERVISOR:
                continue
            for record in self._read(file):
                if pending:
                    pending.discard(record["attempt_id"])
                if self._since <= record["ts"] < self._until:
                    yield record
        for file in crashed:
            for record in self._read(file):
                if record["attempt_id"] in pending:
                    pending.discard(record["attempt_id"])
                    if self._since <= record["ts"] < self._until:
                        yield record

    def _may_matter(self, file: LedgerPath) -> bool:
        return file.start_s - SLACK_S < self._until_s and _written_s(file.path) + SLACK_S >= self._since_s

    def _read(self, file: LedgerPath) -> Iterator[Record]:
        for line in lines_of(file.path):
            record = record_of(line)
            if record is None:
                self.torn_lines += 1
            else:
                yield record


def record_of(line: bytes) -> Record | None:
    """None where the line is torn or none of ours."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and is_sound(record) else None


def is_sound(record: Record) -> bool:
    return (
        record.keys() >= FIELDS.keys()
        and all(type(record[name]) in kinds for name, kinds in FIELDS.items())
        and all(type(tag) is str for tag in record["tags"])
        and all(abs(value) <= AMOUNT_MAX for value in record.values() if type(value) is int)
        and is_stamp(record["ts"])
    )


def is_stamp(text: str) -> bool:
    """In the very form of `stamp_of`: such texts are compared."""
    try:
        return STAMP.fullmatch(text) is not None and moment_of(text) >= 0
    except ValueError:
        return False


def lines_of(path: str) -> Iterator[bytes]:
    """Lines without their newlines; TORN for a last one that has none. Runs of NUL are skipped.

    A run of NUL is what was not written yet, or not yet on the disk when the machine stopped; a line
    that it is in the middle of comes as a text that is no JSON.
    """
    rest = b""
    for block in _blocks(path):
        if block == UNWRITTEN:
            rest = rest and rest + b"\0"
            continue
        *lines, rest = (rest + block).split(b"\n")
        yield from filter(None, (line.strip(b"\0") for line in lines))
        rest = rest.lstrip(b"\0")[: 2 * RECORD_MAX_BYTES]  # longer is no record
    if rest.strip(b"\0"):
        yield TORN


def _blocks(path: str) -> Iterator[bytes]:
    """A file that is gone meanwhile has none."""
    try:
        with open(path, "rb", buffering=0) as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except FileNotFoundError:
        return


def _written_s(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return -math.inf
