"""The general lane: whatever the fast lane will not judge goes through aiohttp's server.

Same Call, same `Gateway.serve`, same answers; only the framing is aiohttp's. It adds what aiohttp's
server leaves open: deadlines for heads and bodies, one Host, HTTP/1.x only, paths without tricks.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from time import monotonic, time
from typing import Any

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import _ErrInfo

from llmgw._wire.call import Call
from llmgw._wire.serving import Serving
from llmgw.config import Server
from llmgw.dialects import OTHER
from llmgw.dialects.paths import SHOWN_MAX
from llmgw.errors import (
    BadRequest,
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    GatewayError,
    HeadTooLarge,
    UnknownRoute,
)
from llmgw.gateway import Gateway
from llmgw.overload import Overload
from llmgw.server.failures import JSON, error_body, error_head, fail
from llmgw.server.form import MEMORY_BYTES, Upload, read_known, read_whole
from llmgw.server.head import fill
from llmgw.server.intake import Intake
from llmgw.server.outlet import AppOutlet, head_lines
from llmgw.upstream.heads import plain_head

# aiohttp logs a traceback for a client that leaves within a body. What fails in our own handlers we log.
quiet = logging.getLogger("llmgw.http")
quiet.setLevel(logging.CRITICAL + 1)

PIECE_BYTES = 8192
READ_BYTES = 65536
LINGER_S = 5.0
TOO_SLOW = "The request's body did not arrive in time."
LIVE = "/health/live"
HEALTH = (LIVE, "/health/ready")
MODELS = re.compile(r"/v1/models(?:/.+)?")
IS_FORM = re.compile(r"multipart/", re.IGNORECASE)
# Under these names, and under none, providers read JSON: so do we, and `curl -d` sends it under the second.
# Other bodies are raw, and pass unread for keys that nothing of them could be held to.
IS_JSON = re.compile(
    r"(?:application/json|application/x-www-form-urlencoded|text/[^;,]*|[^;,]*\+json)?\s*(?:;.*)?",
    re.IGNORECASE,
)


class Handler(web.RequestHandler):
    """aiohttp's protocol with a deadline for each head, and our errors for what it cannot read."""

    __slots__ = ("app", "head_timer", "is_deaf", "last_body")

    def __init__(self, app: General, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = app
        self.head_timer: asyncio.TimerHandle | None = None
        self.last_body: StreamReader | None = None  # of the request that came last
        self.is_deaf = False  # the answer is the last one, and what still comes is dropped

    def data_received(self, data: bytes) -> None:
        if self.is_deaf:
            return
        if self.head_timer is None and self._current_request is None:
            self.head_timer = self._loop.call_later(self.app.settings.timeouts.header, self.head_is_late)
        # aiohttp's errors hold what could not be read, several times over: so it gets heads in small pieces,
        # and nothing behind the first error.
        while len(data) > PIECE_BYTES and self._current_request is None and not self.is_unreadable:
            self.read(data[:PIECE_BYTES])
            data = data[PIECE_BYTES:]
        if not self.is_unreadable:
            self.read(data)

    def read(self, data: bytes) -> None:
        super().data_received(data)
        if not self._messages:
            return
        if not self.is_unreadable:
            self.last_body = self._messages[-1][1]
        elif self.last_body is not None and not self.last_body.is_eof():
            # aiohttp keeps a fault of its framing for the next request: whoever reads it would wait on.
            self.last_body.set_exception(web.RequestPayloadError("The body's framing is broken."))

    @property
    def is_unreadable(self) -> bool:
        """What waits ends in an error: the connection is to end behind its answer."""
        return bool(self._messages) and isinstance(self._messages[-1][0], _ErrInfo)

    def close_if_resting(self) -> None:
        if self._current_request is None:
            self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        finished = await super().finish_response(request, resp, start_time)
        if self.is_deaf:
            await self.linger(request)
        return finished

    async def linger(self, request: web.BaseRequest) -> None:
        """Closing while more comes would reset the connection, and the client might lose the answer.

        The end of our half tells it that the rest is not wanted.
        """
        with suppress(Exception):  # of a body that broke off
            request.content.read_nowait()
        self.resume_reading(resume_parser=False)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()
            await asyncio.sleep(LINGER_S)
        self.force_close()

    def head_is_here(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None

    def head_is_late(self) -> None:
        """As in the fast lane: it is told, and what still comes is dropped."""
        self.head_timer = None
        self.is_deaf = True
        call = self.app.new_call()
        error = BodyTimeout("The request's headers did not arrive in time.")
        self.app.gateway.refuse(call, error)
        if self.transport is not None:
            self.transport.write(last_words(call, error))
            self.transport.write_eof()
            self._loop.call_later(LINGER_S, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.head_is_here()
        self.last_body = None
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp could not read the head, or a handler of ours failed."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        call = self.app.new_call()
        is_long = isinstance(exc, LineTooLong) or "Too many headers" in str(exc)
        if exc is not None:
            exc.__traceback__ = None  # its frames hold the bytes, and it holds its frames
        error = (
            HeadTooLarge("The request's headers are too large.")
            if is_long
            else BadRequest("The request is not valid HTTP.")
        )
        self.app.gateway.refuse(call, error)
        response = whole_response(error.status, error_head(call, error), error_body(call, error))
        response.force_close()
        self.is_deaf = True
        return response


class Narrow(asyncio.BufferedProtocol):
    """Reads for a Handler: of all connections into one buffer, 64 KB at a time.

    The loop would read four times as much of each before anybody knows whether its body is wanted.
    """

    def __init__(self, handler: Handler, scratch: memoryview) -> None:
        self.handler = handler
        self.scratch = scratch

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.handler.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.scratch

    def buffer_updated(self, nbytes: int) -> None:
        if not self.handler.is_deaf:
            self.handler.data_received(bytes(self.scratch[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """What was read before the connection came here."""
        self.handler.data_received(data)

    def eof_received(self) -> None:
        self.handler.eof_received()

    def pause_writing(self) -> None:
        self.handler.pause_writing()

    def resume_writing(self) -> None:
        self.handler.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.handler.connection_lost(exc)


def last_words(call: Call, error: GatewayError) -> bytes:
    """The answer where there is no request that aiohttp could answer."""
    body = error_body(call, error)
    status = HTTPStatus(error.status)
    framing = f"content-length: {len(body)}\r\ndate: {formatdate(usegmt=True)}\r\nconnection: close\r\n\r\n"
    line = f"HTTP/1.1 {status.value} {status.phrase}\r\n"
    return line.encode() + error_head(call, error) + framing.encode() + body


def whole_response(status: int, head: bytes, body: bytes) -> web.Response:
    return web.Response(status=status, headers=head_lines(head), body=body)


class HandlerFactory(web.Server):
    def __init__(self, app: General, **kwargs: Any) -> None:
        super().__init__(app.handle, handler_cancellation=True, **kwargs)
        self.app = app

    def __call__(self) -> Handler:
        return Handler(self.app, self, loop=self._loop, **self._kwargs)


class General:
    """What aiohttp's handlers share. `gateway` is replaced at a reload; `next_id` is the edge's."""

    def __init__(
        self, gateway: Gateway, next_id: Callable[[], str], settings: Server, overload: Overload
    ) -> None:
        self.next_id = next_id
        self.overload = overload
        self.is_draining = False
        self.factories: list[HandlerFactory] = []
        self.scratch = memoryview(bytearray(READ_BYTES))
        self.configure(gateway, settings)

    def configure(self, gateway: Gateway, settings: Server) -> None:
        """At a start or a reload. Connections that are open keep their handler's limits."""
        self.gateway = gateway
        self.settings = settings
        self.factory = HandlerFactory(
            self,
            keepalive_timeout=settings.timeouts.keep_alive,
            access_log=None,
            logger=quiet,
            max_line_size=settings.max_head,
            max_field_size=settings.max_head,
            lingering_time=LINGER_S,
        )
        self.factories = [self.factory, *(old for old in self.factories if old.connections)]

    def protocol(self) -> Narrow:
        """For one connection."""
        return Narrow(self.factory(), self.scratch)

    def has_connections(self) -> bool:
        return any(factory.connections for factory in self.factories)

    def close_resting(self) -> None:
        """Connections between two requests. While `is_draining`, each answer closes its own."""
        for factory in self.factories:
            for handler in factory.connections:
                if isinstance(handler, Handler):
                    handler.close_if_resting()

    async def close(self) -> None:
        for factory in self.factories:
            await factory.shutdown(0.1)

    def new_call(self) -> Call:
        call = Call()
        call.request_id = self.next_id()
        call.started_s = monotonic()
        call.received_s = time()
        call.route = OTHER
        return call

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        assert isinstance(protocol, Handler)
        protocol.head_is_here()
        call = self.new_call()
        try:
            fill(call, request, self.settings.max_head, keeps_head=self.gateway.catalog.looks_at_heads)
        except GatewayError as error:
            # Such a head may be read in another way by whoever passed it on to us: nothing may follow it.
            call.fault = error
            self.gateway.refuse(call, error)
            response = whole_response(error.status, error_head(call, error), error_body(call, error))
            response.force_close()
            protocol.is_deaf = True
            return response
        if call.endpoint.startswith("/health/"):
            return self.health(call)
        intake = Intake(self.overload)
        try:
            await self.receive(call, request, intake)
            call.started_s, call.received_s = monotonic(), time()
            if call.upload is None:
                return await self.respond(call, request)
            return await self.respond_to_upload(call, request)
        finally:
            intake.close()
            if call.upload is not None:
                call.upload.close()

    async def respond_to_upload(self, call: Call, request: web.BaseRequest) -> web.StreamResponse:
        """The rest of the body is read while it is passed on, and has a deadline of its own."""
        timer = asyncio.get_running_loop().call_later(
            self.settings.timeouts.body, request.content.set_exception, BodyTimeout(TOO_SLOW)
        )
        try:
            return await self.respond(call, request)
        finally:
            timer.cancel()

    async def receive(self, call: Call, request: web.BaseRequest, intake: Intake) -> None:
        """Who is not known need not send a body. What is wrong with it becomes the call's fault."""
        self.gateway.identify(call)
        if call.fault is not None:
            return
        try:
            async with asyncio.timeout(self.settings.timeouts.body):
                await self.read_body(call, request, intake)
        except TimeoutError:
            call.fault = BodyTimeout(TOO_SLOW)
        except GatewayError as error:
            call.fault = error.with_traceback(None)  # its frames hold what was read
        except (ConnectionError, asyncio.CancelledError):
            call.fault = ClientGone("The client left before its request was whole.")
        except (web.RequestPayloadError, HttpProcessingError) as error:
            error.__traceback__ = None
            call.fault = BadRequest("The request's body is not valid.")

    def health(self, call: Call) -> web.Response:
        """Live: the process answers. Ready: it wants more connections."""
        if call.endpoint not in HEALTH:
            error = UnknownRoute(f"Unknown request URL: {call.endpoint[:SHOWN_MAX]}.")
            return whole_response(error.status, error_head(call, error), error_body(call, error))
        is_good = call.endpoint == LIVE or not self.is_draining
        body = b'{"status":"ok"}' if is_good else b'{"status":"draining"}'
        return whole_response(200 if is_good else 503, plain_head(call, JSON), body)

    async def read_body(self, call: Call, request: web.BaseRequest, intake: Intake) -> None:
        """Into memory where we read it ourselves, else as an upload. Raises GatewayError."""
        headers = request.headers
        length = None if "Content-Encoding" in headers else request.content_length
        if (length or 0) > self.settings.max_body:
            raise BodyTooLarge(f"The request's body is larger than {self.settings.max_body} bytes.")
        if not request.body_exists or length == 0:
            intake.open(0, is_read=False)
            return
        content_type = headers.get("Content-Type", "")
        is_read = call.route is not OTHER or IS_JSON.fullmatch(content_type) is not None
        admission, principal = self.gateway.admission, call.principal
        assert principal is not None
        if not is_read and not IS_FORM.match(content_type) and not admission.may_send_raw(principal):
            raise BadRequest("This key's requests must have a body of JSON or a form.")
        if is_read:
            intake.open(length)
        else:
            intake.open(min(length or MEMORY_BYTES, MEMORY_BYTES), is_read=False)
        if "Expect" in headers and request.version >= HttpVersion11:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if is_read:
            if length is not None:
                call.body = await read_known(request.content, length, intake.on_piece)
            else:
                call.body = await read_whole(request.content, self.settings.max_body, intake.on_piece)
            intake.done()
            return
        upload = call.upload = Upload(request.content, call.content_type, length, self.settings.max_body)
        await upload.begin(needs_user=principal.tenant in admission.limiting_users)
        call.model_requested, call.user = upload.model or "", upload.user

    async def respond(self, call: Call, request: web.BaseRequest) -> web.StreamResponse:
        """Runs the gateway beside the response that it writes into."""
        out = AppOutlet()
        is_models = request.method == "GET" and MODELS.fullmatch(call.endpoint) is not None
        serve = self.gateway.serve_models if is_models else self.gateway.serve

        def on_done(failure: BaseException | None) -> None:
            if failure is not None:
                fail(call, failure, out)
            out.finished()

        serving = Serving(serve(call, out), on_done)
        try:
            serving.start()
            return await self.write_out(out, request)
        finally:
            out.is_gone = True
            serving.cancel()

    async def write_out(self, out: AppOutlet, request: web.BaseRequest) -> web.StreamResponse:
        response: web.StreamResponse = web.StreamResponse()
        while True:
            step, value = await out.next_step()
            if step == "answer":
                response = whole_response(*value)
                self.set_connection(response, request)
                await self.send(request, send_whole(response, request))
                return response
            if step == "begin":
                response = streamed(request, *value)
                self.set_connection(response, request)
                await response.prepare(request)
            elif step == "write":
                await self.send(request, response.write(value))
                out.written(len(value))
            elif step == "end":
                await self.send(request, response.write_eof())
                return response
            else:
                cut(request, response)
                return response

    async def send(self, request: web.BaseRequest, sending: Coroutine[Any, Any, None]) -> None:
        """A client that takes nothing for too long is left."""
        try:
            async with asyncio.timeout(self.settings.timeouts.send):
                await sending
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the client does not read") from None

    def set_connection(self, response: web.StreamResponse, request: web.BaseRequest) -> None:
        if self.is_draining or not request.content.is_eof():
            response.force_close()
        if not request.content.is_eof():
            # What is still to come of its body nobody wants: it must not even be stored.
            protocol = request.protocol
            assert isinstance(protocol, Handler)
            protocol.is_deaf = True


def streamed(request: web.BaseRequest, status: int, head: bytes, length: int) -> web.StreamResponse:
    """HTTP/1.0 has no chunks: there the answer ends with the connection."""
    response = web.StreamResponse(status=status, headers=head_lines(head))
    if length >= 0:
        response.content_length = length
    elif request.version >= HttpVersion11:
        response.enable_chunked_encoding()
    else:
        response.force_close()
    return response


async def send_whole(response: web.StreamResponse, request: web.BaseRequest) -> None:
    await response.prepare(request)
    await response.write_eof()


def cut(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Ends the connection within the body, behind what was written."""
    response.force_close()
    if request.transport is not None:
        request.transport.close()
