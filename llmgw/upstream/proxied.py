"""Providers behind an egress proxy: aiohttp's client speaks CONNECT, we keep one interface.

Not the hot path: whoever sends all traffic through a proxy pays for the proxy anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import SplitResult

import aiohttp
from yarl import URL

from llmgw._wire.deadline import Wheel
from llmgw._wire.upstream import Connection
from llmgw.config import Provider
from llmgw.errors import UpstreamBroken, UpstreamError, UpstreamTimeout

OnLost = Callable[[Connection], object]
QUEUE_BYTES = 1 << 20


class Valve(asyncio.Transport):
    """The transport that a proxied connection writes to and slows down."""

    def __init__(self, connection: ProxiedConnection) -> None:
        super().__init__()
        self.connection = connection
        self.open = asyncio.Event()
        self.open.set()

    def pause_reading(self) -> None:
        self.open.clear()

    def resume_reading(self) -> None:
        self.open.set()

    def write(self, data: Any) -> None:
        self.connection.upload(bytes(data))

    def abort(self) -> None:
        self.connection.stop()


class ProxiedConnection(Connection):
    """One exchange through aiohttp's client, told to the Connection as its own parser would."""

    def __new__(cls, owner: ProxiedConnections, loop: asyncio.AbstractEventLoop, on_lost: OnLost) -> Any:
        return super().__new__(cls, loop, owner.wheel, on_lost)

    def __init__(self, owner: ProxiedConnections, loop: asyncio.AbstractEventLoop, on_lost: OnLost) -> None:
        self.owner = owner
        self.task: asyncio.Task[None] | None = None
        self.uploads: asyncio.Queue[bytes] = asyncio.Queue()
        self.upload_missing = 0
        self.valve = Valve(self)
        self.connection_made(self.valve)

    def send(self, head: bytes, body: list[bytes | memoryview]) -> int:
        lines = head.decode("latin-1").split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        data = b"".join(body)
        self.upload_missing = int(headers.get("content-length", "0")) - len(data)
        source = self.stream_upload() if self.upload_missing > 0 else data or None
        self.task = asyncio.get_running_loop().create_task(self.exchange(method, target, headers, source))
        return 0

    def upload(self, data: bytes) -> None:
        self.uploads.put_nowait(data)
        if self.uploads.qsize() > QUEUE_BYTES >> 16:
            self.pause_writing()

    async def stream_upload(self) -> Any:
        while self.upload_missing > 0:
            piece = await self.uploads.get()
            self.upload_missing -= len(piece)
            self.resume_writing()
            yield piece

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
        asyncio.get_running_loop().call_soon(self.connection_lost, None)

    async def exchange(self, method: str, target: str, headers: dict[str, str], data: Any) -> None:
        try:
            async with self.owner.session().request(
                method,
                URL(self.owner.origin + target, encoded=True),
                headers=headers,
                data=data,
                proxy=self.owner.proxy,
                ssl=self.owner.tls,
                allow_redirects=False,
            ) as response:
                self.take_head(response.status, list(response.raw_headers))
                async for piece in response.content.iter_any():
                    self.take_piece(piece)
                    await self.valve.open.wait()
                self.take_end()
        except asyncio.CancelledError:
            raise
        except TimeoutError:
            self.fail(UpstreamTimeout("The provider could not be connected to in time."))
        except (aiohttp.ClientError, OSError) as error:
            self.fail(broken(error))


def broken(error: Exception) -> UpstreamError:
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError):
        return UpstreamBroken("The provider could not be connected to.", cause="connect")
    return UpstreamBroken("The provider closed the connection before its answer was complete.")


class ProxiedConnections:
    """aiohttp pools what lies behind; a Connection here lasts one exchange."""

    def __init__(self, url: SplitResult, provider: Provider, wheel: Wheel) -> None:
        from llmgw.upstream.pool import tls_context

        self.origin = f"{url.scheme}://{url.netloc}"
        self.proxy = provider.proxy
        self.tls: Any = tls_context(provider) if url.scheme == "https" else True
        self.wheel = wheel
        self.connect_s = provider.timeouts.connect
        self.age_s = provider.connection_age
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=self.age_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None, connect=self.connect_s),
                skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
            )
        return self._session

    async def connect(self, on_lost: OnLost, until_s: float) -> Connection:
        """Connects when it is asked, under its own deadline and the request's."""
        return ProxiedConnection(self, asyncio.get_running_loop(), on_lost)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
