"""However a stream is written and cut, the scanner's output and facts are the plain model's."""

from __future__ import annotations

from random import Random

import pytest
from corpus_sse import BOM, CORPUS, DONE, RESPONSES, USAGE, Terminal, chunk, delta
from corpus_sse_model import model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sse import scan

LINES = (
    b"",
    b"",
    b"",
    b"data: [DONE]",
    b"data: [DONE] ",
    b"data",
    b"data:",
    b"data: ",
    b"data:  x",
    b": ping",
    b":",
    b"id: 1",
    b"event: error",
    b"event: response.completed",
    b"event",
    b"dat",
    b"data[DONE]",
    BOM,
    BOM + b"data: 1",
    b" data: x",
    b"data: " + delta("h\xc3\xa9"),
    b"data: " + delta("a", usage=None),
    b"data:" + delta("[DONE]", "stop"),
    b"data: " + chunk([], usage=USAGE),
    b"data: " + chunk([], usage=None),
    b"data: " + chunk([], usage={}),
    b'data: {"usage":null',
    b"data: ,",
    b'data: "x":"y"}',
    b'data: {"error":{"a":1}}',
    b'data: {"error":null,"usage":null}',
    b'data: {"type":"response.failed","response":{"usage":{"b":2}}}',
    b'data: {"delta":"abc","type":"x"}',
    b"data: \xff",
)
ENDS = (b"\n", b"\n", b"\r\n", b"\r")
TERMINALS: tuple[Terminal, ...] = (DONE, DONE, None, RESPONSES)
STREAMS_A_RUN = 5_000


def written(random: Random) -> bytes:
    """A stream of lines that make sense, in an order that may not; one in three has broken bytes."""
    end = random.choice(ENDS)
    lines = [random.choice(LINES) for _ in range(random.randrange(12))]
    lines = [part for line in lines for part in ((line, b"") if random.random() < 0.6 else (line,))]
    stream = b"".join(line + (end if random.random() < 0.9 else random.choice(ENDS)) for line in lines)
    if random.random() < 0.3:
        at = random.randrange(len(stream) + 1)
        junk = random.choice((b"", b"\r", b"\n", b'"', b"\\", b"{", b"\x00", b"\xe4", b","))
        stream = stream[:at] + junk + stream[at + random.randrange(3) :]
    return BOM + stream if random.random() < 0.1 else stream


def cut(stream: bytes, random: Random) -> list[bytes]:
    marks = sorted(random.randrange(len(stream) + 1) for _ in range(random.randrange(8)))
    return [stream[a:b] for a, b in zip([0, *marks], [*marks, len(stream)], strict=True)]


@pytest.mark.parametrize("seed", range(6))
def test_generated_streams_come_out_as_the_model_says_however_they_are_cut(seed: int) -> None:
    random = Random(seed)
    for _ in range(STREAMS_A_RUN):
        stream, terminal, strip = written(random), random.choice(TERMINALS), random.random() < 0.6
        expected = model(stream, terminal, strip)
        for _ in range(3):
            pieces = cut(stream, random)
            assert scan(pieces, terminal, strip) == expected, (pieces, terminal, strip)


@settings(deadline=None)
@given(st.sampled_from(sorted(CORPUS)), st.lists(st.integers(0, 2000), max_size=12), st.booleans())
def test_the_corpus_comes_out_the_same_however_it_is_cut(name: str, cuts: list[int], strip: bool) -> None:
    stream, terminal = CORPUS[name]
    marks = sorted(mark % (len(stream) + 1) for mark in cuts)
    pieces = [stream[a:b] for a, b in zip([0, *marks], [*marks, len(stream)], strict=True)]
    assert scan(pieces, terminal, strip) == model(stream, terminal, strip)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40)), st.sampled_from(TERMINALS), st.booleans())
def test_no_bytes_at_all_make_a_difference_between_cut_and_whole(
    pieces: list[bytes], terminal: Terminal, strip: bool
) -> None:
    whole = scan([b"".join(pieces)], terminal, strip)
    assert scan(pieces, terminal, strip) == whole
    assert whole.output == model(b"".join(pieces), terminal, strip).output
