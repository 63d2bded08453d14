"""Requests that two readers might read in two ways: refused at once, and nothing of them goes anywhere."""

from __future__ import annotations

import pytest
from farend import FarEnd
from gatewayrig import CLIENT_KEY, Gateway
from raw import Outcome, attack
from wireclient import chat, get, post

from llmgw.mock import Mock

BODY = chat()
SIZE = len(BODY)
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)
SMUGGLED = post(chat("smuggled"))
HOST, CL, TE = "Host: g", f"Content-Length: {SIZE}", "Transfer-Encoding: chunked"
LINE = "POST /v1/chat/completions HTTP/1.1"
PROMPT_S = 6.0  # less than any deadline of a client that is expected to go on


def form(*lines: str, body: bytes = BODY, first: str = LINE, host: str | None = HOST) -> bytes:
    known = [first, f"Authorization: Bearer {CLIENT_KEY}", "Content-Type: application/json"]
    head = [*known, *([host] if host else []), *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def chunks(body: bytes) -> bytes:
    return form(TE, body=body)


FRAMING = {
    "CL and TE": form(CL, TE, body=CHUNKED),
    "TE and CL": form(TE, CL, body=CHUNKED),
    "TE and a CL that ends earlier": form(TE, "Content-Length: 4", body=CHUNKED),
    "TE and a CL that covers what follows": form(
        TE, f"Content-Length: {len(CHUNKED + SMUGGLED)}", body=CHUNKED
    ),
    "two equal CLs": form(CL, CL),
    "two CLs": form(CL, "Content-Length: 5"),
    "a list of CLs": form(f"Content-Length: {SIZE}, {SIZE}"),
    "CL +n": form(f"Content-Length: +{SIZE}"),
    "CL -1": form("Content-Length: -1"),
    "CL 0x": form(f"Content-Length: 0x{SIZE:x}"),
    "CL 1_0": form("Content-Length: 1_0"),
    "CL 1 0": form("Content-Length: 1 0"),
    "CL n.0": form(f"Content-Length: {SIZE}.0"),
    "CL 1e2": form("Content-Length: 1e2"),
    "CL empty": form("Content-Length:"),
    "CL beyond 64 bits": form(f"Content-Length: {2**64 + SIZE}"),
    "CL of 30 digits": form("Content-Length: " + "9" * 30),
    "CL in superscript": form("Content-Length: \xb2"),
    "space before CL's colon": form(f"Content-Length : {SIZE}"),
    "CL folded": form(f"Content-Length:\r\n {SIZE}"),
    "space before TE's colon": form("Transfer-Encoding : chunked", body=CHUNKED),
    "TE identity": form("Transfer-Encoding: identity", CL),
    "TE xchunked": form("Transfer-Encoding: xchunked", body=CHUNKED),
    "TE twice": form(TE, TE, body=CHUNKED),
    "TE chunked and identity": form(TE, "Transfer-Encoding: identity", body=CHUNKED),
    "TE chunked, chunked": form("Transfer-Encoding: chunked, chunked", body=CHUNKED),
    "TE gzip, chunked": form("Transfer-Encoding: gzip, chunked", body=CHUNKED),
    "TE chunked, gzip": form("Transfer-Encoding: chunked, gzip", body=CHUNKED),
    "TE with a vertical tab": form("Transfer-Encoding: \x0bchunked", body=CHUNKED),
    "TE with a NUL": form("Transfer-Encoding: chunked\x00", body=CHUNKED),
    "TE in quotes": form('Transfer-Encoding: "chunked"', body=CHUNKED),
    "TE with a parameter": form("Transfer-Encoding: chunked;q=1", body=CHUNKED),
    "TE empty": form("Transfer-Encoding:", body=CHUNKED),
    "TE folded": form("Transfer-Encoding:\r\n chunked", body=CHUNKED),
}
CHUNKS = {
    "size zz": chunks(b"zz\r\n" + BODY),
    "size -1": chunks(b"-1\r\n" + BODY),
    "size +n": chunks(b"+%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "size 0x": chunks(b"0x%x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "size empty": chunks(b"\r\n" + BODY),
    "size beyond 64 bits": chunks(b"f" * 17 + b"\r\n" + BODY),
    "size with a space": chunks(b"%x \r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "size after a space": chunks(b" %x\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "bare LF": chunks(b"%x\n%b\n0\n\n" % (SIZE, BODY)),
    "bare CR": chunks(b"%x\r%b\r0\r\r" % (SIZE, BODY)),
    "LF in an extension": chunks(b"%x;a\nb\r\n%b\r\n0\r\n\r\n" % (SIZE, BODY)),
    "no line end behind": chunks(b"%x\r\n%bX\r\n0\r\n\r\n" % (SIZE, BODY)),
    "more than its size": chunks(b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE - 1, BODY)),
    "a length in a trailer": chunks(CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n"),
    "a trailer without a colon": chunks(CHUNKED[:-2] + b"A b\r\n\r\n"),
    "a space before a trailer's colon": chunks(CHUNKED[:-2] + b"A : b\r\n\r\n"),
}
HEADS = {
    "two hosts": form(HOST, CL),
    "two different hosts": form("Host: evil.test", CL),
    "no host": form(CL, host=None),
    "bare LF behind the line": form(CL).replace(b"\r\n", b"\n", 1),
    "bare LF throughout": form(CL).replace(b"\r\n", b"\n"),
    "bare LF in a value": form("X-A: 1\nX-B: 2", CL),
    "bare CR in a value": form("X-A: 1\rX-B: 2", CL),
    "a folded value": form("X-A: 1\r\n  folded", CL),
    "a folded first header": form(CL).replace(b"Authorization", b" Authorization", 1),
    "NUL in a name": form("X-\x00A: 1", CL),
    "NUL in a value": form("X-A: a\x00b", CL),
    "NUL in the path": form(CL, first="POST /v1/\x00 HTTP/1.1"),
    "a control in a value": form("X-A: \x01", CL),
    "an odd byte in a name": form("X\xe9: 1", CL),
    "a parenthesis in a name": form("X(a): 1", CL),
    "no name": form(": 1", CL),
    "no colon": form("garbage", CL),
    "a tab behind the method": form(CL, first=LINE.replace(" ", "\t", 1)),
    "a method in lower case": form(CL, first="post /v1/chat/completions HTTP/1.1"),
    "a method of its own": form(CL, first="GPOST /v1/chat/completions HTTP/1.1"),
    "a space before the method": b" " + form(CL),
    "no version": b"POST /v1/chat/completions\r\n\r\n",
    "HTTP/0.9": form(CL, first="POST /v1/chat/completions HTTP/0.9"),
    "HTTP/1.2": form(CL, first="POST /v1/chat/completions HTTP/1.2"),
    "HTTP/2.0": form(CL, first="POST /v1/chat/completions HTTP/2.0"),
    "HTTP/11.1": form(CL, first="POST /v1/chat/completions HTTP/11.1"),
    "http/1.1": form(CL, first="POST /v1/chat/completions http/1.1"),
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "CONNECT": b"CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
    "CONNECT with a path": b"CONNECT /v1/models HTTP/1.1\r\nHost: g\r\n\r\n",
    "an upgrade to a WebSocket": get("/v1/realtime", "Connection: Upgrade", "Upgrade: websocket"),
    "an upgrade with a body": form(CL, "Connection: Upgrade", "Upgrade: websocket"),
    "two credentials": form(CL, "Authorization: Bearer other"),
    "an absolute URL to elsewhere": form(CL, first="POST http://evil.test/v1/chat/completions HTTP/1.1"),
    "an absolute URL to here": form(CL, first="POST http://g/v1/chat/completions HTTP/1.1"),
    "another scheme": form(CL, first="POST gopher://g/v1/chat/completions HTTP/1.1"),
    "no leading slash": form(CL, first="POST v1/chat/completions HTTP/1.1"),
    "an asterisk": form(CL, first="POST * HTTP/1.1"),
    "a fragment": form(CL, first="POST /v1/chat/completions#x HTTP/1.1"),
    "a space in the path": form(CL, first="POST /v1/chat completions HTTP/1.1"),
    "a byte above ASCII in the path": form(CL, first="POST /v1/\xe9 HTTP/1.1"),
}
PATHS = [
    "/v1/../admin", "/v1/..", "/../v1/models", "/v1/./models", "/v1/%2e%2e/models", "/v1/.%2E/models", "/v1/%2e/models",
    "/v1%2fmodels", "/v1/models%2Fx", "/v1/%5cx", "/v1\\models", "/v1/\\..\\x", "/v1//models", "//v1/models", "/v1/mod%00els",
    "/v1/models%", "/v1/models%2", "/v1/models%zz", "/v1/chat/%63ompletions", "/v1/models;x=1", "/v1/models?\\",
    "/v1/models?a b", "/v1/<script>", '/v1/"', "/v1/{x}", "/v1/^", "/v1/`", "/v1/|", "/" + "a" * 3000,
]  # fmt: skip
ALL = {
    **{f"framing: {name}": data for name, data in FRAMING.items()},
    **{f"chunk: {name}": data for name, data in CHUNKS.items()},
    **{f"head: {name}": data for name, data in HEADS.items()},
    **{f"path: {path[:30]}": form(CL, first=f"POST {path} HTTP/1.1") for path in PATHS},
}


def assert_refused(outcome: Outcome, answers: int = 1) -> None:
    """The last answer is a 4xx in the contract's shape, it is the end, and it came at once."""
    assert len(outcome.answers) == answers, outcome
    last = outcome.answers[-1]
    assert 400 <= last.status < 500, outcome
    assert last.is_whole, outcome
    assert last.error["type"] == "invalid_request_error"
    assert last.header("x-should-retry") == "false"
    assert last.header("x-request-id")
    assert not last.keeps_alive, outcome
    assert outcome.ended in ("eof", "reset"), outcome
    assert outcome.took_s < PROMPT_S, outcome


def prompts(far: FarEnd) -> list[bytes | None]:
    def look(mock: Mock) -> list[bytes | None]:
        assert mock.seen.malformed == 0
        return [arrival.body for arrival in mock.seen]

    return far.call(look)


@pytest.mark.parametrize("name", ALL)
async def test_a_form_that_can_be_read_in_two_ways_is_refused_and_nothing_goes_upstream(
    gateway: Gateway, far: FarEnd, name: str
) -> None:
    assert_refused(await attack(gateway.port, ALL[name] + SMUGGLED))
    assert prompts(far) == []


@pytest.mark.parametrize(
    "name", [*(f"framing: {name}" for name in FRAMING), *(f"head: {name}" for name in HEADS)]
)
async def test_it_is_refused_behind_a_good_request_and_however_it_is_split(
    gateway: Gateway, far: FarEnd, name: str
) -> None:
    good, bad = post(chat("good")), ALL[name] + SMUGGLED
    assert_refused(await attack(gateway.port, good + bad), answers=2)
    third = len(bad) // 3
    outcome = await attack(
        gateway.port, good, bad[:third], bad[third : 2 * third], bad[2 * third :], pause_s=0.01
    )
    assert_refused(outcome, answers=2)
    assert prompts(far) == [chat("good")] * 2


async def test_it_is_refused_byte_by_byte(gateway: Gateway, far: FarEnd) -> None:
    for name in (
        "framing: CL and TE",
        "framing: two CLs",
        "head: a folded value",
        "head: bare LF in a value",
        "chunk: size zz",
    ):
        data = ALL[name]
        assert_refused(await attack(gateway.port, *(bytes([byte]) for byte in data)))
    assert prompts(far) == []


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith("chunk")])
async def test_what_is_wrong_with_a_body_is_told_at_once(gateway: Gateway, far: FarEnd, name: str) -> None:
    """Also where its head was well and has been read before."""
    head, body = ALL[name].split(b"\r\n\r\n", 1)
    assert_refused(await attack(gateway.port, head + b"\r\n\r\n", body, pause_s=0.1))
    assert prompts(far) == []


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_body_is_never_read_as_a_request(gateway: Gateway, far: FarEnd, is_chunked: bool) -> None:
    """Whatever a refused request's body says, it is nobody's next request."""
    framed = [TE] if is_chunked else [f"Content-Length: {len(SMUGGLED)}"]
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED) if is_chunked else SMUGGLED
    for first in (
        LINE,
        "POST /v1/files HTTP/1.1",
        "POST /nowhere HTTP/1.1",
        "GET /health/live HTTP/1.1",
        "PUT /v1/x HTTP/1.1",
    ):
        data = form(*framed, body=body, first=first)
        for request in (data, data.replace(CLIENT_KEY.encode(), b"wrong", 1)):
            outcome = await attack(gateway.port, request, quiet_s=0.1)
            assert len(outcome.answers) == 1, outcome
    assert chat("smuggled") not in prompts(far)


