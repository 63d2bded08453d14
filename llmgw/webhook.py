"""Alerts on their way out: a line in the gateway's own log, and a JSON POST to the configured webhook.

Nobody waits for it. What is queued is bounded, each attempt has a deadline of its own, and an alert
that cannot be delivered is given up and counted. The address is a credential (chat services put a
secret into its path), so that of it only scheme and host are ever logged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from llmgw import __version__
from llmgw.limits.alerts import Alert

__all__ = ["AlertSender", "read_memory", "write_memory"]

logger = logging.getLogger("llmgw")

DEADLINE_S: Final = 5.0  # of one attempt
ATTEMPTS: Final = 3
FIRST_DELAY_S: Final = 1.0  # doubles
QUEUED: Final = 100  # alerts
MEMORY_BYTES: Final = 4 << 20
HEADERS: Final = {"Content-Type": "application/json", "User-Agent": f"llmgw/{__version__}"}


class AlertSender:
    """`url` is replaced at a reload. `count` gets one word for each alert: sent, failed, dropped, logged."""

    def __init__(
        self,
        url: str | None,
        count: Callable[[str], None],
        *,
        deadline_s: float = DEADLINE_S,
        first_delay_s: float = FIRST_DELAY_S,
    ) -> None:
        self.url = url
        self._count = count
        self._deadline_s = deadline_s
        self._first_delay_s = first_delay_s
        self._queue: deque[Alert] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def send(self, alert: Alert) -> None:
        """Logs the alert and queues it; from the event loop. Where there is no webhook, the log is all."""
        logger.warning("%s", alert.text)
        if not self.url:
            self._count("logged")
        elif self._is_closed or len(self._queue) >= QUEUED:
            self._count("dropped")
        else:
            self._queue.append(alert)
            if self._task is None or self._task.done():
                self._task = asyncio.get_running_loop().create_task(self._deliver_all())

    async def close(self) -> None:
        """Takes one attempt's deadline at most; what is not delivered by then is dropped."""
        self._is_closed = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=self._deadline_s)
            self._task.cancel()
            await asyncio.wait([self._task])
        while self._queue:
            self._queue.popleft()
            self._count("dropped")

    async def _deliver_all(self) -> None:
        """In order, until nothing is queued. What is under way still counts as queued."""
        while self._queue:  # closing the session takes a moment, in which another alert may come
            async with aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar()) as session:
                while self._queue:
                    is_sent = await self._deliver(session, self._queue[0])
                    self._queue.popleft()
                    self._count("sent" if is_sent else "failed")

    async def _deliver(self, session: aiohttp.ClientSession, alert: Alert) -> bool:
        body = json.dumps(alert.payload()).encode()  # ASCII: there is no name that it cannot write
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(self._first_delay_s * 2 ** (attempt - 1))
            problem, is_final = await self._post(session, body)
            if not problem:
                return True
            if is_final:
                break
        logger.error("alert %s was not delivered to %s: %s", alert.id, _host(self.url), problem)
        return False

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> tuple[str, bool]:
        """(what went wrong or "", whether a further attempt is useless). The answer's body is not read."""
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                session.post(
                    self.url or "", data=body, headers=HEADERS, allow_redirects=False, timeout=NO_TIMEOUT
                ) as answer,
            ):
                status = answer.status
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            return type(error).__name__, isinstance(error, ValueError)
        if 200 <= status < 300:
            return "", True
        return f"status {status}", status < 500 and status not in {408, 425, 429}


NO_TIMEOUT: Final = aiohttp.ClientTimeout(total=None)  # ours is around the whole attempt


def _host(url: str | None) -> str:
    """Scheme and host: neither user information nor path nor query, any of which may hold a secret."""
    try:
        parts = urlsplit(url or "")
        return f"{parts.scheme}://{parts.hostname or ''}"
    except ValueError:
        return "an address that cannot be read"


def read_memory(path: str) -> bytes:
    """What the last process had told (`Alerts.memory`); empty where there is nothing that can be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            return file.read(MEMORY_BYTES)
    except OSError:
        return b""


def write_memory(path: str, memory: bytes) -> None:
    """Replaces the file whole; for a thread, since a busy disk takes its time. One writer at a time.

    Raises OSError. The directory is the state directory: nobody else may write there.
    """
    new = path + ".new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(memory)
    os.replace(new, path)
