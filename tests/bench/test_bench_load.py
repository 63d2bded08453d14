"""A run measures what happened and is void when anything went wrong."""

import asyncio
import os
import re
import ssl
from collections.abc import Awaitable, Callable

import pytest

from llmgw.bench import Target, run, to_json, to_text
from llmgw.bench.job import Nonces, Template, request_body


async def test_a_closed_loop_counts_every_answer_and_is_not_void(start_mock, job_for):
    mock = await start_mock()
    result = await run(job_for(mock, concurrency=4))
    assert not result.is_void
    assert 0 < result.completed <= mock.seen.complete
    assert len(result.ways["gateway"].latency) > 0
    assert mock.seen.connections == 4
    assert mock.seen.requests == mock.seen.complete


async def test_requests_have_the_size_asked_for_and_nonces_of_their_own(start_mock, job_for):
    mock = await start_mock()
    await run(job_for(mock, concurrency=2, body_bytes=1500))
    bodies = [arrival.body for arrival in mock.seen]
    assert {len(body) for body in bodies} == {1500}
    assert len({re.search(rb"nonce-\w+", body)[0] for body in bodies}) == len(bodies)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ({"close": "bytes:20"}, "ended before the answer did"),
        ({"reset": "after-head"}, "ended before the answer did"),
        ({"status": 500}, "status 500"),
        ({"garbage": "http"}, "not HTTP"),
        ({"garbage": "json"}, "not a chat completion"),
        ({"text": "nonce-123"}, "foreign answer"),
        ({"stall": "before-head"}, "no whole answer within 1.5 s"),
    ],
)
async def test_one_wrong_answer_among_many_voids_the_run(start_mock, job_for, fault, complaint):
    mock = await start_mock()
    mock.script({"contains": "lorem", "times": 20}, fault)
    result = await run(job_for(mock, concurrency=2, **({"timeout_s": 1.5} if "stall" in fault else {})))
    assert result.is_void
    (reason,) = result.failures
    assert complaint in reason
    assert result.failures[reason] == 1
    assert "VOID" in to_text(result)
    assert result.completed > 0


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ({"no_done": True}, "does not end in"),
        ({"error_event": 3}, "does not end in"),
        ({"close": "events:3"}, "ended before the answer did"),
        ({"events": 9}, "9 content events, expected 5"),
    ],
)
async def test_one_broken_stream_voids_the_run(start_mock, job_for, fault, complaint):
    mock = await start_mock(events=5)
    mock.script({"contains": "lorem", "times": 5}, fault)
    result = await run(job_for(mock, concurrency=2, is_stream=True, events=5))
    assert [complaint in reason for reason in result.failures] == [True]


async def test_an_answer_to_another_request_is_found_out(job_for):
    """A server that answers each request with the one before it."""
    earlier = [b"nonce-0"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            body = await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", head)[1]))
            earlier.append(re.search(rb"nonce-\w+", body)[0])
            content = b'{"choices":[{"message":{"content":"%b"}}]}' % earlier[-2]
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(content), content))

    async with _server(answer) as url:
        job = job_for(targets=(Target("gateway", url),), concurrency=1)
        result = await run(job)
    assert any("of another request" in reason for reason in result.failures)


async def test_a_run_gives_up_early_where_nothing_answers(job_for):
    job = job_for(targets=(Target("gateway", "http://127.0.0.1:1/v1"),), duration_s=60.0)
    result = await asyncio.wait_for(run(job), 40)
    assert result.failures.total() >= 100
    assert "cannot connect" in next(iter(result.failures))


async def test_an_open_loop_charges_a_stall_to_every_request_it_held_up(start_mock, job_for):
    """Coordinated omission: the requests due while the server stood still waited too."""
    stall_s, rate = 0.4, 200.0
    mock = await start_mock()
    settings = {"concurrency": 1, "duration_s": 1.0, "warmup_s": 0.0}

    mock.script({"contains": "lorem", "times": 30}, {"delay_s": stall_s})
    opened = await run(job_for(mock, rate=rate, arrivals="constant", **settings))
    held_up = _slower_than(opened, stall_s / 4)
    assert held_up >= 0.5 * stall_s * rate
    assert opened.ways["gateway"].latency.quantile(1.0) >= stall_s
    assert opened.lag.quantile(1.0) > 0.9 * stall_s  # sent late, and it says so

    mock.script({"contains": "lorem", "times": 100}, {"delay_s": stall_s})
    closed = await run(job_for(mock, **settings))
    assert 1 <= _slower_than(closed, stall_s / 4) < 10  # one, and those whom the machine let stand


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
async def test_an_open_loop_keeps_its_rate(start_mock, job_for, arrivals):
    mock = await start_mock()
    job = job_for(mock, rate=500.0, arrivals=arrivals, concurrency=100, duration_s=1.0, seed=3)
    result = await run(job)
    assert not result.is_void
    due = 500 * result.measured_s  # longer than the second asked for where the machine stood still
    late = (
        result.lag.quantile(1.0) * 500
    )  # due before the measured time and sent in it, or the other way round
    spread = 0.02 if arrivals == "constant" else 0.2
    assert result.completed == pytest.approx(due, rel=spread, abs=late + 0.02 * due)


