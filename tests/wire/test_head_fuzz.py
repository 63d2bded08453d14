"""The fast lane's grammar against llhttp: 50,000 generated heads, and whatever Hypothesis thinks of."""

from __future__ import annotations

import pytest
from heads import ONCE, SPANS, Heads, Judge, read_by_grammar
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgw._wire.head import read_plain_head

RUNS = 10
HEADS_A_RUN = 5_000
SMUGGLED = b"\r\n0\r\n\r\nPOST / HTTP/1.1\r\n\r\n"  # a body that would be more, were it read as HTTP
NEXT = b"POST /next HTTP/1.1\r\nhost: n\r\ncontent-length: 0\r\n\r\n"


def assert_llhttp_agrees(data: bytes, facts: dict[str, object]) -> None:
    """llhttp takes the head for the same request, which ends at the same byte."""
    size, length = facts["size"], facts["content_length"]
    assert isinstance(size, int)
    assert isinstance(length, int)
    judge = Judge().feed(data[:size])
    assert not judge.refused, data
    assert (judge.method, judge.url, judge.version) == (b"POST", facts["path"], "1.1"), data
    assert judge.keeps_alive, data
    for fact, name in SPANS.items():
        assert judge.values(name) == [facts[fact]] * (facts[fact] is not None), (data, name)
    assert judge.values(b"content-length") == [data_of(judge, b"content-length")], data
    assert int(data_of(judge, b"content-length")) == length, data
    assert [value.split(b" ", 1)[1].strip(b" ") for value in judge.values(b"authorization")] == (
        [facts["bearer"]] if facts["bearer"] is not None else []
    ), data
    assert all(len(judge.values(name)) <= 1 for name in ONCE), data
    assert_ends_with_its_body(judge, length)


def data_of(judge: Judge, name: bytes) -> bytes:
    return judge.values(name)[0]


def assert_ends_with_its_body(judge: Judge, length: int) -> None:
    if length > 10_000:
        return
    body = (SMUGGLED * (length // len(SMUGGLED) + 1))[:length]
    judge.feed(body[: max(0, length - 1)])
    assert judge.ended == (length == 0)
    judge.feed(body[max(0, length - 1) :] + NEXT[:1])
    assert (judge.ended, judge.began, judge.body, judge.refused) == (1, 2, body, False)


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_plain_head_is_what_the_grammar_says_and_llhttp_reads_the_same_request(seed: int) -> None:
    heads = Heads(seed)
    plain = 0
    for _ in range(HEADS_A_RUN):
        data = heads.head()
        facts = read_plain_head(data)
        assert (facts or None) == read_by_grammar(data), data
        if isinstance(facts, dict):
            plain += 1
            assert_llhttp_agrees(data, facts)
    assert HEADS_A_RUN // 5 < plain < HEADS_A_RUN * 4 // 5


@pytest.mark.parametrize("seed", range(100, 104))
def test_a_verdict_comes_once_and_more_bytes_never_change_it(seed: int) -> None:
    heads = Heads(seed)
    for _ in range(150):
        data = heads.head() + heads.random.choice((b"", b"{}", NEXT, b"\xff\x00"))
        final = read_plain_head(data)
        verdicts = [read_plain_head(data[:size]) for size in range(len(data) + 1)]
        decided = next((size for size, verdict in enumerate(verdicts) if verdict is not None), len(data) + 1)
        assert verdicts[:decided] == [None] * decided, data
        assert verdicts[decided:] == [final] * (len(data) + 1 - decided), data
        if isinstance(final, dict):
            assert decided == final["size"], data


@pytest.mark.parametrize("seed", range(200, 202))
def test_what_llhttp_refuses_is_never_plain(seed: int) -> None:
    heads = Heads(seed)
    refused = 0
    for _ in range(2_000):
        data = heads.mutated(heads.head())
        if Judge().feed(data).refused:
            refused += 1
            facts = read_plain_head(data)
            assert not isinstance(facts, dict) or not Judge().feed(data[: facts["size"]]).refused, data
    assert refused > 200


token = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=20)
value = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40).map(str.strip)


@settings(deadline=None)
@given(
    st.lists(st.tuples(token, value), max_size=20),
    st.text("abz019/-_.", max_size=30),
    st.integers(0, 10**15 - 1),
)
def test_what_hypothesis_makes_of_the_grammar_is_read_as_llhttp_reads_it(
    headers: list[tuple[str, str]], path: str, length: int
) -> None:
    lines = [
        f"POST /{path} HTTP/1.1",
        "Host: h",
        *(f"{name}: {text}" for name, text in headers),
        f"content-length:{length}",
    ]
    data = "\r\n".join([*lines, "", ""]).encode()
    facts = read_plain_head(data)
    assert (facts or None) == read_by_grammar(data)
    if isinstance(facts, dict):
        assert_llhttp_agrees(data, facts)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_upset_the_reader(data: bytes) -> None:
    facts = read_plain_head(b"POST /a HTTP/1.1\r\nhost: h\r\n" + data)
    assert facts is None or facts is False or isinstance(facts, dict)
