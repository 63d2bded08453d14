"""Errors become HTTP here, and only here."""

from __future__ import annotations

import asyncio
import logging
import math

import orjson

from llmgw._wire.call import Call
from llmgw._wire.outlet import Outlet
from llmgw.errors import GatewayError, InternalError
from llmgw.upstream.heads import plain_head, route_line

logger = logging.getLogger("llmgw")
JSON = b"application/json"
ANTHROPIC = "/v1/messages"
# Its words by status; other 4xx are invalid_request_error, other 5xx api_error.
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(call: Call, error: GatewayError) -> bytes:
    """In the shape of the API whose route was asked."""
    return anthropic_body(call, error) if is_anthropic(call) else openai_body(error)


def is_anthropic(call: Call) -> bool:
    return call.endpoint == ANTHROPIC or call.endpoint.startswith(ANTHROPIC + "/")


def openai_body(error: GatewayError) -> bytes:
    return orjson.dumps(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    )


def anthropic_body(call: Call, error: GatewayError) -> bytes:
    other = "invalid_request_error" if error.status < 500 else "api_error"
    kind = ANTHROPIC_TYPES.get(error.status, other)
    return orjson.dumps(
        {
            "type": "error",
            "error": {"type": kind, "message": error.message},
            "request_id": call.request_id,
        }
    )


def error_head(call: Call, error: GatewayError) -> bytes:
    head = plain_head(call, JSON) + (
        b"x-should-retry: true\r\n" if error.should_retry else b"x-should-retry: false\r\n"
    )
    if error.retry_after_s is not None:
        head += b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (
            math.ceil(error.retry_after_s),
            math.ceil(error.retry_after_s * 1e3),
        )
    if call.trail:
        head += route_line(call)
    return head + call.limit_lines


def fail(call: Call, failure: BaseException, out: Outlet) -> None:
    """Tells the client, as far as one is still there, how its request ended."""
    if out.is_gone or isinstance(failure, asyncio.CancelledError):
        return
    if not isinstance(failure, GatewayError):
        # Every error that can be expected is a GatewayError; what comes here is a bug of ours.
        logger.error("request %s failed", call.request_id, exc_info=failure)
        failure = InternalError("The gateway failed to serve this request.")
    if not out.is_begun:
        out.answer(failure.status, error_head(call, failure), error_body(call, failure))
        return
    if call.is_events:
        event = b"event: error\ndata: " if is_anthropic(call) else b"data: "
        out.write(event + error_body(call, failure) + b"\n\n")
    out.cut()
