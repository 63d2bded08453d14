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


def error_body(error: GatewayError) -> bytes:
    return orjson.dumps(
        {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
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
        out.answer(failure.status, error_head(call, failure), error_body(failure))
        return
    if call.is_events:
        out.write(b"data: " + error_body(failure) + b"\n\n")
    out.cut()
