"""The event scanner: what goes on of a stream, and what it says, however it is cut."""

from __future__ import annotations

import orjson
import pytest
from corpus_sse import BOM, CORPUS, DONE, RESPONSES, USAGE, Terminal, chunk, delta, sse, typed
from corpus_sse_model import Facts, model

from llmgw._wire.sse import EventScanner, ScanError
from llmgw._wire.usage import reported_usage


def facts_of(scanner: EventScanner, output: bytes) -> Facts:
    return Facts(
        output,
        scanner.is_terminal,
        scanner.error,
        scanner.usage,
        scanner.first_usage,
        scanner.events,
        scanner.text_bytes,
    )


def scan(pieces: list[bytes], terminal: Terminal, strip_usage: bool) -> Facts:
    scanner = EventScanner(terminal, strip_usage)
    return facts_of(scanner, b"".join([scanner.feed(piece) for piece in pieces]))


STREAMS = pytest.mark.parametrize(
    ("stream", "terminal"), [pytest.param(*case, id=name) for name, case in CORPUS.items()]
)
STRIP = pytest.mark.parametrize("strip_usage", [False, True], ids=["plain", "strip"])


@STREAMS
@STRIP
def test_a_stream_read_whole_comes_out_as_the_model_says(
    stream: bytes, terminal: Terminal, strip_usage: bool
) -> None:
    assert scan([stream], terminal, strip_usage) == model(stream, terminal, strip_usage)


@STREAMS
@STRIP
def test_byte_by_byte_gives_the_same(stream: bytes, terminal: Terminal, strip_usage: bool) -> None:
    pieces = [stream[at : at + 1] for at in range(len(stream))]
    assert scan(pieces, terminal, strip_usage) == model(stream, terminal, strip_usage)


@STREAMS
@STRIP
def test_split_at_every_byte_gives_the_same(stream: bytes, terminal: Terminal, strip_usage: bool) -> None:
    expected = model(stream, terminal, strip_usage)
    for at in range(len(stream) + 1):
        assert scan([stream[:at], stream[at:]], terminal, strip_usage) == expected, at


@STREAMS
@STRIP
def test_every_prefix_gives_whole_events_only(stream: bytes, terminal: Terminal, strip_usage: bool) -> None:
    for at in range(len(stream) + 1):
        assert scan([stream[:at]], terminal, strip_usage) == model(stream[:at], terminal, strip_usage), at


@STREAMS
def test_nothing_is_lost_where_nothing_is_stripped(stream: bytes, terminal: Terminal) -> None:
    scanner = EventScanner(terminal)
    output = scanner.feed(stream)
    assert stream.startswith(output)
    if not scanner.is_terminal:
        assert scanner.pending_bytes == len(stream) - len(output)


def test_whole_events_without_change_come_back_as_the_same_object() -> None:
    scanner = EventScanner(DONE, strip_usage=True)
    for piece in (
        sse(delta("a")),
        b": ping\n\n",
        sse(delta("b"), delta("c")),
        sse(delta("d"), end=b"\r\n"),
        sse(DONE),
    ):
        assert scanner.feed(piece) is piece
    assert scanner.is_terminal


def test_nothing_goes_out_behind_the_terminal_event_but_its_own_line_end() -> None:
    scanner = EventScanner(DONE)
    assert scanner.feed(b"data: [DONE]\r\n\r") == b"data: [DONE]\r\n\r"
    assert scanner.is_terminal
    assert scanner.feed(b"\n\n" + sse(delta("x"))) == b"\n"
    assert scanner.feed(sse(delta("y"))) == b""
    assert (scanner.events, scanner.text_bytes, scanner.pending_bytes) == (1, 0, 0)


def test_what_comes_behind_the_terminal_event_is_not_kept() -> None:
    scanner = EventScanner(DONE)
    assert scanner.feed(b"data: [DO") == b""
    assert scanner.feed(b"NE]\n\n" + sse(delta("x")) + b"data: y") == sse(DONE)
    assert scanner.pending_bytes == 0
    assert scanner.feed(b"z\n\n") == b""


