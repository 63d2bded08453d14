"""A Serving carries its coroutine on from whatever brought what it waited for, to exactly one end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from wirefakes import FakeTransport

from llmgw._wire.deadline import Wheel
from llmgw._wire.serving import Serving, Signal
from llmgw._wire.upstream import Connection
from llmgw.errors import UpstreamBroken

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Run:
    """A Serving and what became of it."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.ends: list[BaseException | None] = []
        self.serving = Serving(coroutine, self.ends.append)

    def start(self) -> Run:
        self.serving.start()
        return self


class Asked:
    """A Signal, and the connection that sets it."""

    def __init__(self) -> None:
        self.connection = Connection(None, Wheel(), None)  # type: ignore[arg-type]
        self.transport = FakeTransport(self.connection)
        self.signal = self.ask()

    def ask(self) -> Signal:
        if not self.connection.is_idle:
            self.connection.rest()
        return self.connection.ask(b"POST / HTTP/1.1\r\n\r\n", [], None, 9.0, 9.0, 1e9)

    def wake(self) -> None:
        self.connection.data_received(ANSWER)

    def fail(self) -> None:
        self.connection.fail(UpstreamBroken("told to"))


async def test_what_never_waits_has_ended_when_start_returns() -> None:
    async def work() -> None:
        steps.append("ran")

    steps: list[str] = []
    run = Run(work()).start()
    assert (steps, run.ends, run.serving.is_done) == (["ran"], [None], True)


async def test_a_signal_carries_on_before_the_call_that_set_it_returns() -> None:
    async def work() -> None:
        steps.append("asked")
        await asked.signal
        steps.append("woken")

    asked, steps = Asked(), []
    run = Run(work()).start()
    assert (steps, run.ends, run.serving.is_done) == (["asked"], [], False)
    asked.wake()
    assert (steps, run.ends, run.serving.is_done) == (["asked", "woken"], [None], True)


async def test_a_signal_that_was_set_before_is_not_waited_for() -> None:
    asked = Asked()
    asked.wake()

    async def work() -> None:
        await asked.signal

    assert Run(work()).start().ends == [None]


async def test_a_failed_signal_raises_where_it_is_awaited_set_before_or_after() -> None:
    for is_early in (True, False):
        asked = Asked()

        async def work(asked: Asked = asked) -> None:
            with pytest.raises(UpstreamBroken, match="told to"):
                await asked.signal
            steps.append("caught")

        steps: list[str] = []
        if is_early:
            asked.fail()
        run = Run(work()).start()
        if not is_early:
            assert not run.ends
            asked.fail()
        assert (steps, run.ends) == (["caught"], [None])


async def test_one_signal_after_the_other_can_be_awaited_without_a_turn_of_the_loop() -> None:
    asked = Asked()

    async def work() -> None:
        for _ in range(3):
            await asked.signal
            asked.signal = asked.ask()

    run = Run(work()).start()
    for count in range(3):
        assert (run.serving.is_done, asked.connection.asked) == (False, count + 1)
        asked.wake()
    assert run.ends == [None]


@pytest.mark.parametrize("is_done_before", [True, False])
async def test_a_future_gives_its_result_or_raises(is_done_before: bool) -> None:
    loop = asyncio.get_running_loop()

    async def work() -> None:
        results.append(await good)
        try:
            await bad
        except ValueError as error:
            results.append(str(error))

    good, bad, results = loop.create_future(), loop.create_future(), list[Any]()
    if is_done_before:
        good.set_result(7)
        bad.set_exception(ValueError("no"))
    run = Run(work()).start()
    if not is_done_before:
        assert not run.ends
        good.set_result(7)
        await asyncio.sleep(0)
        bad.set_exception(ValueError("no"))
        await asyncio.sleep(0)
    assert (results, run.ends) == ([7, "no"], [None])


async def test_a_task_is_awaited_like_any_future() -> None:
    async def inner() -> str:
        assert asyncio.current_task() is not None
        await asyncio.sleep(0)
        return "done"

    async def work() -> None:
        results.append(await asyncio.get_running_loop().create_task(inner()))

    results: list[str] = []
    run = Run(work()).start()
    for _ in range(5):
        await asyncio.sleep(0)
    assert (results, run.ends) == (["done"], [None])


