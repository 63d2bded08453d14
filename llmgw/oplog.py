"""The gateway's own messages: the standard library's logging as JSON lines on standard error.

A line is at most PIPE_BUF bytes, written in one call, so lines of several processes stay apart; a
standard error that nobody reads loses lines instead of blocking the event loop. Whatever looks
like a credential is taken out of every line, as a second line of defence: none should get here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import select
import time
from typing import Final

STDERR: Final = 2
CREDENTIALS: Final = re.compile(
    r"""(?ix)
    (?P<word> (?: bearer | basic ) \s+ | ["']? (?: x-)? (?: goog-)? (?: api[-_]?key | authorization ) ["']? \s* [:=] \s* ["']? )
        (?! bearer | basic ) [^\s"',;&]+
    | \b (?: sk | pk | rk ) - [a-z0-9_-]{6,}
    | \b AIza [a-z0-9_-]{16,}
    """
)


def redact(text: str) -> str:
    return CREDENTIALS.sub(lambda found: (found["word"] or "") + "[redacted]", text)


class JsonFormatter(logging.Formatter):
    """`ts level logger pid message`, and `exception` with the traceback's end."""

    def format(self, record: logging.LogRecord) -> str:
        message = redact(record.getMessage())
        trace = redact(self.formatException(record.exc_info)) if record.exc_info else ""
        for limit in (1500, 250):  # characters; of the second, escapes too fit into PIPE_BUF
            line = self._line(record, message[:limit], trace[-limit:])
            if len(line) < select.PIPE_BUF:
                break
        return line

    def _line(self, record: logging.LogRecord, message: str, trace: str) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        facts: dict[str, object] = {
            "ts": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": os.getpid(),
            "message": message,
        }
        if trace:
            facts["exception"] = trace
        return json.dumps(facts)


class StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):  # a message that cannot be written ends nothing
            line = self.format(record).encode() + b"\n"
            poller = select.poll()
            poller.register(STDERR, select.POLLOUT)
            if poller.poll(0):
                os.write(STDERR, line)


def setup_logging(level: str) -> None:
    """All loggers of the process to standard error; `level` is debug, info, warning or error."""
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
