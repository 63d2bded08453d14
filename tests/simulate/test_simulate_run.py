"""What comes of a scenario."""

from __future__ import annotations

import pytest
from simkit import by_hand, by_mix, config, request, stream

from llmgw.simulate.report import document
from llmgw.simulate.run import play, simulate
from llmgw.simulate.wire import Outage

BUSY = 'limits: {rpm: 300, tpm: 60000, concurrent: 12}\n    budgets: [{amount: "0.50", period: 1m}]'
FLEET = "limits: {rps: 8, tps: 1500, concurrent: 25}"
STREAMS = [
    stream(
        rate="12", prompt_tokens={"median": "60", "p99": "600"}, output_tokens={"median": "40", "p99": "300"},
        cancel="0.05", users="5",
    ),
    stream(key="acme/nightly", rate="3", arrivals="bursts", every="5s", max_tokens="100"),
    stream(key="globex/app", rate="2", arrivals="constant", max_wait="1s"),
]  # fmt: skip


def over_admission(outcome) -> float:
    return document(outcome)["fleet"]["over_admission"]


def test_a_request_beyond_the_limit_is_refused_until_the_first_has_left() -> None:
    requests = [request(at_s) for at_s in (0, 1, 2, 3, 61.5)]
    found = document(play(by_hand(config("limits: {rpm: 3}"), requests, 70)))
    assert found["total"] | {"offered": 5, "admitted": 4, "refused": 1} == found["total"]
    assert found["total"]["refused_by"] == {"tenant:rpm": 1}
    assert found["total"]["codes"] == {"rate_limit_exceeded": 1}


def test_what_was_used_is_paid_for_and_leaves_less_of_the_budget() -> None:
    limits = 'budgets: [{amount: "0.000110", period: 1h}]'
    found = document(play(by_hand(config(limits), [request(at_s) for at_s in range(0, 20, 2)], 30)))
    cost_usd_micro, estimate_usd_micro = 10 * 1 + 5 * 4, 28 * 1 + 5 * 4
    assert 2 * cost_usd_micro + estimate_usd_micro <= 110 < 3 * cost_usd_micro + estimate_usd_micro
    assert found["total"]["admitted"] == 3
    assert found["total"]["cost_usd"] == f"0.{3 * cost_usd_micro:06}"
    assert found["limits"][0]["left_usd"] == "0.000020"
    assert found["total"]["codes"] == {"insufficient_quota": 7}


def test_who_may_wait_is_queued_until_there_is_room() -> None:
    requests = [request(0, duration_us=4_000_000), request(1, max_wait=b"10s"), request(1, max_wait=b"2s")]
    found = document(play(by_hand(config("limits: {concurrent: 1}"), requests, 10)))["total"]
    assert (found["admitted"], found["queued"], found["codes"]) == (2, 2, {"queue_timeout": 1})
    assert 2000 <= found["wait_p50_ms"] <= 3001 and found["wait_p99_ms"] == pytest.approx(3000, abs=1)


def test_a_caller_that_leaves_while_it_waits_is_neither_admitted_nor_refused() -> None:
    requests = [request(0, duration_us=4_000_000), request(1, max_wait=b"10s", leaves_us=500_000)]
    found = document(play(by_hand(config("limits: {concurrent: 1}"), requests, 10)))["total"]
    assert (found["offered"], found["admitted"], found["refused"], found["left"]) == (2, 1, 0, 1)


def test_an_answer_that_its_caller_cuts_off_is_paid_up_to_there() -> None:
    found = document(
        play(by_hand(config(), [request(0, output_tokens=100, max_tokens=100, leaves_us=250_000)], 5))
    )
    assert found["total"]["output_tokens"] == 25


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"key": "gone"}, "invalid_api_key"),
        ({"tenant": "nobody"}, "invalid_api_key"),
        ({"model": "x-1"}, "model_not_found"),
    ],
)
def test_what_the_configuration_does_not_know_is_refused_by_the_gateways_own_word(
    given: dict, code: str
) -> None:
    found = document(play(by_hand(config(), [request(0, **given)], 1)))
    assert found["total"]["codes"] == {code: 1}


def test_a_shadow_limit_refuses_nothing_and_tells_what_it_would_have() -> None:
    limits = "limits: {rpm: {limit: 2, mode: shadow}}"
    found = document(play(by_hand(config(limits), [request(at_s) for at_s in range(5)], 6)))
    assert found["total"]["admitted"] == 5
    assert found["limits"][0]["would_have_refused"] == 3


def test_one_machine_without_redis_never_over_admits() -> None:
    outcome = play(by_mix(config(BUSY), STREAMS, 100, seed=3))
    assert outcome.tally.total().refused.total() > 100
    assert over_admission(outcome) <= 0