async def test_an_open_loop_opens_connections_as_it_needs_them(start_mock, job_for):
    mock = await start_mock(delay_s=0.05)
    await run(job_for(mock, rate=200.0, concurrency=1000, duration_s=1.5))
    assert 5 <= mock.seen.connections < mock.seen.requests  # ten, and those due while the machine stood still


async def test_the_added_latency_is_the_difference_of_the_two_ways(start_mock, job_for):
    slow, quick = await start_mock(delay_s=0.02), await start_mock()
    result = await run(job_for(slow, quick, concurrency=2, duration_s=0.6))
    assert min(slow.seen.requests, quick.seen.requests) > 5
    added = to_json(result)["added_us"]["gateway"]
    assert list(added) == ["p50", "p90", "p99", "p99.9"]
    assert 10_000 <= added["p50"] <= 500_000  # the delay is 20 ms
    assert "gateway added to direct" in to_text(result)


async def test_a_stream_shows_its_first_event_and_the_gaps_between_events(start_mock, job_for):
    mock = await start_mock()
    wishes = {"events": 5, "first_token_s": 0.05, "interval_s": 0.01}
    result = await run(
        job_for(mock, is_stream=True, events=5, wants_usage=True, wishes=wishes, concurrency=2)
    )
    assert not result.is_void
    way = result.ways["gateway"]
    assert 0.04 <= way.first.quantile(0.5) <= 1.0
    assert 0.005 <= way.gaps.quantile(0.5) <= 0.5
    assert len(way.gaps) == 8 * len(way.latency)  # role, five words, finish, usage, [DONE]
    assert way.events >= 5


async def test_events_of_one_read_are_no_time_apart(start_mock, job_for):
    mock = await start_mock(events=50)
    result = await run(job_for(mock, is_stream=True, concurrency=1))
    assert result.ways["gateway"].gaps.quantile(0.1) == 0.0


async def test_events_are_counted_however_the_bytes_are_cut(start_mock, job_for):
    mock = await start_mock(events=3, split_bytes=1)
    result = await run(job_for(mock, is_stream=True, events=3, concurrency=1, duration_s=0.5))
    assert not result.is_void
    assert len(result.ways["gateway"].gaps) == 5 * len(result.ways["gateway"].latency) > 0


async def test_connections_that_the_server_closes_are_opened_anew(start_mock, job_for):
    mock = await start_mock(connection_close=True)
    result = await run(job_for(mock, concurrency=3))
    assert not result.is_void
    assert mock.seen.connections >= mock.seen.requests > 3


async def test_the_cpu_of_a_process_tree_is_told_by_request(start_mock, job_for):
    mock = await start_mock()
    result = await run(job_for(mock, concurrency=4, duration_s=1.0, pids={"me": os.getpid()}))
    tree = to_json(result)["trees"]["me"]
    assert tree["cpu_us_per_request"] == pytest.approx(tree["cpu_s"] / result.completed * 1e6, rel=0.01)
    assert 0.02 < tree["cpu_s"] <= 1.5 * result.measured_s  # one thread's
    assert tree["rss_bytes"] > 1_000_000


async def test_https_is_checked_against_the_authorities_given(start_mock, job_for):
    mock = await start_mock()
    target = Target("gateway", f"https://127.0.0.1:{mock.port}/v1")
    result = await run(job_for(targets=(target,), tls=ssl.create_default_context(), concurrency=1))
    assert "cannot connect" in next(iter(result.failures))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://h:1", "/v1/chat/completions"),
        ("http://h:1/v1/", "/v1/chat/completions"),
        ("http://h:1/openai/deployments/d/chat/completions", "/openai/deployments/d/chat/completions"),
    ],
)
def test_a_base_url_and_a_whole_one_name_the_same_route(url, path):
    assert Target("t", url).path == path


def test_a_template_differs_from_its_request_in_the_nonce_alone(job_for):
    job = job_for(targets=(Target("gateway", "http://h:8/v1", key="sk-1"),), is_stream=True, wants_usage=True)
    nonces = Nonces()
    template = Template(job, job.targets[0])
    first, second = template.fill(nonces.take()), template.fill(nonces.take())
    assert first != second
    assert len(first) == len(second)
    head, _, body = first.partition(b"\r\n\r\n")
    assert b"authorization: Bearer sk-1\r\n" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert len(body) == len(request_body(job)) == 1100


def _slower_than(result, limit_s: float) -> int:
    return sum(value > limit_s for value in result.ways["gateway"].latency._values)


class _server:
    """Serves one handler on a free port."""

    def __init__(self, handler: Callable[..., Awaitable[None]]) -> None:
        self._handler = handler
        self._tasks: set[asyncio.Task] = set()

    async def __aenter__(self) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await self._handler(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        self._server = await asyncio.start_server(serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()
