"""Records to test with, and what stands in a ledger's files."""

import os

import orjson

from llmgw._core.record import call_to_record
from llmgw._wire.call import Call
from llmgw.ledger import LedgerFile
from llmgw.ledger.writer import State

NOVEMBER_S = 1_793_491_200.0  # 2026-11-01T00:00:00Z
DAY_S = 86400.0
OF_THE_CALL = ("tenant_id", "key_name", "user", "model_requested", "model_used", "provider_used", "endpoint")


class Patient(LedgerFile):
    """Its thread does nothing but close it: what the thread would do is the test's to call, as `tick`."""

    def _run(self):
        while self._state is not State.CLOSED:
            self._wake.wait()
            self._wake.clear()
        self._finish()


def record(attempt_id="a1", at_s=NOVEMBER_S, *, outcome="ok", charged=True, recovered=False, **facts):
    """A record's line; what of `facts` is the Call's goes into it."""
    call = Call()
    call.tenant_id, call.key_name, call.provider_used = "acme", "web", "openai"
    for name in OF_THE_CALL:
        if name in facts:
            setattr(call, name, facts.pop(name))
    return call_to_record(call, attempt_id, outcome, charged, recovered, at_s=at_s, **facts)


def content(path):
    """Without the unwritten end."""
    with open(path, "rb") as file:
        return file.read().rstrip(b"\0")


def written(directory):
    """All files' content in the order of their names."""
    return b"".join(content(os.path.join(directory, name)) for name in sorted(os.listdir(directory)))


def ids(lines):
    return [orjson.loads(line)["attempt_id"] for line in lines.splitlines()]
