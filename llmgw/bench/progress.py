"""A line that moves while a run goes on, where somebody is watching."""

from __future__ import annotations

import sys
from typing import TextIO

from llmgw.bench.load import Load

_WIDTH = 30


class Bar:
    """Writes to a terminal only; elsewhere it is silent."""

    def __init__(self, out: TextIO = sys.stderr) -> None:
        self._out = out
        self._is_on = out.isatty()

    def tick(self, load: Load, share: float) -> None:
        if not self._is_on:
            return
        full = round(share * _WIDTH)
        failed = load.result.failures.total()
        line = f"[{'#' * full}{'.' * (_WIDTH - full)}] {share:4.0%}  {load.result.completed} answers"
        self._write(line + (f"  {failed} FAILED" if failed else ""))

    def clear(self) -> None:
        if self._is_on:
            self._write("")

    def _write(self, line: str) -> None:
        self._out.write(f"\r\x1b[K{line}")
        self._out.flush()
