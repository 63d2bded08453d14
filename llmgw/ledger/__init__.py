"""The ledger: one record for each upstream attempt, appended to files; the truth about money.

    names    the files of a directory, and when each began
    mapped   a file as a mapping with disk behind it before it is written
    writer   LedgerFile: what a worker appends to
    repair   what a supervisor does: recover, append_crashed, expire
    reader   records of all files, torn ones left out
    totals   sums of records
    cli      `llmgw usage`, with `show` for its output

A record itself is composed in `_core.record`; docs/ledger.md has its fields and what is guaranteed.
"""

from llmgw.ledger.reader import Reader, Record
from llmgw.ledger.repair import Recovery, append_crashed, expire, recover
from llmgw.ledger.totals import BY, Sum, Totals
from llmgw.ledger.writer import LedgerFile

__all__ = [
    "BY",
    "LedgerFile",
    "Reader",
    "Record",
    "Recovery",
    "Sum",
    "Totals",
    "append_crashed",
    "expire",
    "recover",
]
