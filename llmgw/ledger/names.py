"""The files of a ledger: `2026-11-21T04-05-06.123-s3.jsonl` began then and was written by slot 3.

Names sort by the time at which a file began. A record's `ts` is when its attempt was admitted, so it
may lie before its file's beginning, by as long as a request may take.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

SUPERVISOR: Final = "supervisor"
NAME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3})-(s\d+|supervisor)\.jsonl", re.ASCII)

BLOCK_BYTES: Final = 1 << 20  # that files are read in
UNWRITTEN: Final = bytes(BLOCK_BYTES)  # compared with, which is 20 times as fast as stripping


class LedgerPath(NamedTuple):
    path: str
    start_s: float
    writer: str


def name_of(start_s: float, writer: str) -> str:
    return f"{stamp_of(start_s)[:-1].replace(':', '-')}-{writer}.jsonl"


def stamp_of(unix_s: float) -> str:
    """As `ts` of a record: RFC 3339, UTC, milliseconds. Such texts compare as their moments do."""
    moment = datetime.fromtimestamp(round(unix_s * 1000) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment_of(stamp: str) -> float:
    """ValueError for what is no RFC 3339 moment."""
    return datetime.fromisoformat(stamp).timestamp()


def files_in(directory: str) -> list[LedgerPath]:
    """In the order of their beginning. Whatever else lies in the directory, links too, is left alone."""
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    found = [path for name in names if (path := _parse(directory, name)) is not None]
    return sorted(found, key=lambda path: path.path)


def _parse(directory: str, name: str) -> LedgerPath | None:
    match = NAME.fullmatch(name)
    if match is None:
        return None
    day, _, time = match[1].partition("T")
    try:
        start_s = moment_of(f"{day}T{time.replace('-', ':')}Z")
    except ValueError:
        return None
    return LedgerPath(os.path.join(directory, name), start_s, match[2])
