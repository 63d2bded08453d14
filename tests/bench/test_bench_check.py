"""A wrong answer is known as one, whatever is wrong with it."""

import pytest

from llmgw.bench.check import Checker, Wrong

NONCE = "00000000000000aa"
OTHER = "00000000000000bb"


def whole(content: str) -> bytes:
    return b'{"choices":[{"message":{"content":"%b"}}]}' % content.encode()


def stream(*contents: str, end: bytes = b"data: [DONE]\n\n") -> bytes:
    chunks = ["", *contents, ""]
    data = [b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % chunk.encode() for chunk in chunks]
    return b"".join(data) + b'data: {"choices":[],"usage":{}}\n\n' + end


GOOD = whole(f"nonce-{NONCE} words")
GOOD_STREAM = stream(f"nonce-{NONCE} ", "words")


def test_a_right_answer_passes_and_so_does_the_next_with_its_own_nonce():
    checker = Checker(False, None)
    checker.check(200, GOOD, NONCE)
    checker.check(200, whole(f"nonce-{OTHER} words"), OTHER)


def test_a_nonce_cut_over_two_events_is_read_together():
    Checker(True, 2).check(200, stream("nonce-0000", "0000000000aa x"), NONCE)


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (500, GOOD, "status 500"),
        (200, whole(f"nonce-{OTHER} words"), "another request"),
        (200, whole("words"), "without the request's nonce"),
        (200, whole(f"nonce-{NONCE} nonce-{OTHER}"), "another request"),
        (200, whole(f"nonce-{NONCE} word"), "differs"),
        (200, GOOD[:-1], "not a chat completion"),
        (200, b'{"error":{"message":"no"}}', "not a chat completion"),
        (200, b"", "not a chat completion"),
    ],
)
def test_a_wrong_whole_answer(status, body, complaint):
    checker = Checker(False, None)
    checker.check(200, GOOD, NONCE)
    with pytest.raises(Wrong, match=complaint):
        checker.check(status, body, NONCE)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (stream(f"nonce-{NONCE} ", "words", end=b""), "does not end in"),
        (GOOD_STREAM + b"data: [DONE]\n\n", "not a chunk"),
        (GOOD_STREAM[:-1], "does not end in"),
        (stream(f"nonce-{NONCE} ", "wo", "rds"), "3 content events, expected 2"),
        (stream(f"nonce-{NONCE} words"), "1 content events, expected 2"),
        (stream(f"nonce-{NONCE} ", "", "words"), "6 events, the run's first stream had 5"),
        (stream(f"nonce-{OTHER} ", "words"), "another request"),
        (stream(f"nonce-{NONCE} ", "sword"), "differs"),
        (
            GOOD_STREAM.replace(b'data: {"choices":[]', b'data: {"error":1}\n\ndata: {"choices":[]'),
            "not a chunk",
        ),
        (GOOD_STREAM.replace(b'{"choices":[]', b'"choices":[]'), "not a chunk"),
    ],
)
def test_a_wrong_stream(body, complaint):
    checker = Checker(True, 2)
    checker.check(200, GOOD_STREAM, NONCE)
    with pytest.raises(Wrong, match=complaint):
        checker.check(200, body, NONCE)
