"""Alerts: each fraction of a budget is told once, whoever asks and however often."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.limits import alerts as module
from llmgw.limits.alerts import Alerts, Watch

DAY_US = 86_400_000_000
USD = 1_000_000


@dataclass
class Gauge:
    key: bytes = b"k" * 16
    window_us: int = DAY_US
    limit: int = 100 * USD
    is_shadow: bool = False
    period_start_us: int = 0
    period_end_us: int = 0


def watch(*fractions, gauge=None, **facts):
    return Watch(gauge or Gauge(), "acme", "tenant:budget:1d", fractions or (0.8,), **facts)


def calendar(start_us=DAY_US, **facts):
    return Gauge(window_us=-1, period_start_us=start_us, period_end_us=start_us + DAY_US, **facts)


def told(alerts, watched, *used_usd):
    """The fractions that were told, for one look after another."""
    return [
        [alert.fraction for alert in alerts.check([(watched, round(used * USD))], 0.0)] for used in used_usd
    ]


def test_a_fraction_is_told_when_it_is_reached_and_not_again():
    assert told(Alerts(), watch(0.8), 0, 79.999999, 80, 80, 99, 100) == [[], [], [0.8], [], [], []]


def test_a_leap_over_several_fractions_tells_each_in_order():
    assert told(Alerts(), watch(1.0, 0.5, 0.8), 10, 85, 100) == [[], [0.5, 0.8], [1.0]]


@pytest.mark.parametrize(
    ("looks", "second"),
    [
        ((80, 79, 76, 80), []),  # not far enough below
        ((80, 75.000001, 80), []),
        ((80, 75, 80), [0.8]),
        ((80, 0, 80), [0.8]),
    ],
)
def test_a_sliding_budget_tells_again_once_use_has_fallen_five_points(looks, second):
    assert told(Alerts(), watch(0.8), *looks)[-1] == second


def test_a_small_fraction_of_a_sliding_budget_is_told_again_after_nothing_was_used():
    assert told(Alerts(), watch(0.03), 3, 1, 3, 0, 3) == [[0.03], [], [], [], [0.03]]


def test_a_calendar_budget_tells_once_in_a_period_and_again_in_the_next():
    alerts, gauge = Alerts(), calendar()
    assert told(alerts, watch(0.8, gauge=gauge), 80, 10, 80) == [[0.8], [], []]
    gauge.period_start_us += DAY_US
    gauge.period_end_us += DAY_US
    assert told(alerts, watch(0.8, gauge=gauge), 10, 80, 80) == [[], [0.8], []]


def test_a_period_that_begins_beyond_a_fraction_tells_it_at_once():
    alerts, gauge = Alerts(), calendar()
    told(alerts, watch(0.8, gauge=gauge), 80)
    gauge.period_start_us += DAY_US
    assert told(alerts, watch(0.8, gauge=gauge), 90, 90) == [[0.8], []]


def test_a_clock_that_was_set_back_tells_nothing_again():
    alerts, gauge = Alerts(), calendar(2 * DAY_US)
    told(alerts, watch(0.8, gauge=gauge), 80)
    gauge.period_start_us = DAY_US
    assert told(alerts, watch(0.8, 0.9, gauge=gauge), 85, 90) == [[], [0.9]]
    gauge.period_start_us = 2 * DAY_US
    assert told(alerts, watch(0.8, 0.9, gauge=gauge), 95) == [[]]


def test_what_a_reload_adds_is_told_and_what_it_keeps_is_not():
    alerts = Alerts()
    assert told(alerts, watch(0.5), 60) == [[0.5]]
    assert told(alerts, watch(0.5, 0.6, gauge=Gauge()), 60) == [[0.6]]


def test_a_higher_limit_of_a_calendar_budget_tells_nothing_again_in_its_period():
    alerts = Alerts()
    assert told(alerts, watch(0.8, gauge=calendar()), 80) == [[0.8]]
    assert told(alerts, watch(0.8, gauge=calendar(limit=1000 * USD)), 80, 900) == [[], []]


def test_budgets_do_not_speak_for_each_other():
    alerts = Alerts()
    one, other = watch(0.8, gauge=Gauge(key=b"1" * 16)), watch(0.8, gauge=Gauge(key=b"2" * 16))
    due = alerts.check([(one, 90 * USD), (other, 10 * USD)], 0.0)
    assert [alert.id[:32] for alert in due] == [one.gauge.key.hex()]
    assert [alert.id[:32] for alert in alerts.check([(one, 90 * USD), (other, 90 * USD)], 0.0)] == [
        other.gauge.key.hex()
    ]


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_budget_of_nearly_nothing_tells_nothing_before_something_is_used(limit):
    assert Alerts().check([(watch(0.1, gauge=Gauge(limit=limit)), 0)], 0.0) == []


def test_all_machines_have_one_word_for_a_fraction_and_learn_when_it_may_be_told_again():
    one, other = Alerts(), Alerts()
    [first] = one.check([(watch(0.8), 85 * USD)], 10.0)
    [second] = other.check([(watch(0.8), 90 * USD)], 12.0)
    assert first.word == second.word and first.id != second.id
    assert first.stays_us == watch(0.8).gauge.window_us
    assert one.take_rearmed() == []
    one.check([(watch(0.8), 50 * USD)], 20.0)
    assert one.take_rearmed() == [first.word] and one.take_rearmed() == []


def test_the_word_of_a_calendar_period_is_its_own_and_stays_as_long():
    gauge = calendar()
    [alert] = Alerts().check([(watch(0.8, gauge=gauge), 85 * USD)], 10.0)
    assert alert.word == alert.id and alert.stays_us == gauge.period_end_us - gauge.period_start_us


def test_a_restart_tells_nothing_again():
    before, gauge = Alerts(), calendar()
    told(before, watch(0.5, 0.8, gauge=gauge), 85)
    after = Alerts(before.memory())
    assert told(after, watch(0.5, 0.8, 0.9, gauge=gauge), 85, 95) == [[], [0.9]]


def test_the_memory_is_to_be_kept_only_when_it_has_changed():
    alerts = Alerts()
    told(alerts, watch(0.8), 10, 20)
    assert not alerts.is_changed
    told(alerts, watch(0.8), 80)
    assert alerts.is_changed
    alerts.memory()
    told(alerts, watch(0.8), 81, 79)
    assert not alerts.is_changed
    told(alerts, watch(0.8), 10)
    assert alerts.is_changed and json.loads(alerts.memory()) == []


@pytest.mark.parametrize(
    "memory",
    [b"", b"{", b"1", b"null", b'["a"]', b'[["zz", 1, []]]', b'[["00", "x", [1]]]', b"[" * 100_000, b"\xff"],
)
def test_a_memory_that_cannot_be_read_counts_as_nothing_told(memory):
    assert told(Alerts(memory), watch(0.8), 80) == [[0.8]]


@given(st.binary(max_size=200))
def test_no_memory_breaks_anything(memory):
    assert told(Alerts(memory), watch(0.8), 80) == [[0.8]]


def test_budgets_that_are_read_no_more_are_forgotten_when_there_are_many(monkeypatch):
    monkeypatch.setattr(module, "KEPT", 10)
    alerts = Alerts()
    watches = [watch(0.8, gauge=Gauge(key=bytes([number] * 16))) for number in range(30)]
    for each in watches[:20]:
        alerts.check([(each, 90 * USD)], 0.0)
    assert len(json.loads(alerts.memory())) <= 10
    assert len(alerts.check([(each, 90 * USD) for each in watches], 0.0)) >= 10
    assert alerts.check([(each, 90 * USD) for each in watches], 0.0) == []  # what is read is not told twice


FRACTIONS = st.sets(st.sampled_from([0.01, 0.05, 0.07, 0.5, 0.55, 0.8, 0.9, 1.0]), min_size=1)
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 120), st.booleans()),  # periods on, used in %, restart
    max_size=40,
)


@given(FRACTIONS, STEPS)
def test_in_a_period_each_fraction_that_was_reached_is_told_exactly_once(fractions, steps):
    alerts, gauge = Alerts(), calendar()
    count: dict[tuple[int, float], int] = {}
    reached = set()
    for periods, used, is_restart in steps:
        gauge.period_start_us += periods * DAY_US
        gauge.period_end_us += periods * DAY_US
        alerts = Alerts(alerts.memory()) if is_restart else alerts
        reached |= {(gauge.period_start_us, at) for at in fractions if used >= round(at * 100)}
        for alert in alerts.check([(watch(*fractions, gauge=gauge), used * USD)], 0.0):
            key = (gauge.period_start_us, alert.fraction)
            count[key] = count.get(key, 0) + 1
    assert count == dict.fromkeys(reached, 1)


@given(FRACTIONS, STEPS)
def test_between_two_alerts_of_a_sliding_budget_use_had_fallen_below(fractions, steps):
    alerts = Alerts()
    lowest: dict[float, int] = {}  # least use since the fraction was told
    for _, used, is_restart in steps:
        alerts = Alerts(alerts.memory()) if is_restart else alerts
        lowest = {at: min(low, used) for at, low in lowest.items()}
        due = {alert.fraction for alert in alerts.check([(watch(*fractions), used * USD)], 0.0)}
        for at in fractions:
            may_tell = at not in lowest or lowest[at] <= max(round(at * 100) - 5, 0)
            assert (at in due) == (may_tell and used >= round(at * 100))
        lowest |= dict.fromkeys(due, used)


def test_the_payload_of_a_calendar_budget_says_everything():
    gauge = calendar(start_us=1_784_073_600_000_000, limit=50 * USD, is_shadow=True)
    [alert] = Alerts().check([(watch(0.8, gauge=gauge), 40_123_456)], 1_784_110_000.25)
    assert alert.payload() == {
        "type": "budget_alert",
        "id": "6b" * 16 + "-0.8-1784073600",
        "ts": "2026-07-15T10:06:40.250Z",
        "tenant": "acme",
        "budget": "tenant:budget:1d",
        "threshold": 0.8,
        "used_usd": 40.123456,
        "limit_usd": 50.0,
        "period_start": "2026-07-15T00:00:00.000Z",
        "period_end": "2026-07-16T00:00:00.000Z",
        "shadow": True,
        "text": "Budget tenant:budget:1d of tenant acme has reached 0.8 of its limit: "
        "$40.123456 of $50.00 used (shadow mode).",
    }


def test_a_small_budget_is_told_to_the_micro_dollar():
    [alert] = Alerts().check([(watch(0.5, gauge=calendar(limit=2)), 1)], 1_784_110_000.25)
    assert alert.text.endswith("$0.000001 of $0.000002 used.")


def test_the_payload_of_a_sliding_budget_has_no_period():
    [alert] = Alerts().check([(watch(0.8), 80 * USD)], 1000.5)
    payload = alert.payload()
    assert payload["period_start"] is payload["period_end"] is None
    assert payload["id"].endswith("-0.8-1000")


def test_two_machines_name_an_alert_of_a_calendar_budget_alike():
    ids = {Alerts().check([(watch(0.8, gauge=calendar()), 80 * USD)], now_s)[0].id for now_s in (1.0, 2.0)}
    assert len(ids) == 1
