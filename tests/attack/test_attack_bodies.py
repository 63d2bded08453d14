"""Thousands of generated bodies against a key of few models: what the provider reads was allowed."""

from __future__ import annotations

import asyncio
import fnmatch
import random
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from farend import FarEnd
from gatewayrig import OTHER_KEY, Gateway
from raw import PATIENCE_S, attack
from swarm import Line
from wireclient import post, post_chunked

sys.path.insert(0, str(Path(__file__).parents[1] / "wire"))

from corpus_json import Bodies

ALLOWED = ("mock", "gpt-4*")  # of OTHER_KEY
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
EXPECTED = {200, 400, 403, 404, 413, 422}


@pytest.mark.parametrize("make", [post, post_chunked])
@pytest.mark.parametrize("seed", range(2))
async def test_no_body_makes_the_gateway_fail_or_reaches_a_model_that_was_not_allowed(
    gateway: Gateway, far: FarEnd, seed: int, make: Callable[..., bytes]
) -> None:
    bodies, choose = Bodies(1_000 + seed), random.Random(seed)
    loop = asyncio.get_running_loop()
    line = Line()
    statuses: dict[int, int] = {}
    for _ in range(1_500):
        if not line.is_open:
            _, line = await loop.create_connection(Line, "127.0.0.1", gateway.port)
        body = bodies.body()
        if choose.random() < 0.3:
            body = body.replace(
                b"{", b'{"model":"%b",' % choose.choice((b"mock", b"gpt-4o", b"gpt-3", b"m")), 1
            )
        reply = await asyncio.wait_for(line.ask(make(body, choose.choice(ROUTES), key=OTHER_KEY)), PATIENCE_S)
        assert reply.status in EXPECTED, (body, reply.raw)
        assert reply.status == 200 or orjson.loads(reply.body)["error"]["message"]
        statuses[reply.status] = statuses.get(reply.status, 0) + 1
        if not reply.keeps_alive:
            line.transport.abort()
            line.is_open = False
    line.transport.abort()
    assert set(statuses) >= {200, 400, 403}, statuses
    for arrival in far.seen:
        model = orjson.loads(arrival.body or b"")["model"]
        assert any(fnmatch.fnmatchcase(model, glob) for glob in ALLOWED), arrival.body
        assert (arrival.body or b"").count(b'"model"') >= 1
    assert len(far.seen) >= statuses[200]


@pytest.mark.parametrize(
    "part",
    [b"--B\r\n\r\n", b"--B", b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n', b"-", b"\r\n"],
)
async def test_a_byte_of_an_upload_costs_the_same_whatever_it_says(gateway: Gateway, part: bytes) -> None:
    """A reader that is quadratic in the parts of a form would not be through in minutes."""
    body = part * (900_000 // len(part)) + b"--B--\r\n"
    upload = post(body, "/v1/audio/transcriptions")
    outcome = await attack(
        gateway.port, upload.replace(b"application/json", b"multipart/form-data; boundary=B"), quiet_s=0.1
    )
    assert outcome.statuses == [400], outcome
    assert outcome.answers[0].error["type"] == "invalid_request_error"
