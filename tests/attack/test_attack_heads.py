"""Heads that are too much: refused with 431 or 400, in both lanes, without holding what they sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from farend import FarEnd
from gatewayrig import CLIENT_KEY, OTHER_KEY, UPSTREAM_KEY, Gateway, default_config, secrets_in
from raw import attack, resident_bytes
from wireclient import chat, get, post

MIB = 1 << 20
DEADLINES = {"header": "400ms", "body": "400ms", "send": "1s", "keep_alive": "2s"}
PLAIN, OTHER = "", "Connection: close"  # a header that the fast lane leaves to the general one


@pytest.mark.parametrize("lane", [PLAIN, OTHER])
@pytest.mark.parametrize(
    "lines",
    [
        ["X-Long: " + "a" * 40_000],
        ["X-Long: " + "a" * 5_000_000],
        [f"X-{number}: {'a' * 20_000}" for number in range(3)],
        [f"X-{number}: {'a' * 1_000}" for number in range(60)],
        ["X" * 40_000 + ": a"],
        ["Cookie: " + "a=b; " * 10_000],
    ],
    ids=["40 KB", "5 MB", "3 of 20 KB", "60 of 1 KB", "a long name", "cookies"],
)
async def test_a_head_beyond_the_limit_is_answered_431_in_both_lanes(
    gateway: Gateway, far: FarEnd, lines: list[str], lane: str
) -> None:
    request = post(chat(), "/v1/chat/completions", *lines, *([lane] if lane else []))
    outcome = await attack(gateway.port, request)
    assert outcome.statuses[:1] == [431], outcome.raw[:200]
    assert outcome.answers[0].error["code"] == "request_too_large"
    assert (len(outcome.answers), outcome.ended in ("eof", "reset")) == (1, True)
    assert far.requests == 0


@pytest.mark.parametrize("count", [200, 1_000, 5_000])
async def test_hundreds_of_small_headers_are_refused(gateway: Gateway, far: FarEnd, count: int) -> None:
    for lane in (PLAIN, OTHER):
        lines = [f"X-{number}: a" for number in range(count)] + ([lane] if lane else [])
        outcome = await attack(gateway.port, post(chat(), "/v1/chat/completions", *lines))
        assert outcome.statuses in ([400], [431]), outcome.raw[:300]
        assert outcome.answers[0].error["type"] == "invalid_request_error"
        assert outcome.ended in ("eof", "reset")
    assert far.requests == 0


@pytest.mark.parametrize("size", [4_000, 40_000, 1_000_000])
async def test_a_url_beyond_the_limit_is_refused(gateway: Gateway, far: FarEnd, size: int) -> None:
    for url in ("/v1/" + "a" * size, "/v1/models?" + "a" * max(size, 40_000), "/v1" + "/a" * size):
        outcome = await attack(gateway.port, get(url))
        assert outcome.statuses in ([400], [414], [431]), outcome.raw[:300]
        assert outcome.ended in ("eof", "reset")
    assert far.requests == 0


@pytest.mark.parametrize(
    "data",
    [
        b"POST /" + b"a" * 10_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1_500,
        b"\r\n" * 5_000,
        b"\x00" * 10_000,
        b"GET /" + b"\xff" * 10_000,
    ],
    ids=["a path", "headers", "line ends", "NULs", "bytes"],
)
async def test_bytes_that_never_become_a_request_are_cut_and_not_held(
    start_gateway: Callable[..., Gateway], attacked_far: FarEnd, data: bytes
) -> None:
    gateway = start_gateway(default_config(attacked_far.port, server={"timeouts": DEADLINES}))
    (worker,) = gateway.worker_pids()
    await attack(gateway.port, data)
    before = resident_bytes(worker)
    for _ in range(12):
        outcome = await attack(gateway.port, data, *([data.rpartition(b" ")[2]] * 200))
        assert outcome.ended in ("eof", "reset"), outcome
        assert outcome.statuses in ([400], [408], [431], []), outcome.raw[:300]
    assert resident_bytes(worker) - before < 32 * MIB


@pytest.mark.parametrize("name", ["Content-Type", "Accept", "Idempotency-Key", "OpenAI-Beta", "traceparent"])
@pytest.mark.parametrize("value", ["\xe9", "a\x01b", "a\x7fb", "\x0b"])
async def test_a_header_that_goes_on_to_a_provider_is_printable_or_refused(
    gateway: Gateway, far: FarEnd, name: str, value: str
) -> None:
    request = post(chat(), "/v1/chat/completions", f"{name}: {value}".encode("latin-1").decode("latin-1"))
    outcome = await attack(gateway.port, request.decode().encode("latin-1"), quiet_s=0.1)
    assert outcome.statuses == [400], outcome
    assert far.requests == 0


async def test_no_header_of_a_client_goes_on_but_those_that_are_named(gateway: Gateway, far: FarEnd) -> None:
    extra = [
        "X-Forwarded-For: 1.2.3.4", "Cookie: a=b", "X-Api-Key: second", "api-key: third", "x-goog-api-key: fourth", "TE: trailers",
        "Proxy-Authorization: Basic eA==", "Proxy-Connection: keep-alive", "Keep-Alive: timeout=5", "Origin: http://evil.test",
        "X-HTTP-Method-Override: DELETE", "OpenAI-Organization: evil", "OpenAI-Project: evil", "Accept-Encoding: gzip", "Via: 1.1 x",
        "Forwarded: host=evil.test", "X-Original-URL: /admin", "Authorization-X: Bearer y", "Range: bytes=0-1", "If-None-Match: *",
    ]  # fmt: skip
    for lane in (PLAIN, OTHER):
        request = post(chat(), "/v1/chat/completions", *extra, *([lane] if lane else []))
        outcome = await attack(gateway.port, request, quiet_s=0.1)
        assert outcome.statuses == [200], outcome
    for arrival in far.seen:
        names = {name.lower() for name, _ in arrival.headers}
        known = {
            "host",
            "user-agent",
            "accept-encoding",
            "authorization",
            "content-type",
            "content-length",
            "accept",
        }
        assert names <= known, names
        assert arrival.values("authorization") == [f"Bearer {UPSTREAM_KEY}"]
        assert arrival.values("accept-encoding") == ["identity"]
        assert not {CLIENT_KEY, OTHER_KEY} & set(secrets_in(str(arrival.headers)))


@pytest.mark.parametrize(
    "value",
    [
        "Bearer",
        "Bearer ",
        "bearer\twrong",
        "Basic c2s6",
        "wrong",
        "Bearer wrong",
        "Bearer " + "x" * 20_000,
        "Bearer \xe9",
    ],
)
async def test_a_credential_that_is_none_is_answered_401_and_never_shown(
    gateway: Gateway, far: FarEnd, value: str
) -> None:
    request = (
        post(chat(), "/v1/chat/completions", "Authorization: " + value, key=None).decode().encode("latin-1")
    )
    outcome = await attack(gateway.port, request, quiet_s=0.1)
    assert outcome.statuses == [401], outcome
    assert outcome.answers[0].error["code"] == "invalid_api_key"
    assert b"wrong" not in outcome.raw
    assert far.requests == 0


async def test_a_client_that_asks_first_whether_to_send_its_body_is_told(
    gateway: Gateway, far: FarEnd
) -> None:
    body = chat("x" * 3_000)
    head = post(b"", "/v1/chat/completions", "Expect: 100-continue").replace(b": 0", b": %d" % len(body))
    outcome = await attack(gateway.port, head, body, pause_s=0.2, quiet_s=0.1, answers=2)
    assert outcome.raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")
    unknown = await attack(gateway.port, head.replace(CLIENT_KEY.encode(), b"wrong"), quiet_s=0.1)
    assert unknown.statuses == [401], unknown
    odd = await attack(gateway.port, head.replace(b"100-continue", b"200-ok"), body, quiet_s=0.1)
    assert odd.statuses[0] in (400, 417), odd
    assert far.requests == 1


async def test_http_1_0_is_served_whole_and_streamed_and_then_closed(gateway: Gateway, far: FarEnd) -> None:
    for stream in (False, True):
        outcome = await attack(gateway.port, post(chat(stream=stream), version="1.0"))
        assert outcome.ended == "eof"
        assert outcome.statuses == [200], outcome
        assert b"chunked" not in outcome.raw
        assert (b"data: [DONE]" in outcome.raw) is stream
    assert far.requests == 2


async def test_what_was_refused_is_counted_and_logged_once_each_without_its_bytes(gateway: Gateway) -> None:
    await gateway.forget_log()
    before = gateway.metrics().total("llm_requests_total")
    secret = "sk-gateway-never-shown"
    bad = [
        post(chat(), key=secret),
        get(f"/v1/{secret}/..", key=secret),
        b"GARBAGE " + secret.encode() + b"\r\n\r\n",
    ]
    for data in bad:
        await attack(gateway.port, data, quiet_s=0.1)
    texts = [str(line) for line in await gateway.log_lines(len(bad))]
    assert gateway.metrics().total("llm_requests_total") - before == len(bad)
    assert secret not in gateway.metrics_text()
    assert not any("key': '" + secret in text for text in texts)