def test_the_line_end_of_a_dropped_event_is_dropped_with_it() -> None:
    scanner = EventScanner(DONE, strip_usage=True)
    assert scanner.feed(b"data: " + chunk([], usage=USAGE) + b"\r\n\r") == b""
    assert scanner.feed(b"\n" + sse(DONE)) == sse(DONE)


def test_forced_usage_leaves_no_trace() -> None:
    asked = sse(delta("a", usage=None), delta("b", "stop", usage=None), chunk([], usage=USAGE), DONE)
    scanner = EventScanner(DONE, strip_usage=True)
    assert scanner.feed(asked) == sse(delta("a"), delta("b", "stop"), DONE)
    assert scanner.usage is not None
    assert orjson.loads(scanner.usage) == USAGE


def test_azures_first_chunk_stays() -> None:
    first = sse(chunk([], prompt_filter_results=[{"prompt_index": 0}]))
    assert EventScanner(DONE, strip_usage=True).feed(first) is first


def test_the_last_usage_counts() -> None:
    scanner = EventScanner(DONE)
    scanner.feed(
        sse(
            delta("a", usage={"total_tokens": 1}),
            delta("b", usage={"total_tokens": 2}),
            delta("c", usage=None),
        )
    )
    assert scanner.usage == b'{"total_tokens":2}'


def test_an_error_is_the_end_and_nothing_behind_it_goes_out() -> None:
    scanner = EventScanner(DONE, strip_usage=True)
    failed = sse(delta("a"), b'{"error":{"message":"one"},"choices":[],"usage":{"prompt_tokens":1}}')
    assert scanner.feed(failed + sse(b'{"error":{"message":"two"}}', DONE)) == failed
    assert scanner.error == b'{"error":{"message":"one"},"choices":[],"usage":{"prompt_tokens":1}}'
    assert scanner.usage == b'{"prompt_tokens":1}'
    assert scanner.is_terminal
    assert scanner.feed(sse(DONE)) == b""


def test_an_error_ends_no_stream_of_whose_end_nothing_is_known() -> None:
    stream = sse(delta("a"), b'{"error":{"message":"one"}}', b'{"error":{"message":"two"}}', DONE)
    scanner = EventScanner()
    assert scanner.feed(stream) == stream
    assert scanner.error == b'{"error":{"message":"one"}}'
    assert not scanner.is_terminal


def test_a_response_that_failed_ends_its_stream_with_an_error() -> None:
    scanner = EventScanner(RESPONSES)
    failed = typed("response.failed", response={"error": {"code": "e"}, "usage": {"total_tokens": 5}})
    assert scanner.feed(failed) == failed
    assert scanner.error is not None
    assert (scanner.is_terminal, scanner.usage) == (True, b'{"total_tokens":5}')


MESSAGES = frozenset({b"message_stop"})


