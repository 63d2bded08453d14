"""What really arrived at the mock. Tests of a gateway count with it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from typing import Any

OPEN, COMPLETE, CLIENT_GONE, FAULT = "open", "complete", "client_gone", "fault"


class Arrival:
    """One request as it came off the socket, and how its answer ended.

    Times are those of `time.monotonic`, in seconds. A body above `Options.keep_body_bytes` is
    not kept; its size and digest are (`body_bytes`, `body_sha256`).
    """

    __slots__ = (
        "body",
        "body_bytes",
        "connection",
        "digest",
        "ended",
        "finished_s",
        "method",
        "path",
        "query",
        "raw_headers",
        "started_s",
        "status",
    )

    def __init__(self, connection: int, started_s: float) -> None:
        self.connection = connection
        self.started_s = started_s
        self.finished_s = 0.0
        self.method = ""
        self.path = ""
        self.query = ""
        self.raw_headers: list[tuple[bytes, bytes]] = []
        self.body: bytes | None = None  # None until it is there whole, or when it is large
        self.body_bytes = 0
        self.digest = ""
        self.status = 0  # 0 = no head was sent
        self.ended = OPEN

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers in their order and spelling."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.raw_headers]

    def values(self, name: str) -> list[str]:
        """Every value of one header, whatever its spelling."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def body_sha256(self) -> str:
        return self.digest or hashlib.sha256(self.body or b"").hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {
            "connection": self.connection,
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "headers": self.headers,
            "body": None if self.body is None else self.body.decode("utf-8", "replace"),
            "body_bytes": self.body_bytes,
            "body_sha256": self.body_sha256,
            "status": self.status,
            "started_s": self.started_s,
            "finished_s": self.finished_s,
            "ended": self.ended,
        }


class Seen:
    """The last arrivals, oldest first, and counters of everything since the last `clear`."""

    COUNTERS = (
        "connections",
        "requests",
        "complete",
        "client_gone",
        "faults",
        "unauthorized",
        "malformed",
        "body_bytes",
    )
    __slots__ = (*COUNTERS, "_arrivals")

    def __init__(self, keep: int) -> None:
        self._arrivals: deque[Arrival] = deque(maxlen=keep)
        self.clear()

    def clear(self) -> None:
        self._arrivals.clear()
        self.connections = 0
        self.requests = 0  # heads that were read whole
        self.complete = 0  # answered to the end
        self.client_gone = 0  # the other side left first
        self.faults = 0  # ended by a fault that was asked for
        self.unauthorized = 0
        self.malformed = 0  # bytes that are not HTTP/1.1; not among `requests`
        self.body_bytes = 0

    def add(self, arrival: Arrival) -> None:
        self.requests += 1
        self._arrivals.append(arrival)

    def finish(self, arrival: Arrival, ended: str, now_s: float) -> None:
        assert arrival.ended == OPEN
        arrival.ended = ended
        arrival.finished_s = now_s
        if ended == COMPLETE:
            self.complete += 1
        elif ended == CLIENT_GONE:
            self.client_gone += 1
        else:
            self.faults += 1

    def counters(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.COUNTERS}

    def __len__(self) -> int:
        return len(self._arrivals)

    def __iter__(self) -> Iterator[Arrival]:
        return iter(self._arrivals)

    def __getitem__(self, index: int) -> Arrival:
        return self._arrivals[index]
