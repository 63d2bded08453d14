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
from llmgw._wire.skim import Skim
from llmgw._wire.upstream import Connection
from llmgw.config import Provider
from llmgw.dialects import OTHER, dialect_of
from llmgw.errors import GatewayError, UpstreamError
from llmgw.upstream.pool import Pool

# Heads differ by path and key; paths may hold names that clients chose, so their number is bounded.
HEADS_MAX = 1024


class Upstream:
    def __init__(self, provider: Provider, wheel: Wheel) -> None:
        self.name = provider.name
        self.provider = provider
        self.dialect = dialect_of(provider)
        self.timeouts = provider.timeouts
        self.pool = Pool(provider, wheel)
        self.host = (urlsplit(provider.base_url or "").netloc).encode()
        self._credentials = [self.dialect.credential(key) for key in provider.api_keys or ("",)]
        if not provider.api_keys and provider.dialect != "mock":
            self._credentials = [b""]  # a vLLM of one's own asks for none
        self._turn = -1
        self._heads: dict[tuple[str, str, bytes], bytes] = {}
        self.reply_heads: dict[tuple[bytes, str, bool], bytes] = {}  # kept by `heads`

    @property
    def key_count(self) -> int:
        return len(self._credentials)

    def next_key(self) -> int:
        """The number of the key whose turn it is."""
        self._turn = (self._turn + 1) % len(self._credentials)
        return self._turn

    async def ask(self, call: Call, facts: Skim | None, attempt: Attempt, total_at_s: float) -> Connection:
        """Sends the request; returns with the beginning of its answer. Raises UpstreamError.

        It is sent a second time only where the first cannot have been processed: a connection that
        had rested turned out to be closed, with no byte of an answer.
        """
        model = attempt.way.model
        renamed = model if model != call.model_requested else None
        body = self.dialect.body(call, facts, renamed) if call.upload is None else []
        size = sum(map(len, body)) if call.upload is None else call.upload.size(renamed)
        head = self.head(call, model, self._credentials[attempt.key], size)
        connection = self.pool.maybe_idle()
        if connection is not None:
            try:
                await self.exchange(connection, call, facts, attempt, renamed, head, body, total_at_s)
                return connection
            except UpstreamError:
                if connection.has_begun or connection.is_late or call.is_upload_begun:
                    raise
            except BaseException:
                connection.close()
                raise
        connection = await self.pool.connect(total_at_s)
        try:
            await self.exchange(connection, call, facts, attempt, renamed, head, body, total_at_s)
        except BaseException:
            connection.close()
            raise
        return connection

    async def exchange(
        self,
        connection: Connection,
        call: Call,
        facts: Skim | None,
        attempt: Attempt,
        renamed: str | None,
        head: bytes,
        body: list[bytes | memoryview],
        total_at_s: float,
    ) -> None:
        scanner = self.dialect.scanner(call, facts) if call.route is OTHER or call.stream else None
        timeouts = self.timeouts
        begun = connection.ask(head, body, scanner, timeouts.first_token, timeouts.idle, total_at_s)
        attempt.may_be_billed = connection.is_open
        if call.upload is None:
            await begun
            return
        call.is_upload_begun = True
        task = asyncio.get_running_loop().create_task(upload(connection, call.upload.pieces(renamed)))
        try:
            await begun
        finally:
            if not task.done():
                connection.must_close()  # a provider may answer before it has read everything
                task.cancel()

    def head(self, call: Call, model: str, credential: bytes, body_bytes: int) -> bytes:
        """Only what is named here goes upstream; nothing of the client's own head is copied."""
        path = self.dialect.path(call, model)
        key = (call.method, path, credential)
        head = self._heads.get(key) or self._new_head(*key)
        if call.accept:
            head += b"accept: %b\r\n" % call.accept
        if call.beta:
            head += b"openai-beta: %b\r\n" % call.beta
        if call.idempotency_key:
            head += b"idempotency-key: %b\r\n" % own_idempotency_key(call, model)
        if call.traceparent:
            head += b"traceparent: %b\r\n" % call.traceparent
        if call.method in {"GET", "DELETE", "HEAD"} and not body_bytes:
            return head + b"\r\n"
        content_type = b"application/json" if call.route is not OTHER else call.content_type
        if content_type:
            return b"%bcontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (head, content_type, body_bytes)
        return b"%bcontent-length: %d\r\n\r\n" % (head, body_bytes)

    def _new_head(self, method: str, path: str, credential: bytes) -> bytes:
        if len(self._heads) >= HEADS_MAX:
            self._heads.clear()
        lines = [
            f"{method} {path} HTTP/1.1".encode(),
            b"host: " + self.host,
            b"user-agent: llmgw/" + __version__.encode(),
            b"accept-encoding: identity",
        ]
        if credential:
            lines.append(credential)
        head = self._heads[(method, path, credential)] = b"\r\n".join([*lines, b""])
        return head

    def release(self, connection: Connection) -> None:
        self.pool.release(connection)

    async def close(self) -> None:
        await self.pool.close()


def own_idempotency_key(call: Call, model: str) -> bytes:
    """All tenants share the provider's account: the same key of two of them must stay two."""
    parts = (call.tenant_id.encode(), call.key_name.encode(), model.encode(), call.idempotency_key or b"")
    return sha256(b"\0".join(parts)).hexdigest().encode()


async def upload(connection: Connection, pieces: AsyncIterator[bytes]) -> None:
    """Piece by piece at the provider's pace. What is wrong with the body ends the exchange."""
    try:
        async for piece in pieces:
            if not connection.is_open:
                return
            await connection.write_more(piece)
    except GatewayError as error:
        connection.fail(error)
