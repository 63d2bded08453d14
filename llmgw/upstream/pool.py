"""The connections to one provider: the one used last is used next, so that the others may age and go."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

import aiofastnet

from llmgw._wire.deadline import Wheel
from llmgw._wire.upstream import Connection
from llmgw.config import Provider
from llmgw.errors import UpstreamBroken, UpstreamTimeout
from llmgw.upstream.proxied import ProxiedConnections

DEFAULT_PORTS = {"http": 80, "https": 443}


OnLost = Callable[[Connection], object]
# The class by another name: docs/design.md, "The way of a request is compiled".
Connected = Connection


class Connector(Protocol):
    async def connect(self, on_lost: OnLost, until_s: float) -> Connected: ...

    async def close(self) -> None: ...


def tls_context(provider: Provider) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=provider.tls.ca_file)
    context.set_alpn_protocols(["http/1.1"])
    if not provider.tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class DirectConnections:
    """Sockets to the provider's own address."""

    def __init__(self, url: SplitResult, provider: Provider, wheel: Wheel) -> None:
        self.host = url.hostname or ""
        self.port = url.port or DEFAULT_PORTS[url.scheme]
        self.tls = tls_context(provider) if url.scheme == "https" else None
        self.wheel = wheel
        self.connect_s = provider.timeouts.connect

    async def connect(self, on_lost: OnLost, until_s: float) -> Connected:
        """DNS, TCP and TLS under one deadline. Raises UpstreamError."""
        loop = asyncio.get_running_loop()

        def factory() -> Connection:
            return Connection(loop, self.wheel, on_lost)

        try:
            async with asyncio.timeout(min(self.connect_s, until_s - monotonic())):
                if self.tls is None:
                    _, connection = await loop.create_connection(factory, self.host, self.port)
                else:
                    _, connection = await aiofastnet.create_connection(
                        loop, factory, self.host, self.port, ssl=self.tls, server_hostname=self.host
                    )
        except TimeoutError:
            raise UpstreamTimeout("The provider could not be connected to in time.") from None
        except (OSError, UnicodeError) as error:  # the latter: a name that no DNS query can hold
            raise UpstreamBroken("The provider could not be connected to.", cause="connect") from error
        return connection

    async def close(self) -> None:
        return


class Pool:
    """`maybe_idle` hands out a connection that rests, `connect` a new one; `release` takes either back."""

    def __init__(self, provider: Provider, wheel: Wheel) -> None:
        url = urlsplit(provider.base_url or "")
        self.connector: Connector = (
            ProxiedConnections(url, provider, wheel)
            if provider.proxy
            else DirectConnections(url, provider, wheel)
        )
        self.age_s = provider.connection_age
        # In the order of their last use. A dict, because the one that is lost may stand anywhere.
        self.idle: dict[Connection, None] = {}
        self.open: set[Connection] = set()
        self.is_retired = False
        self.closing: asyncio.Task[None] | None = None

    def maybe_idle(self) -> Connection | None:
        while self.idle:
            connection, _ = self.idle.popitem()
            if connection.is_idle:
                return connection
        return None

    async def connect(self, until_s: float) -> Connected:
        """For a caller that has no Task of its own; a caller that leaves ends the attempt to connect.

        `until_s`, on the monotonic clock: the end of the request that wants it. Raises UpstreamError.
        """
        task = asyncio.get_running_loop().create_task(self.connector.connect(self.forget, until_s))
        try:
            connection = await task
        except asyncio.CancelledError:
            task.cancel()
            task.add_done_callback(close_unwanted)
            raise
        if connection.is_open:
            self.open.add(connection)
        return connection

    def release(self, connection: Connection) -> None:
        """After an exchange, complete or not: what is not complete is closed."""
        if self.is_retired:
            connection.close()
        elif connection.rest():
            self.idle[connection] = None
            connection.rest_until(monotonic() + self.age_s)

    def forget(self, connection: Connection) -> None:
        self.idle.pop(connection, None)
        self.open.discard(connection)
        self.close_if_done()

    def retire(self) -> None:
        self.is_retired = True
        for connection in list(self.idle):
            connection.close()
        self.close_if_done()

    def close_if_done(self) -> None:
        if self.is_retired and not self.open:
            self.closing = asyncio.get_running_loop().create_task(self.connector.close())

    async def close(self) -> None:
        for connection in list(self.open):
            connection.close()
        await self.connector.close()


def close_unwanted(task: asyncio.Task[Connection]) -> None:
    """The connection was there just when nobody wanted it any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
