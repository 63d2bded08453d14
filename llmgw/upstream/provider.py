"""One provider as the gateway uses it: its dialect, its keys in turn, its connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from urllib.parse import urlsplit

from llmgw import __version__
from llmgw._core.ask import Attempt
from llmgw._wire.call import Call
from llmgw._wire.deadline import Wheel
from llmgw._wire.lines import request_lines
from llmgw._wire.serving import Signal
from llmgw._wire.skim import Skim
from llmgw._wire.upstream import Connection
from llmgw.config import Provider
from llmgw.dialects import OTHER, dialect_of
from llmgw.errors import GatewayError, UpstreamError
from llmgw.upstream.pool import Pool

# Heads differ by path and key; paths may hold names that clients chose, so their number is bounded.
HEADS_MAX = 1024
# Methods whose requests need no body, and then say nothing of one.
BODILESS = frozenset({"GET", "DELETE", "HEAD"})


# The class by another name: docs/design.md, "The way of a request is compiled".
Asked = Connection


class Upstream:
    def __init__(self, provider: Provider, wheel: Wheel) -> None:
        self.name = provider.name
        self.provider = provider
        self.dialect = dialect_of(provider)
        self.timeouts = provider.timeouts
        self._first_token_s, self._idle_s = provider.timeouts.first_token, provider.timeouts.idle
        self.pool = Pool(provider, wheel)
        self.host = (urlsplit(provider.base_url or "").netloc).encode()
        self._credentials = [self.dialect.credential(key) for key in provider.api_keys or ("",)]
        if not provider.api_keys and provider.dialect != "mock":
            self._credentials = [b""]  # a vLLM of one's own asks for none
        self.key_count = len(self._credentials)
        self._turn = -1
        self._heads: dict[tuple[str, str, str, str, int], bytes] = {}
        self.reply_heads: dict[tuple[bytes, str, bool], bytes] = {}  # kept by `heads`

    def next_key(self) -> int:
        """The number of the key whose turn it is."""
        self._turn = (self._turn + 1) % len(self._credentials)
        return self._turn

    async def ask(self, call: Call, facts: Skim | None, attempt: Attempt, total_at_s: float) -> Asked:
        """Sends the request; returns with the beginning of its answer. Raises UpstreamError.

        It is sent a second time only where the first cannot have been processed: a connection that
        had rested turned out to be closed, with no byte of an answer.
        """
        model = attempt.way.model
        renamed = model if model != call.model_requested else None
        body = self.dialect.body(call, facts, renamed) if call.upload is None else []
        size = size_of(body) if call.upload is None else call.upload.size(renamed)
        head = self.head(call, model, attempt.key, size)
        connection = self.pool.maybe_idle()
        if connection is not None:
            try:
                begun = self.exchange(connection, call, facts, attempt, head, body, total_at_s)
                await (begun if call.upload is None else uploaded(connection, call, attempt, renamed, begun))
                return connection
            except UpstreamError:
                if connection.has_begun or connection.is_late or call.is_upload_begun:
                    raise
            except BaseException:
                connection.close()
                raise
        attempt.may_be_billed = False
        connection = await self.pool.connect(total_at_s)
        try:
            begun = self.exchange(connection, call, facts, attempt, head, body, total_at_s)
            await (begun if call.upload is None else uploaded(connection, call, attempt, renamed, begun))
        except BaseException:
            connection.close()
            raise
        return connection

    def exchange(
        self,
        connection: Connection,
        call: Call,
        facts: Skim | None,
        attempt: Attempt,
        head: bytes,
        body: list[bytes | memoryview],
        total_at_s: float,
    ) -> Signal:
        """Sends it; the signal comes with the beginning of its answer."""
        scanner = self.dialect.scanner(call, facts) if call.route is OTHER or call.stream else None
        begun = connection.ask(head, body, scanner, self._first_token_s, self._idle_s, total_at_s)
        attempt.may_be_billed = connection.is_open
        return begun

    def head(self, call: Call, model: str, key: int, body_bytes: int) -> bytes:
        """Only what is named here goes upstream; nothing of the client's own head is copied."""
        known = (call.method, call.endpoint, call.query, model, key)
        head = self._heads.get(known) or self._new_head(known, self.dialect.path(call, model))
        own_key = own_idempotency_key(call, model) if call.idempotency_key else None
        if not body_bytes and call.method in BODILESS:
            return request_lines(head, call, own_key, b"", -1)
        content_type = b"application/json" if call.route is not OTHER else call.content_type
        return request_lines(head, call, own_key, content_type, body_bytes)

    def _new_head(self, known: tuple[str, str, str, str, int], path: str) -> bytes:
        if len(self._heads) >= HEADS_MAX:
            self._heads.clear()
        lines = [
            f"{known[0]} {path} HTTP/1.1".encode(),
            b"host: " + self.host,
            b"user-agent: llmgw/" + __version__.encode(),
            b"accept-encoding: identity",
        ]
        credential = self._credentials[known[-1]]
        if credential:
            lines.append(credential)
        head = self._heads[known] = b"\r\n".join([*lines, b""])
        return head

    def release(self, connection: Connection) -> None:
        self.pool.release(connection)

    async def close(self) -> None:
        await self.pool.close()


def size_of(pieces: list[bytes | memoryview]) -> int:
    size = 0
    for piece in pieces:
        size += len(piece)
    return size


def own_idempotency_key(call: Call, model: str) -> bytes:
    """All tenants share the provider's account: the same key of two of them must stay two."""
    parts = (call.tenant_id.encode(), call.key_name.encode(), model.encode(), call.idempotency_key or b"")
    return sha256(b"\0".join(parts)).hexdigest().encode()


async def uploaded(
    connection: Connection, call: Call, attempt: Attempt, renamed: str | None, begun: Signal
) -> None:
    """The body follows piece by piece, until the answer begins."""
    assert call.upload is not None
    call.is_upload_begun = True
    task = asyncio.get_running_loop().create_task(upload(connection, call.upload.pieces(renamed)))
    try:
        await begun
    except BaseException:
        attempt.may_be_billed = attempt.may_be_billed and task.done()  # nobody can have done half of it
        raise
    finally:
        if not task.done():
            connection.must_close()  # a provider may answer before it has read everything
            task.cancel()


async def upload(connection: Connection, pieces: AsyncIterator[bytes]) -> None:
    """Piece by piece at the provider's pace. What is wrong with the body ends the exchange."""
    try:
        async for piece in pieces:
            if not connection.is_open:
                return
            await connection.write_more(piece)
    except GatewayError as error:
        connection.fail(error)
