"""The first good answer of two ends the race; whatever ends it, no attempt goes on and no answer is kept open."""

import asyncio
from types import SimpleNamespace

import pytest

from llmgw._wire.serving import Serving
from llmgw.errors import UpstreamBroken
from llmgw.hedging import Race


class Runner:
    """An attempt whose end the test says; `ended` is what it saw."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.outcome = "cancelled"
        self.answer: asyncio.Future = asyncio.get_running_loop().create_future()
        self.ended = ""

    async def run(self):
        try:
            reply = await self.answer
        except BaseException as failure:
            self.ended = type(failure).__name__
            raise
        self.ended = "answered"
        self.outcome = "ok"
        return reply


class Reply:
    def __init__(self, status: int = 200) -> None:
        self.released: list[object] = []
        self.upstream = SimpleNamespace(release=self.released.append)
        self.connection = SimpleNamespace(status=status)


class Caller:
    """A request that runs the race as the gateway does: without a Task."""

    def __init__(self, race: Race) -> None:
        self.race = race
        self.reply = self.failure = None
        self.serving = Serving(self.run(), self.on_done)
        self.serving.start()

    async def run(self) -> None:
        self.reply = await self.race.run()

    def on_done(self, failure: BaseException | None) -> None:
        self.failure = failure


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def first() -> Runner:
    return Runner("first")


@pytest.fixture
async def second() -> Runner:
    return Runner("second")


@pytest.fixture
async def race(first) -> Race:
    return Race(Runner.run, first)


async def test_alone_it_is_as_if_there_were_no_race(race, first):
    caller, reply = Caller(race), Reply()
    first.answer.set_result(reply)
    await turn()
    assert (caller.reply, caller.failure, race.winner, race.second) == (reply, None, first, None)


async def test_alone_its_failure_is_the_races(race, first):
    caller = Caller(race)
    first.answer.set_exception(UpstreamBroken("gone"))
    await turn()
    assert isinstance(caller.failure, UpstreamBroken)


@pytest.mark.parametrize("winner", ["first", "second"])
async def test_the_loser_is_ended_before_the_caller_goes_on(race, first, second, winner):
    caller, reply = Caller(race), Reply()
    race.start(second)
    won, lost = (first, second) if winner == "first" else (second, first)
    won.answer.set_result(reply)
    await turn()
    assert (won.ended, lost.ended) == ("answered", "CancelledError")
    assert (caller.reply, race.winner, race.running) == (reply, won, {})


@pytest.mark.parametrize("order", ["first", "second"])
async def test_both_must_fail_and_the_later_one_says_why(race, first, second, order):
    caller = Caller(race)
    race.start(second)
    early, late = (first, second) if order == "first" else (second, first)
    early.answer.set_exception(UpstreamBroken("early"))
    await turn()
    assert not caller.serving.is_done
    late.answer.set_exception(UpstreamBroken("late"))
    await turn()
    assert caller.failure.message == "late"


@pytest.mark.parametrize("late", ["good", "broken", "wrong"])
async def test_an_answer_that_blames_the_request_waits_for_a_better_one(race, first, second, late):
    caller, wrong, later = Caller(race), Reply(404), Reply(200 if late == "good" else 400)
    race.start(second)
    second.answer.set_result(wrong)
    await turn()
    assert not caller.serving.is_done
    if late == "broken":
        first.answer.set_exception(UpstreamBroken("late"))
    else:
        first.answer.set_result(later)
    await turn()
    kept, winner = (wrong, second) if late == "broken" else (later, first)
    assert (caller.reply, race.winner) == (kept, winner)
    assert wrong.released == ([] if late == "broken" else [wrong.connection])


async def test_a_caller_that_leaves_closes_an_answer_that_waits(race, first, second):
    caller, wrong = Caller(race), Reply(404)
    race.start(second)
    second.answer.set_result(wrong)
    await turn()
    caller.serving.cancel()
    await turn()
    assert wrong.released == [wrong.connection] and first.ended == "CancelledError"


async def test_a_bug_ends_both(race, first, second):
    caller = Caller(race)
    race.start(second)
    second.answer.set_exception(ZeroDivisionError())
    await turn()
    assert first.ended == "CancelledError"
    assert isinstance(caller.failure, ZeroDivisionError)


async def test_a_caller_that_leaves_ends_both(race, first, second):
    caller = Caller(race)
    race.start(second)
    caller.serving.cancel()
    await turn()
    assert (first.ended, second.ended) == ("CancelledError", "CancelledError")
    assert isinstance(caller.failure, asyncio.CancelledError)
    assert race.winner is None


async def test_an_answer_that_comes_as_the_caller_leaves_is_closed(race, first, second):
    caller, reply = Caller(race), Reply()
    race.start(second)
    second.answer.set_result(reply)
    while not race.is_over:
        await asyncio.sleep(0)
    assert not caller.serving.is_done  # the news is on its way to it
    caller.serving.cancel()
    await turn()
    assert reply.released == [reply.connection]
    assert (race.winner, second.outcome) == (None, "cancelled")


async def test_what_was_cancelled_from_elsewhere_is_no_wait_for_ever(race, first):
    caller = Caller(race)
    first.answer.cancel()
    await turn()
    assert isinstance(caller.failure, asyncio.CancelledError)
