"""The fast lane's grammar: what it takes for plain, what it leaves to the general lane, and why."""

from __future__ import annotations

import pytest
from heads import PLAIN, read_by_grammar

from llmgw._wire.head import read_plain_head

STEPS_ASIDE = False
NEEDS_MORE = None


def with_line(line: bytes) -> bytes:
    return PLAIN.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n")


def test_a_plain_head_tells_all_its_facts() -> None:
    head = with_line(b"X-Api-Key: one\r\napi-key:two\r\nX-GOOG-API-KEY:  three").replace(
        b"\r\n\r\n", b"\r\n"
    ) + (
        b"Idempotency-Key: four\r\nTraceparent: 00-ab-cd-01\r\nOpenAI-Beta: assistants=v2\r\n"
        b"X-LLMGW-Max-Wait: 2s\r\nx-llmgw-priority: batch\r\nx-llmgw-tags: a,b\r\n"
        b"X-LLMGW-Timeout: 20s\r\nConnection: Keep-Alive\r\n\r\n"
    )
    assert read_plain_head(head) == {
        "size": len(head),
        "path": b"/v1/chat/completions",
        "content_length": 17,
        "bearer": b"sk-test-1",
        "x_api_key": b"one",
        "api_key": b"two",
        "x_goog_api_key": b"three",
        "content_type": b"application/json",
        "accept": b"application/json",
        "idempotency_key": b"four",
        "traceparent": b"00-ab-cd-01",
        "openai_beta": b"assistants=v2",
        "max_wait": b"2s",
        "priority": b"batch",
        "tags": b"a,b",
        "timeout": b"20s",
    }


def test_what_a_head_does_not_name_is_none() -> None:
    head = b"POST / HTTP/1.1\r\nhost:h\r\ncontent-length:0\r\n\r\n"
    facts = read_plain_head(head)
    assert isinstance(facts, dict)
    assert {name: value for name, value in facts.items() if value is not None} == {
        "size": len(head), "path": b"/", "content_length": 0,
    }  # fmt: skip


def test_each_prefix_of_a_plain_head_needs_more() -> None:
    assert {read_plain_head(PLAIN[:size]) for size in range(len(PLAIN))} == {NEEDS_MORE}


def test_bytes_behind_a_head_change_nothing() -> None:
    alone = read_plain_head(PLAIN)
    for behind in (b"x", b"\r\n", PLAIN, b"\x00" * 100, b"\r\nTransfer-Encoding: chunked\r\n\r\n"):
        assert read_plain_head(PLAIN + behind) == alone


@pytest.mark.parametrize(
    "line",
    [
        b"Transfer-Encoding: chunked", b"Transfer-Encoding:", b"TRANSFER-ENCODING: identity", b"Content-Encoding: identity",
        b"Expect: 100-continue", b"Upgrade: websocket", b"Trailer: x", b"Connection: close", b"Connection: keep-alive, te",
        b"Connection:", b"Connection: upgrade", b"Host: again", b"Content-Length: 17", b"content-length: 3",
        b"Authorization: Bearer other", b"Accept: */*", b"Content-Type: text/plain", b"No-Colon", b": no name", b"Sp ace: x",
        b"Space : x", b"Tab\t: x", b"X: tab\tinside", b"X:\ttab", b"X: end ", b"X: \xc3\xa9", b"X\xc3: y", b"X: nul\x00",
        b"X: cr\rx", b"X: lf\nY: x", b" folded", b"X: a\r\n folded", b"X: a\r\n\tfolded", b"X: \x7f", b"X: \x01",
        b"(paren): x", b"X@Y: x", b"\"X\": y",
    ],
)  # fmt: skip
def test_what_a_plain_head_never_holds_steps_aside(line: bytes) -> None:
    assert read_plain_head(with_line(line)) is STEPS_ASIDE


@pytest.mark.parametrize(
    "length",
    [
        b"",
        b"+17",
        b"-17",
        b"0x11",
        b"1_7",
        b"1 7",
        b"17,17",
        b"17;",
        b"1.7",
        b"9" * 16,
        b"\x00",
        b"1e1",
        b"\xb2",
    ],
)
def test_a_content_length_is_one_to_fifteen_digits(length: bytes) -> None:
    assert read_plain_head(PLAIN.replace(b": 17", b": " + length)) is STEPS_ASIDE


@pytest.mark.parametrize("length", [b"0", b"017", b"0" * 15, b"9" * 15])
def test_digits_are_a_content_length_leading_zeros_included(length: bytes) -> None:
    facts = read_plain_head(PLAIN.replace(b": 17", b": " + length))
    assert isinstance(facts, dict)
    assert facts["content_length"] == int(length)


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1", b"POST  / HTTP/1.1", b"POST / HTTP/1.0", b"POST / HTTP/1.2", b"POST / HTTP/2.0", b"POST / HTTP/1.1 ",
        b"POST /?a HTTP/1.1", b"POST /%41 HTTP/1.1", b"POST /a;b HTTP/1.1", b"POST http://h/ HTTP/1.1", b"POST * HTTP/1.1",
        b"POST  HTTP/1.1", b"POST /\\ HTTP/1.1", b"POST /a#b HTTP/1.1", b"POST /\x00 HTTP/1.1", b"POST /\xc3 HTTP/1.1",
        b"post / HTTP/1.1", b"POST / http/1.1", b"POST\t/ HTTP/1.1", b"POST /", b" POST / HTTP/1.1", b"\r\nPOST / HTTP/1.1",
        b"PRI * HTTP/2.0", b"\x16\x03\x01\x02\x00\x01",
    ],
)  # fmt: skip
def test_another_request_line_steps_aside(line: bytes) -> None:
    assert read_plain_head(PLAIN.replace(b"POST /v1/chat/completions HTTP/1.1", line)) is STEPS_ASIDE


@pytest.mark.parametrize("header", [b"Host: api.test:8080\r\n", b"Content-Length: 17\r\n"])
def test_a_head_without_its_host_or_length_steps_aside(header: bytes) -> None:
    assert read_plain_head(PLAIN.replace(header, b"")) is STEPS_ASIDE


@pytest.mark.parametrize(
    "value",
    [b"Bearer", b"Bearer ", b"Basic sk", b"Bearersk-test", b"Bearer\tsk", b"sk-test", b"", b"Bearer:sk"],
)
def test_a_credential_that_is_no_bearer_token_steps_aside(value: bytes) -> None:
    assert read_plain_head(PLAIN.replace(b"Bearer sk-test-1", value)) is STEPS_ASIDE


def test_sixty_four_headers_are_plain_and_one_more_is_not() -> None:
    most = with_line(b"\r\n".join(b"X-%d: y" % number for number in range(64 - 5)))
    assert isinstance(read_plain_head(most), dict)
    assert read_plain_head(most.replace(b"\r\n\r\n", b"\r\nOne: more\r\n\r\n")) is STEPS_ASIDE


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_at_each_place_is_judged_as_the_grammar_says(byte: int) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: h\r\nX-Y: z\r\nContent-Length: 1\r\n\r\n"
    for at in range(len(head)):
        data = head[:at] + bytes([byte]) + head[at + 1 :]
        facts = read_plain_head(data)
        assert (facts or None) == read_by_grammar(data), data
