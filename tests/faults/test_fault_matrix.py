"""Each fault of the table has the outcome that stands beside it, as both ends see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache

import pytest
from faultends import FarEnds
from faultrig import Matrix, Observed
from faulttable import CASES, FAILURES, IN_60_S, ITS_OWN, OPEN

NAMES = {case.name: case for case in CASES}
CUTS = [name for name, case in NAMES.items() if case.outcome.gets == "cut"]
WHOLE = [name for name in NAMES if name not in CUTS]
ALONE = [name for name, case in NAMES.items() if case.outcome.alone is not None]
IN_A_ROW = [name for name, case in NAMES.items() if case.outcome.again is not None]
CIRCUITS = [name for name, case in NAMES.items() if case.outcome.circuit is not None]
OPENED = [name for name, case in NAMES.items() if case.outcome.circuit == OPEN]


@pytest.fixture(scope="module")
def run_all(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Observed]]:
    """All cases, run once for each number."""

    @cache
    def run(_number: int) -> dict[str, Observed]:
        ends = FarEnds()
        with ExitStack() as stack:
            stack.callback(ends.close)
            matrix = Matrix(tmp_path_factory.mktemp("matrix"), ends, stack)
            stack.callback(matrix.gateway.kill)
            matrix.gateway.start()
            return asyncio.run(matrix.run())

    return run


@pytest.fixture
def observed(
    run_all: Callable[[int], dict[str, Observed]], request: pytest.FixtureRequest
) -> dict[str, Observed]:
    """A test that is tried again sees another run."""
    return run_all(getattr(request.node, "execution_count", 1))


@pytest.mark.parametrize("name", WHOLE)
def test_the_client_gets_one_clean_answer(observed: dict[str, Observed], name: str) -> None:
    """Byte for byte what the one who gave it says when it is asked alone."""
    outcome, answer = NAMES[name].outcome, observed[name].pair.answer
    assert answer.status == outcome.status, answer.body[:300]
    assert answer.is_whole
    assert answer.body == observed[name].due
    if outcome.code is not None:
        assert answer.error["code"] == outcome.code


@pytest.mark.parametrize("name", CUTS)
def test_a_broken_answer_is_a_part_of_one_and_shows_it(observed: dict[str, Observed], name: str) -> None:
    """The upstream's bytes up to a point, then one error event where it is a stream; no [DONE]."""
    outcome, seen = NAMES[name].outcome, observed[name]
    answer = seen.pair.answer
    assert answer.status == 200 and not answer.is_whole
    assert b"[DONE]" not in answer.body
    got = answer.body
    if outcome.code is not None:
        got, code = without_error(got)
        assert code == (outcome.code if outcome.code != ITS_OWN else None)
    assert got and seen.due.startswith(got) and len(got) < len(seen.due)


def without_error(body: bytes) -> tuple[bytes, str | None]:
    """A stream without the error event that it ends with, and that event's code."""
    before, mark, last = body.rpartition(b"data: ")
    error = json.loads(last)["error"]
    assert set(error) == {"message", "type", "param", "code"} and mark
    return before, error["code"]


@pytest.mark.parametrize("name", NAMES)
def test_each_is_asked_as_often_as_it_may(observed: dict[str, Observed], name: str) -> None:
    """At their own ends."""
    outcome, pair = NAMES[name].outcome, observed[name].pair
    assert (pair.at_first, pair.second) == (outcome.first, outcome.second)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_waits_longer_than_said(observed: dict[str, Observed], name: str) -> None:
    for one in observed[name].exchanges:
        assert one.took_s < NAMES[name].outcome.within_s


@pytest.mark.parametrize("name", IN_A_ROW)
def test_the_next_requests_go_where_they_should(observed: dict[str, Observed], name: str) -> None:
    outcome, row = NAMES[name].outcome, observed[name].row
    assert [one.at_first for one in row] == [int(outcome.again or 0)] * len(row)
    assert [one.second for one in row] == [int(outcome.gets == "second")] * len(row)
    assert {one.answer.status for one in row} == {outcome.status}


@pytest.mark.parametrize("name", CIRCUITS)
def test_the_circuit_is_as_it_should_be(observed: dict[str, Observed], name: str) -> None:
    """Behind so many of these, as the metric shows it."""
    assert observed[name].circuit == NAMES[name].outcome.circuit


@pytest.mark.parametrize("name", OPENED)
def test_an_open_circuit_is_left_alone(observed: dict[str, Observed], name: str) -> None:
    seen = observed[name]
    assert len(seen.row) + 1 == FAILURES
    assert seen.after is not None
    assert (seen.after.at_first, seen.after.second) == (0, 1)
    assert (seen.after.answer.status, seen.after.answer.is_whole) == (200, True)


@pytest.mark.parametrize("name", NAMES)
def test_the_client_is_charged_once_for_what_it_got(observed: dict[str, Observed], name: str) -> None:
    outcome, pair = NAMES[name].outcome, observed[name].pair
    by = "second" if outcome.gets == "second" else "first"
    paid = [(record["provider_used"], record["usage_source"]) for record in pair.paid]
    assert paid == ([(f"{by}-{name}", outcome.charged)] if outcome.charged else [])
    assert len(pair.charged) <= 1
    assert len(pair.records) == pair.at_first + pair.second


@pytest.mark.parametrize("name", ALONE)
def test_without_another_target_the_error_says_so(observed: dict[str, Observed], name: str) -> None:
    outcome, alone = NAMES[name].outcome, observed[name].alone
    assert alone is not None and outcome.alone is not None
    answer = alone.answer
    assert answer.is_whole
    assert (answer.status, answer.error["code"]) == outcome.alone, answer.body
    assert answer.error["type"] == "api_error"
    assert answer.header("x-should-retry") == str(outcome.alone_retry).lower()
    after_s = int(answer.header("retry-after") or 0)
    due_s = outcome.alone_after_s
    if NAMES[name].row.fault.get("retry_after") == IN_60_S:
        due_s -= round(alone.age_s)
    assert max(due_s - 2, bool(due_s)) <= after_s <= due_s * 1.1 + bool(due_s)


@pytest.mark.parametrize("name", ALONE)
def test_alone_it_is_asked_again_only_where_that_may_help(observed: dict[str, Observed], name: str) -> None:
    outcome, alone = NAMES[name].outcome, observed[name].alone
    assert alone is not None
    if outcome.alone_first is not None:
        assert alone.at_first == outcome.alone_first


@pytest.mark.parametrize("name", ALONE)
def test_for_an_error_the_client_pays_at_most_its_prompt_once(
    observed: dict[str, Observed], name: str
) -> None:
    outcome, alone = NAMES[name].outcome, observed[name].alone
    assert alone is not None
    sources = [record["usage_source"] for record in alone.paid]
    if outcome.alone_charged is None:
        assert sources in ([], ["estimated"])
    else:
        assert sources == ([outcome.alone_charged] if outcome.alone_charged else [])
    assert all(record["output_tokens"] == 0 for record in alone.records)
    assert len(alone.charged) <= 1
    assert len(alone.records) == alone.at_first