def test_a_message_stream_tells_usage_at_its_start_and_near_its_end() -> None:
    scanner = EventScanner(MESSAGES)
    first = {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 1}
    stream = typed("message_start", message={"content": [{"text": "no delta"}], "usage": first})
    for kind, delta_ in (
        ("content_block_delta", {"type": "text_delta", "text": "Hé"}),
        ("content_block_delta", {"type": "thinking_delta", "thinking": "hm"}),
        ("content_block_delta", {"type": "input_json_delta", "partial_json": '{"a"'}),
    ):
        stream += typed(kind, index=0, delta=delta_)
    stream += typed("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7})
    assert scanner.feed(stream) == stream
    assert not scanner.is_terminal
    stop = typed("message_stop")
    assert scanner.feed(stop + typed("ping")) == stop
    assert (scanner.is_terminal, scanner.error, scanner.text_bytes) == (True, None, 3 + 2 + 4)
    usage = reported_usage(scanner.usage, scanner.first_usage)
    assert usage is not None
    assert (usage.input_tokens, usage.cached_tokens, usage.output_tokens) == (13, 4, 7)


def test_an_error_ends_a_message_stream() -> None:
    scanner = EventScanner(MESSAGES)
    failed = typed("error", error={"type": "overloaded_error", "message": "Overloaded"})
    assert scanner.feed(failed + typed("message_stop")) == failed
    assert (scanner.is_terminal, scanner.error is not None) == (True, True)


def test_a_responses_stream_counts_deltas_once_and_takes_usage_from_its_end() -> None:
    scanner = EventScanner(RESPONSES)
    scanner.feed(
        typed("response.output_text.delta", delta="Hé") + typed("response.output_text.done", text="Hé")
    )
    assert (scanner.text_bytes, scanner.usage, scanner.is_terminal) == (3, None, False)
    scanner.feed(typed("response.completed", response={"usage": {"total_tokens": 5}}))
    assert (scanner.text_bytes, scanner.usage, scanner.is_terminal) == (3, b'{"total_tokens":5}', True)


@pytest.mark.parametrize(
    "left", [b"data: [DONE]", b"data:[DONE]\n", b"data: [DONE]\r", b": x\ndata: [DONE]\r\n"]
)
def test_a_terminal_event_without_its_blank_line_counts_at_the_clean_end(left: bytes) -> None:
    scanner = EventScanner(DONE, strip_usage=True)
    assert scanner.feed(sse(delta("a")) + left) == sse(delta("a"))
    output = scanner.finish()
    assert output.startswith(left)
    assert output.rstrip(b"\r\n") == left.rstrip(b"\r\n")
    assert model(output, DONE, True).is_terminal
    assert scanner.is_terminal
    assert scanner.finish() == b""


@pytest.mark.parametrize(
    "left",
    [
        b"",
        b"data: [DON",
        b"data: " + delta("b"),
        b": ping\n",
        b"data: " + chunk([], usage=None),
        b"data: {}\r",
        BOM,
    ],
)
def test_any_other_unfinished_event_stays_away_from_the_client(left: bytes) -> None:
    scanner = EventScanner(DONE, strip_usage=True)
    scanner.feed(sse(delta("a")) + left)
    assert scanner.finish() == b""
    assert (scanner.is_terminal, scanner.pending_bytes) == (False, 0)


def test_a_responses_end_without_its_blank_line_counts() -> None:
    scanner = EventScanner(RESPONSES)
    left = typed("response.completed", response={"usage": {"a": 1}})[:-2]
    assert scanner.feed(left) == b""
    assert scanner.finish() == left + b"\n\n"
    assert scanner.usage == b'{"a":1}'


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_an_event_may_be_as_large_as_the_limit_and_no_larger(step: int) -> None:
    for size, end in ((1000, b"\n\n"), (1000, b"\r\n\r\n"), (1001, b"\n\n")):
        line_end = end[: len(end) // 2]
        event = b"data: " + b"x" * (size - 6 - len(line_end)) + end
        scanner = EventScanner(DONE, max_event_bytes=1000)
        pieces = [(event * 3)[at : at + step] for at in range(0, 3 * len(event), step)]
        if size > 1000:
            with pytest.raises(ScanError):
                for piece in pieces:
                    scanner.feed(piece)
            with pytest.raises(ScanError):
                scanner.feed(b"\n\n")
        else:
            assert b"".join([scanner.feed(piece) for piece in pieces]) == event * 3


def test_an_unfinished_event_above_the_limit_is_refused_before_it_ends() -> None:
    scanner = EventScanner(None, max_event_bytes=5000)
    scanner.feed(b"data: " + b"x" * 4990)
    with pytest.raises(ScanError):
        scanner.feed(b"y" * 10)


def test_a_terminal_is_bytes_or_types_or_nothing() -> None:
    assert EventScanner([b"end"]).feed(b"event: end\ndata: {}\n\n") == b"event: end\ndata: {}\n\n"
    with pytest.raises(TypeError):
        EventScanner(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        EventScanner(None).feed(None)  # type: ignore[arg-type]
