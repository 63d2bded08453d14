"""Appends records for ever, and after each one says on standard output how many there are. Ended by kill."""

import os
import sys

from ledgerkit import record

from llmgw.ledger import LedgerFile

ledger = LedgerFile(sys.argv[1], 0, max_file_bytes=200_000, sync_s=0.01, on_error=print)
number = 0
while True:
    assert ledger.append(record(f"a{number}"))
    number += 1
    os.write(1, b"%d\n" % number)
