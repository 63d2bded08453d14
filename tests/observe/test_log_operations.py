"""The gateway's own messages on standard error."""

import json
import logging
import os
import subprocess
import sys

import pytest

from llmgw.oplog import JsonFormatter, redact


def formatted(message, *values, error=None):
    record = logging.LogRecord("llmgw.x", logging.WARNING, "file", 1, message, values, error)
    return json.loads(JsonFormatter().format(record))


def test_a_message_is_one_json_line_with_its_facts():
    found = formatted("worker %d ended\nbadly", 3)
    assert found["message"] == "worker 3 ended\nbadly"
    assert (found["level"], found["logger"], found["pid"]) == ("warning", "llmgw.x", os.getpid())
    assert found["ts"].endswith("Z")


def test_a_traceback_comes_with_its_end():
    try:
        raise ValueError("told with sk-abcdefgh12345")
    except ValueError:
        found = formatted("failed", error=sys.exc_info())
    assert found["exception"].endswith("ValueError: told with [redacted]")


@pytest.mark.parametrize("text", ["x" * 10_000, "\0" * 10_000, "\U0001f600" * 10_000, "\ud800" * 5000])
def test_no_line_is_longer_than_a_pipe_keeps_whole(text):
    record = logging.LogRecord("llmgw.x", logging.ERROR, "file", 1, text, (), None)
    assert len(JsonFormatter().format(record).encode()) < 4096


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer [redacted]"),
        ('{"authorization": "Bearer abc"}', '{"authorization": "Bearer [redacted]"}'),
        ("x-api-key: abc, next", "x-api-key: [redacted], next"),
        ("api_key='abc'", "api_key='[redacted]'"),
        ("GET /v1?api-key=abc&x=1", "GET /v1?api-key=[redacted]&x=1"),
        ("key sk-proj-abc_DEF-123456 failed", "key [redacted] failed"),
        ("x-goog-api-key=AIzaSyA1234567890123456", "x-goog-api-key=[redacted]"),
        ("AIzaSyA1234567890123456789", "[redacted]"),
        ("a task is-ok, sk-y, ask-whoever", "a task is-ok, sk-y, ask-whoever"),
    ],
)
def test_what_looks_like_a_credential_is_taken_out_and_nothing_else(text, safe):
    assert redact(text) == safe


PROGRAM = """
import logging, sys
from llmgw.oplog import setup_logging
setup_logging("info")
for _ in range(2000):
    logging.getLogger("x").info("y" * 500)
logging.getLogger("x").debug("not this")
logging.getLogger("x").error("%d", "no number")
print("done")
"""


def test_an_error_output_that_nobody_reads_does_not_stop_the_process():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"done\n", "1 MB of messages into an unread pipe"
    errors = process.communicate(timeout=20)[1]
    lines = [json.loads(one) for one in errors.splitlines()]
    assert 10 < len(lines) < 2000
    assert all(one["level"] == "info" for one in lines)


def test_an_error_output_that_is_closed_does_not_stop_the_process():
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -c '{PROGRAM}' 2>&-"], stdout=subprocess.PIPE, check=True
    )
    assert done.stdout == b"done\n"
