"""The general lane looks into aiohttp's protocol at three private names; they are as `server.general` takes them."""

import asyncio

from aiohttp import StreamReader, web
from aiohttp.web_protocol import _ErrInfo

HEAD = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"


class NoTransport(asyncio.Transport):
    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        pass

    def close(self) -> None:
        pass


async def fed(*pieces: bytes) -> web.RequestHandler:
    """Before its task has run: what came still waits in `_messages`."""
    protocol = web.Server(lambda request: web.Response())()
    protocol.connection_made(NoTransport())
    for piece in pieces:
        protocol.data_received(piece)
    return protocol


async def test_a_head_that_cannot_be_read_waits_as_an_error() -> None:
    protocol = await fed(HEAD + b"abc", b"NO HTTP\r\n\r\n")
    assert [isinstance(message, _ErrInfo) for message, _ in protocol._messages] == [False, True]


async def test_a_request_waits_beside_its_body() -> None:
    protocol = await fed(HEAD + b"ab")
    [(message, body)] = protocol._messages
    assert message.path == "/v1/x"
    assert isinstance(body, StreamReader) and not body.is_eof()


async def test_the_current_request_is_none_but_while_it_is_served() -> None:
    seen = []

    async def handle(request: web.BaseRequest) -> web.Response:
        seen.append(request.protocol._current_request is request)
        return web.Response()

    protocol = web.Server(handle)()
    protocol.connection_made(NoTransport())
    assert protocol._current_request is None
    protocol.data_received(HEAD + b"abc")
    async with asyncio.timeout(5):
        while not seen or protocol._current_request is not None:
            await asyncio.sleep(0)
    assert seen == [True]
    protocol.connection_lost(None)
