"""What keeps a request with the target that served its like before: the strategy `hash`."""

from __future__ import annotations

import re
from functools import lru_cache

from llmgw._wire.affinity import affinity_of, conversation_key
from llmgw._wire.call import Call

HEADER = "header:"


def affinity(call: Call, hash_on: str) -> int:
    """63 bits. Requests that have nothing to go by are spread, so that no target gets them all."""
    if hash_on == "user":
        found = affinity_of(call.user) if call.user else 0
    elif hash_on.startswith(HEADER):
        value = header_in(call.head or b"", hash_on.removeprefix(HEADER).encode())
        found = affinity_of(value) if value else 0
    else:
        found = conversation_key(call.body)
    return found or affinity_of(call.request_id)


def header_in(head: bytes, name: bytes) -> bytes:
    """The value of a header of a request's head; b"" where it is not there."""
    found = pattern_of(name).search(head)
    return found[1].strip() if found else b""


@lru_cache(maxsize=256)  # names of the configuration
def pattern_of(name: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"(?im)^" + re.escape(name) + rb":([^\r\n]*)")