async def test_a_cancelled_future_raises_in_the_one_that_awaits_it() -> None:
    future = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await future

    run = Run(work()).start()
    future.cancel()
    await asyncio.sleep(0)
    assert [type(end) for end in run.ends] == [asyncio.CancelledError]


async def test_an_exception_is_told_once() -> None:
    async def work() -> None:
        raise KeyError("mine")

    run = Run(work()).start()
    assert [type(end) for end in run.ends] == [KeyError]
    run.serving.cancel()
    assert len(run.ends) == 1


async def test_what_is_cancelled_while_it_waits_for_a_signal_ends_at_once_and_stays_ended() -> None:
    asked, steps = Asked(), []

    async def work() -> None:
        try:
            await asked.signal
        finally:
            steps.append("left")

    run = Run(work()).start()
    run.serving.cancel()
    assert (steps, [type(end) for end in run.ends]) == (["left"], [asyncio.CancelledError])
    asked.wake()
    run.serving.cancel()
    assert (steps, len(run.ends)) == (["left"], 1)


async def test_what_is_cancelled_while_it_waits_for_a_future_leaves_the_future_alone() -> None:
    future = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await future

    run = Run(work()).start()
    run.serving.cancel()
    assert ([type(end) for end in run.ends], future.cancelled()) == ([asyncio.CancelledError], False)
    future.set_result(1)
    await asyncio.sleep(0)
    assert len(run.ends) == 1


async def test_a_future_that_is_done_but_not_yet_told_does_not_wake_the_cancelled() -> None:
    future = asyncio.get_running_loop().create_future()
    waits = asyncio.get_running_loop().create_future()
    steps: list[str] = []

    async def work() -> None:
        try:
            await future
        except asyncio.CancelledError:
            steps.append("cancelled")
            await waits
            steps.append("cleaned")

    run = Run(work()).start()
    future.set_result(1)
    run.serving.cancel()
    await asyncio.sleep(0)
    assert (steps, run.ends) == (["cancelled"], [])
    waits.set_result(None)
    await asyncio.sleep(0)
    assert (steps, run.ends) == (["cancelled", "cleaned"], [None])


async def test_what_is_cancelled_while_it_runs_is_cancelled_at_its_next_wait() -> None:
    asked, steps = Asked(), []

    async def work() -> None:
        run.serving.cancel()
        steps.append("still runs")
        try:
            await asked.signal
        except asyncio.CancelledError:
            steps.append("cancelled")
            raise

    run = Run(work())
    run.start()
    assert (steps, [type(end) for end in run.ends]) == (["still runs", "cancelled"], [asyncio.CancelledError])


async def test_what_is_cancelled_while_it_runs_and_waits_no_more_ends_well() -> None:
    async def work() -> None:
        run.serving.cancel()

    run = Run(work())
    run.start()
    assert run.ends == [None]


async def test_what_is_cancelled_before_it_started_never_runs() -> None:
    async def work() -> None:
        steps.append("ran")

    steps: list[str] = []
    run = Run(work())
    run.serving.cancel()
    assert (steps, [type(end) for end in run.ends]) == ([], [asyncio.CancelledError])


async def test_one_that_goes_on_after_a_cancellation_can_be_cancelled_again() -> None:
    first, second = Asked(), Asked()
    steps: list[str] = []

    async def work() -> None:
        try:
            await first.signal
        except asyncio.CancelledError:
            steps.append("once")
        await second.signal

    run = Run(work()).start()
    run.serving.cancel()
    assert (steps, run.ends) == (["once"], [])
    run.serving.cancel()
    assert [type(end) for end in run.ends] == [asyncio.CancelledError]


async def test_an_end_that_nobody_wants_to_hear_of_is_no_error() -> None:
    asked = Asked()

    async def work() -> None:
        await asked.signal

    serving = Serving(work())
    serving.start()
    asked.wake()
    assert serving.is_done


async def test_thousands_of_waits_in_a_row_do_not_grow_the_stack() -> None:
    asked = Asked()
    count = 20_000

    async def work() -> None:
        for _ in range(count):
            asked.wake()
            await asked.signal
            asked.signal = asked.ask()

    assert Run(work()).start().ends == [None]
    assert asked.connection.asked == count + 1