def test_one_machine_without_redis_is_the_central_limiter() -> None:
    alone = play(by_mix(config(BUSY), STREAMS, 60, seed=4))
    central = play(by_mix(config(BUSY, redis=True), STREAMS, 60, seed=4).central())
    assert document(alone) == document(central)


def test_machines_that_do_not_share_over_admit_and_it_shows() -> None:
    outcome = play(by_mix(config("limits: {rpm: 60}"), [stream(rate="20")], 30, machines=5))
    assert over_admission(outcome) > 2


@pytest.mark.parametrize("seed", [5, 6])
@pytest.mark.parametrize("trouble", [{}, {"rtt_s": 0.03}], ids=["near", "far"])
def test_a_fleet_of_20_never_over_admits(trouble: dict, seed: int) -> None:
    outcome = play(by_mix(config(FLEET, redis=True), STREAMS, 12, seed=seed, machines=20, **trouble))
    assert outcome.tally.total().refused.total() > 20
    assert over_admission(outcome) <= 0


@pytest.mark.parametrize("seed", [5, 6])
def test_in_an_outage_a_fleet_of_20_exceeds_no_limit_but_by_what_was_taken_since_it_looked(seed: int) -> None:
    """In windows of a second, so that the outage goes through all that is done about it."""
    outcome = play(
        by_mix(config(FLEET, redis=True), STREAMS, 12, seed=seed, machines=20, outages=(Outage(4, 4),))
    )
    assert outcome.fleet.outages >= 20
    assert over_admission(outcome) <= 0.05


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_what_single_machines_lose_of_redis_exceeds_a_limit_by_less_than_their_parts(seed: int) -> None:
    """One that is cut off alone goes on with its part of what was left, which the others may take meanwhile."""
    outcome = play(
        by_mix(
            config("limits: {rps: 40}", redis=True),
            [stream(rate="60")],
            10,
            seed=seed,
            machines=20,
            redis_loss=0.01,
        )
    )
    assert outcome.fleet.outages > 5
    assert over_admission(outcome) <= 0.1


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("length_s", "most"), [(0.5, 0.025), (4, 0.25)], ids=["a-moment", "long"])
def test_one_machine_cut_off_alone_exceeds_nothing_for_a_moment_and_later_by_its_share(
    length_s: float, most: float, seed: int
) -> None:
    """Of 40 in a second, 0.025 is one request."""
    outcome = play(
        by_mix(
            config("limits: {rps: 40}", redis=True),
            [stream(rate="80")],
            12,
            seed=seed,
            machines=4,
            outages=(Outage(4, length_s, machines=1),),
        )
    )
    assert outcome.fleet.outages == 1
    assert over_admission(outcome) <= most


def test_a_fleet_of_20_never_over_admits_in_a_minute_either() -> None:
    limits = 'limits: {rpm: 200, tpm: 60000}\n    budgets: [{amount: "0.10", period: 1m}]'
    outcome = play(
        by_mix(config(limits, redis=True), STREAMS, 65, seed=5, machines=20, outages=(Outage(30, 4),))
    )
    assert outcome.tally.total().refused.total() > 20
    assert over_admission(outcome) <= 0


def test_a_fleet_admits_most_of_what_a_central_limiter_does_and_tells_how_often_it_asks() -> None:
    fleet = document(
        simulate(by_mix(config("limits: {rpm: 600}", redis=True), [stream(rate="20")], 90, machines=5))
    )["fleet"]
    assert 0 <= fleet["under_admission"] < 0.1
    assert 0 < fleet["stranded_max"] < 0.2
    assert fleet["redis_commands"] > 5 * 90  # each beats once a second
    assert fleet["redis_commands_per_request"] == pytest.approx(fleet["redis_commands"] / 1800, rel=0.1)


def test_another_seed_is_another_run() -> None:
    one, other = (document(play(by_mix(config(), STREAMS, 20, seed=seed))) for seed in (1, 2))
    assert one["keys"] != other["keys"]


def test_one_machine_has_nobody_to_share_with_and_asks_no_redis() -> None:
    alone, central = config(), config(redis=True)
    found = [document(simulate(by_mix(one, STREAMS[:1], 5))) for one in (alone, central)]
    assert found[0] == found[1] and "redis_commands" not in found[1]["fleet"]


def test_a_stream_is_the_same_whichever_others_there_are() -> None:
    scenarios = [by_mix(config(), streams, 20, seed=2) for streams in (STREAMS[:1], STREAMS)]
    one, all_of_them = (
        [(each.at_us, each.prompt_tokens, each.draw) for each in scenario.traffic() if each.key == "web"]
        for scenario in scenarios
    )
    assert one == all_of_them and len(one) > 100
