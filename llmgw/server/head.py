"""The facts of a request's head, as aiohttp read it; refuses what aiohttp lets pass and we do not."""

from __future__ import annotations

import re

from aiohttp import HttpVersion10, HttpVersion11, web
from multidict import CIMultiDictProxy

from llmgw._wire.call import Call
from llmgw.dialects import OTHER
from llmgw.dialects.paths import SHOWN_MAX, check_route, check_url, route_of, without_credentials
from llmgw.errors import BadRequest, HeadTooLarge, WrongMethod

CODINGS = ("identity", "gzip", "deflate")
VERSIONS = (HttpVersion10, HttpVersion11)
# Headers that decide something: twice means that two readers may decide differently.
ONCE = (
    "Host",
    "Authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "Content-Type",
    "Content-Encoding",
    "Idempotency-Key",
    "x-llmgw-max-wait",
    "x-llmgw-priority",
    "x-llmgw-tags",
    "x-llmgw-timeout",
)
PRINTABLE = re.compile(r"[\x20-\x7e]*")
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})


def fill(call: Call, request: web.BaseRequest, max_head: int, *, keeps_head: bool) -> None:
    """The facts of the head. Raises GatewayError for what aiohttp lets pass and we do not."""
    if request.version not in VERSIONS:
        raise BadRequest("Only HTTP/1.0 and HTTP/1.1 are spoken here.")
    headers = request.headers
    size = len(request.raw_path) + sum(len(name) + len(value) + 4 for name, value in request.raw_headers)
    if size > max_head:
        raise HeadTooLarge("The request's headers are too large.")
    path, _, query = request.raw_path.partition("?")
    check_url(request.method, path, query)
    call.method = request.method
    call.endpoint = path
    for name in ONCE:
        if len(headers.getall(name, ())) > 1:
            raise BadRequest(f"The header {name} came twice.", param=name.lower())
    if headers.get("Content-Encoding", "identity").lower() not in CODINGS:
        raise BadRequest("This content coding is not served here.")
    if headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
        raise BadRequest("No transfer coding but chunked is served here.")
    if "Host" not in headers and request.version == HttpVersion11:
        raise BadRequest("The request has no Host.")
    if headers.get("Expect", "100-continue").lower() != "100-continue":
        raise BadRequest("This expectation cannot be met.")
    if headers.get("Upgrade", "").lower() == "websocket":
        raise BadRequest("Upgrades are not served here.")
    call.credential = credential_of(headers)
    call.content_type = printable(headers, "Content-Type")
    call.accept = printable(headers, "Accept")
    call.idempotency_key = printable(headers, "Idempotency-Key") or None
    if len(headers.getall("traceparent", ())) == 1:  # of two, neither is to be trusted; it decides nothing
        call.traceparent = printable(headers, "traceparent") or None
    call.beta = printable(headers, "OpenAI-Beta") or None
    call.max_wait = printable(headers, "x-llmgw-max-wait") or None
    call.priority = printable(headers, "x-llmgw-priority") or None
    call.tags = printable(headers, "x-llmgw-tags") or None
    call.timeout = printable(headers, "x-llmgw-timeout") or None
    if keeps_head:
        call.head = b"".join(b"%b: %b\r\n" % pair for pair in request.raw_headers)
    if call.endpoint.startswith("/health/"):
        return
    check_route(request.method, path)
    if request.method not in METHODS:
        raise WrongMethod(f"Not allowed to {request.method} on {path[:SHOWN_MAX]}.")
    call.route = route_of(request.method, path)
    if call.route is OTHER and (kept := without_credentials(query)):
        call.query = "?" + kept


def credential_of(headers: CIMultiDictProxy[str]) -> bytes | None:
    """The fast lane's order: a bearer token, then the headers that name a key."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip(" ").encode("utf-8", "surrogateescape")
    for name in ("x-api-key", "api-key", "x-goog-api-key"):
        if name in headers:
            return headers[name].encode("utf-8", "surrogateescape")
    return None


def printable(headers: CIMultiDictProxy[str], name: str) -> bytes:
    """A header that may go on to a provider. Raises BadRequest where it holds anything odd."""
    value = headers.get(name, "")
    if not PRINTABLE.fullmatch(value):
        raise BadRequest(f"The header {name} is not printable ASCII.", param=name.lower())
    return value.encode("ascii")