async def test_what_follows_a_request_that_was_refused_before_its_end_is_not_a_request(
    gateway: Gateway, far: FarEnd
) -> None:
    whole = post(chat("x" * 2_000), key="wrong")
    for request in (
        whole[:-500],
        post(b"", key="wrong").replace(b": 0", b": 2000000"),
        post(b"").replace(b": 0", b": 2000000"),
    ):
        outcome = await attack(gateway.port, request, SMUGGLED * 10, pause_s=0.05, quiet_s=0.5)
        assert (len(outcome.answers), outcome.answers[0].keeps_alive) == (1, False)
    assert prompts(far) == []


async def test_a_length_beyond_the_limit_is_refused_from_the_head(gateway: Gateway, far: FarEnd) -> None:
    for size in (2_000_000, 10**14, 10**16, 2**63 - 1):
        for data in (post(b""), post(b"", "/v1/files")):
            outcome = await attack(
                gateway.port, data.replace(b": 0", b": %d" % size) + b"x" * 1000, quiet_s=0.05
            )
            assert outcome.answers[0].status in (400, 413), outcome
    assert prompts(far) == []


async def test_odd_forms_that_have_one_meaning_are_served(gateway: Gateway, far: FarEnd) -> None:
    forms = [
        form(f"Content-Length:\t{SIZE}"),
        form(f"content-length:   {SIZE}  "),
        b"\r\n" + form(CL),
        form(TE, body=b"%X;ext=1\r\n%b\r\n0\r\nX-Trailer: y\r\n\r\n" % (SIZE, BODY)),
        form("TRANSFER-ENCODING: CHUNKED", body=CHUNKED),
        form(CL, host="Host: [::1]:8080"),
        form(CL, first="POST /v1/chat/completions? HTTP/1.1"),
    ]
    for data in forms:
        outcome = await attack(gateway.port, data + post(chat("next")), quiet_s=0.1, answers=2)
        assert outcome.statuses == [200, 200], (data, outcome)
    assert prompts(far) == [BODY, chat("next")] * len(forms)
