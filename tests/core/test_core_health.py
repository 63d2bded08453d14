"""What is known of a target beside its breaker: keys, pace, time to first token, what is in flight; and the traffic."""

from __future__ import annotations

import json
import math

import pytest

from llmgw._core.health import (
    FAILED,
    GO,
    IGNORED,
    IS_COOLING,
    IS_OPEN,
    IS_PACED,
    KEYS_MAX,
    OK,
    PROBE,
    Board,
    Health,
    Policy,
    Traffic,
)
from llmgw._core.segment import Segment

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
START_US = 1_000 * SECOND_US
KEY = b"target of a test"
MOST, LEAST = 2**63 - 1, -(2**63)


@pytest.fixture
def health():
    return Board().health(KEY, Policy())


def a_health(keys=1, **policy):
    return Board().health(KEY, Policy(**policy), keys)


# -- rows


@pytest.mark.parametrize("key", [b"", bytes(16), b"k" * 15, b"k" * 17])
def test_a_key_is_16_bytes(key):
    for make in (lambda: Board().health(key, Policy()), lambda: Board().traffic(key)):
        with pytest.raises(ValueError, match="key"):
            make()


@pytest.mark.parametrize("keys", [0, -1, KEYS_MAX + 1])
def test_a_target_has_1_to_32_keys(keys):
    with pytest.raises(ValueError, match="keys"):
        a_health(keys)


@pytest.mark.parametrize("made", [Health, Traffic])
def test_only_a_board_makes_them(made):
    with pytest.raises(TypeError, match="Board"):
        made()


def test_the_same_key_is_the_same_target_and_another_is_another():
    board = Board()
    one, same, other = (board.health(key, Policy()) for key in (KEY, KEY, KEY[::-1]))
    assert one.begin(START_US)
    assert (one.inflight, same.inflight, other.inflight) == (1, 1, 0)


@pytest.mark.parametrize("number", [1, 1 << 64, (1 << 64) + 1, (1 << 128) - 1])
def test_any_bytes_are_a_key(number):
    board = Board(rows=3)
    found = [board.health(key, Policy()) for key in (number.to_bytes(16, "little"), b"a" * 16, b"d" * 16)]
    assert found[0].begin(1) and [one.inflight for one in found] == [1, 0, 0]


def test_where_the_table_is_full_a_target_is_the_processs_own():
    board = Board(rows=2)
    found = [board.health(bytes([number] * 16), Policy()) for number in (1, 2, 3, 4)]
    assert [one.is_shared for one in found] == [True, True, False, False]
    assert all(one.begin(START_US) for one in found[1:])
    assert [one.inflight for one in found] == [0, 1, 1, 1]
    traffic = [board.traffic(bytes([number] * 16)) for number in (1, 2, 3)]
    traffic[2].offered(START_US)
    assert [one.take_retry(START_US, 1, 0) for one in traffic] == [False, False, True]


def test_a_board_is_made_once_and_for_a_slot_that_there_is(segment):
    with pytest.raises(ValueError, match="once"):
        Board(segment).__init__(segment)
    for wrong in ({"slot": 256}, {"rows": 0}):
        with pytest.raises(ValueError, match="slots"):
            Board(None, **wrong)
    for slot in (-1, 256):
        with pytest.raises(IndexError):
            Board().release(slot)


def test_it_outlives_the_board_and_the_segment_that_it_was_made_of(path):
    segment = Segment(path, 1)
    Board(segment).prepare()
    health = Board(segment, 0).health(KEY, Policy())
    del segment
    assert health.begin(START_US) and health.inflight == 1


def test_the_clock_is_that_of_the_monotonic_seconds(spin):
    import time

    board = Board()
    before_us, now_us, after_us = time.monotonic_ns() // 1000, board.now_us(), time.monotonic_ns() // 1000 + 1
    assert before_us <= now_us <= after_us


# -- in flight


def test_what_begins_is_in_flight_until_it_ends(health):
    assert health.begin(1) and health.begin(2)
    for outcome, left in ((OK, 1), (IGNORED, 0), (FAILED, 0)):
        health.end(outcome, 3)
        assert health.inflight == left, "never below 0"


def test_what_a_dead_worker_had_in_flight_is_taken_off(segment):
    supervisor = Board(segment)
    supervisor.prepare()
    one, other = (Board(segment, slot).health(KEY, Policy()) for slot in (0, 1))
    for health in (one, one, other):
        assert health.begin(START_US)
    seen = supervisor.health(KEY, Policy())
    assert seen.inflight == 3
    supervisor.release(0)
    assert seen.inflight == 1
    one.end(OK, START_US)
    assert seen.inflight == 1, "a worker takes off nothing but its own"
    supervisor.release(0)
    other.end(OK, START_US)
    assert seen.inflight == 0


def test_a_new_start_knows_nothing(segment):
    board = Board(segment, 0)
    board.prepare()
    health = board.health(KEY, Policy(failures=1))
    assert health.begin(START_US)
    health.end(FAILED, START_US)
    health.pause(-1, board.now_us() + MINUTE_US)
    board.prepare()
    assert board.health(KEY, Policy()).verdict(START_US) == GO


# -- keys


def test_a_key_that_rests_is_passed_over_in_turn():
    health = a_health(3)
    health.pause(1, START_US + 10)
    assert [health.maybe_key(first, START_US) for first in (0, 1, 2, 3, 4, 5)] == [0, 2, 2, 0, 2, 2]
    assert [health.maybe_key(first, START_US + 10) for first in (0, 1, 2)] == [0, 1, 2]
    assert health.verdict(START_US) == GO


def test_a_target_is_cooling_while_all_of_its_keys_rest():
    health = a_health(2)
    health.pause(0, START_US + 30)
    health.pause(1, START_US + 20)
    assert health.maybe_key(0, START_US) == -1
    assert health.verdict(START_US) == IS_COOLING and health.wait_us(START_US) == 20
    assert not health.begin(START_US + 19) and health.inflight == 0
    assert health.verdict(START_US + 20) == GO and health.begin(START_US + 20)
    assert health.maybe_key(0, START_US + 20) == 1


def test_a_pause_is_never_made_shorter_and_may_be_of_all():
    health = a_health(2)
    health.pause(0, START_US + 30)
    health.pause(-1, START_US + 20)
    assert health.snapshot(START_US)["paused_ms"] == [0.03, 0.02]


@pytest.mark.parametrize("key", [-2, 2, 31, 32, 1_000, -(2**31), 2**31 - 1])
def test_a_key_that_there_is_not_cannot_rest(key):
    health = a_health(2)
    health.pause(key, START_US + 30)
    health.told(key, 0, START_US + 30, 0, START_US + 30, START_US)
    assert health.snapshot(START_US)["paused_ms"] == [0, 0]
    assert health.maybe_key(key, START_US) in (0, 1)


def test_no_pause_of_a_shared_target_is_longer_than_10_minutes(segment):
    board = Board(segment, 0)
    board.prepare()
    health = board.health(KEY, Policy())
    health.pause(0, MOST)
    now_us = board.now_us()
    assert 9 * MINUTE_US < health.wait_us(now_us) <= 10 * MINUTE_US


def test_a_probe_is_not_spent_on_a_target_that_cools():
    health = a_health(failures=1)
    assert health.begin(START_US)
    health.end(FAILED, START_US)
    due_us = START_US + 5 * SECOND_US
    health.pause(0, due_us + 7)
    assert health.verdict(START_US) == IS_OPEN and health.verdict(due_us) == IS_COOLING
    assert health.wait_us(START_US) == 5 * SECOND_US + 7
    assert not health.begin(due_us)
    assert health.verdict(due_us + 7) == PROBE and health.begin(due_us + 7)


# -- what a provider says of its limits


@pytest.mark.parametrize(
    ("told", "rests_us"),
    [
        ((0, START_US + 500, -1, -1), 500),
        ((-1, -1, 0, START_US + 500), 500),
        ((0, START_US + 100, 0, START_US + 500), 500),
        ((0, START_US + 500, 0, START_US + 100), 500),
        ((0, START_US + 500, 9, START_US + 9_000), 500),
        ((0, -1, 5, -1), SECOND_US),
        ((5, -1, 0, -1), SECOND_US),
        ((1, START_US + 500, 1, START_US + 500), 0),
        ((-1, START_US + 500, -5, START_US + 500), 0),
        ((0, START_US, 0, START_US - 1), 0),
        ((0, MOST, 0, MOST), 10 * MINUTE_US),
        ((0, 0, 0, 0), 0),
        ((MOST, MOST, MOST, MOST), 0),
        ((LEAST, LEAST, LEAST, LEAST), 0),
    ],
)
def test_where_nothing_remains_the_key_rests_until_the_reset(told, rests_us):
    health = a_health(2)
    health.told(1, *told, START_US)
    assert health.snapshot(START_US)["paused_ms"] == [0, rests_us / 1000]


def test_answers_out_of_order_never_end_a_rest():
    health = a_health()
    health.told(0, 0, START_US + 900, -1, -1, START_US)
    health.told(0, 5, START_US + 900, -1, -1, START_US + 1)
    health.told(0, 0, START_US + 300, -1, -1, START_US + 2)
    assert health.wait_us(START_US + 2) == 898


def test_without_pacing_neither_its_figures_nor_its_429s_count():
    health = a_health(is_paced=False)
    health.told(0, 0, START_US + 900, 0, START_US + 900, START_US)
    for _ in range(50):
        health.throttled(START_US)
    assert health.verdict(START_US) == GO and health.pace_per_s == 0
    assert all(health.begin(START_US) for _ in range(100))


# -- pace


def send(health, per_s, seconds, now_us):
    """Evenly, as far as it lets: (how many went out, the moment after)."""
    went = 0
    for number in range(int(per_s * seconds)):
        went += health.begin(now_us + round(number * SECOND_US / per_s))
    return went, now_us + round(seconds * SECOND_US)


def test_a_429_cuts_the_pace_to_seven_tenths_of_what_was_sent_lately(health):
    _, now_us = send(health, 100, 3, START_US)
    assert health.pace_per_s == 0
    health.throttled(now_us)
    assert health.pace_per_s == pytest.approx(70, rel=0.02)


def test_another_429_of_the_same_second_tells_nothing_new(health):
    _, now_us = send(health, 100, 3, START_US)
    for later_us in (0, 1, SECOND_US - 1):
        health.throttled(now_us + later_us)
    assert health.snapshot(now_us)["pace_per_s"] == pytest.approx(70, rel=0.02)
    send(health, 100, 1, now_us)
    health.throttled(now_us + SECOND_US)
    assert health.snapshot(now_us + SECOND_US)["pace_per_s"] == pytest.approx(49, rel=0.05)
    assert health.snapshot(now_us)["throttles"] == 4


def test_the_pace_has_a_floor(health):
    _, now_us = send(health, 10, 2, START_US)
    for _ in range(20):
        health.begin(now_us)
        health.throttled(now_us)
        now_us += SECOND_US
    assert health.pace_per_s == 0.5


def test_of_a_few_requests_no_pace_begins(health):
    _, now_us = send(health, 4, 3, START_US)
    health.throttled(now_us)
    assert health.pace_per_s == 0 and health.verdict(now_us) == GO
    assert all(health.begin(now_us) for _ in range(20))


def test_it_lets_through_what_the_pace_allows_and_says_exactly_when(health):
    _, now_us = send(health, 10, 3, START_US)
    health.throttled(now_us)
    cut_per_s = health.snapshot(now_us)["pace_per_s"]
    first_us = math.ceil(SECOND_US / cut_per_s)
    assert health.verdict(now_us) == IS_PACED and health.wait_us(now_us) == pytest.approx(first_us, abs=1)
    last_us = now_us + health.wait_us(now_us) - 1
    assert health.verdict(last_us) == IS_PACED and health.wait_us(last_us) == 1 and not health.begin(last_us)
    assert health.verdict(last_us + 1) == GO and health.wait_us(last_us + 1) == 0
    assert health.begin(last_us + 1)
    assert not health.begin(last_us + 1)
    wait_us = health.wait_us(last_us + 1)
    pace_per_s = health.pace_per_s
    assert pace_per_s > cut_per_s and wait_us == pytest.approx(SECOND_US / pace_per_s, abs=1)
    assert not health.begin(last_us + wait_us) and health.begin(last_us + 1 + wait_us)


def test_it_comes_back_slowly_to_where_it_was_and_ever_faster_beyond(health):
    _, now_us = send(health, 100, 3, START_US)
    health.throttled(now_us)
    paces = []
    for _ in range(50):
        went, now_us = send(health, 1000, 1, now_us)
        paces.append(health.snapshot(now_us)["pace_per_s"])
        assert went == pytest.approx(paces[-1], rel=0.15), "as many go as the pace says"
    steps = [after - before for before, after in zip(paces, paces[1:])]
    assert all(after > before for before, after in zip(steps, steps[1:]))
    assert steps[0] == pytest.approx(0.03 * 70, rel=0.1)
    assert 95 < paces[12] < 115, "where it was in some 13 s"
    assert paces[-1] == pytest.approx(10 * paces[0], rel=0.15)


def test_a_rest_that_was_too_short_cuts_nothing_further(health):
    """A provider that says 429 for ten seconds, and for one second each time."""
    _, now_us = send(health, 40, 3, START_US)
    for _ in range(10):
        health.throttled(now_us)
        health.pause(0, now_us + SECOND_US)
        went, _ = send(health, 40, 1, now_us)
        assert went == 0
        now_us += SECOND_US
        sent, now_us = send(health, 40, 0.05, now_us)
    assert health.snapshot(now_us)["pace_per_s"] > 0.7 * 40 * 0.95


def test_too_many_behind_a_rest_cut_it_again(health):
    _, now_us = send(health, 40, 3, START_US)
    health.throttled(now_us)
    health.pause(0, now_us + SECOND_US)
    before_per_s = health.snapshot(now_us)["pace_per_s"]
    _, now_us = send(health, 40, 0.8, now_us + SECOND_US)
    health.throttled(now_us)
    assert health.snapshot(now_us)["pace_per_s"] == pytest.approx(0.7 * before_per_s, rel=0.1)


def test_against_a_provider_with_a_limit_it_finds_it_and_429s_become_rare(health):
    limit, now_us, refused, went = 50, START_US, [], []
    for _ in range(90):
        sent = 0
        for number in range(300):
            at_us = now_us + number * SECOND_US // 300
            if health.begin(at_us):
                sent += 1
                if sent > limit:
                    health.throttled(at_us)
        went.append(min(sent, limit))
        refused.append(max(sent - limit, 0))
        now_us += SECOND_US
    assert sum(refused[30:]) / sum(went[30:]) < 0.02, "hardly any is refused"
    assert sum(went[30:]) / (60 * limit) > 0.75, "and the limit is used"


def test_a_pace_is_forgotten_when_less_than_half_of_it_is_asked_for_for_30_s(health):
    _, now_us = send(health, 100, 3, START_US)
    health.throttled(now_us)
    _, now_us = send(health, 10, 29, now_us)
    assert health.pace_per_s > 70
    _, now_us = send(health, 10, 2, now_us)
    assert health.pace_per_s == 0 and health.verdict(now_us) == GO
    went, _ = send(health, 500, 1, now_us)
    assert went == 500


def test_a_pace_that_is_needed_stays(health):
    _, now_us = send(health, 100, 3, START_US)
    health.throttled(now_us)
    _, now_us = send(health, 1_000, 40, now_us)
    assert 350 < health.pace_per_s < 550


def test_an_idle_target_starts_without_a_pace(health):
    _, now_us = send(health, 10, 2, START_US)
    health.throttled(now_us)
    assert health.verdict(now_us) == IS_PACED
    assert health.verdict(now_us + 30 * SECOND_US) == GO
    assert all(health.begin(now_us + 30 * SECOND_US) for _ in range(20))


# -- time to first token


def told_every(health, latency_us, every_us, count, now_us):
    for _ in range(count):
        health.begin(now_us)
        health.first_byte(latency_us, now_us)
        health.end(OK, now_us, latency_us)
        now_us += every_us
    return now_us


def test_nothing_is_known_before_the_first_sample(health):
    assert health.ewma_us == 0 and health.quantile_us(0.5) == 0


def test_the_first_samples_weigh_the_same(health):
    for latency_us in (100, 200, 300, 400):
        health.first_byte(latency_us, START_US)
    assert health.ewma_us == pytest.approx(250)


def test_the_average_follows_a_change_within_some_10_s(health):
    now_us = told_every(health, 100_000, 100_000, 600, START_US)
    assert health.ewma_us == pytest.approx(100_000, rel=0.01)
    now_us = told_every(health, 500_000, 100_000, 100, now_us)
    assert 300_000 < health.ewma_us < 400_000, "63 % of the way in one time constant"
    told_every(health, 500_000, 100_000, 500, now_us)
    assert health.ewma_us == pytest.approx(500_000, rel=0.01)


def test_a_stream_that_had_its_first_token_does_not_keep_it_from_fading(health):
    health.begin(START_US)
    health.first_byte(800_000, START_US + 800_000)
    later_us = START_US + 800_000 + 10 * SECOND_US
    assert health.inflight == 1
    assert health.snapshot(later_us)["ewma_ms"] == pytest.approx(800 / 2.718, rel=0.01)


def test_without_samples_it_fades_and_with_an_attempt_in_flight_it_does_not(health):
    now_us = told_every(health, 800_000, SECOND_US, 10, START_US) - SECOND_US
    before_us = health.ewma_us
    assert health.snapshot(now_us + 10 * SECOND_US)["ewma_ms"] == pytest.approx(
        before_us / 1000 / 2.718, rel=0.01
    )
    assert health.begin(now_us)
    assert health.snapshot(now_us + 9 * SECOND_US)["ewma_ms"] == pytest.approx(before_us / 1000)
    assert health.snapshot(now_us + 10 * SECOND_US)["ewma_ms"] < before_us / 2000, (
        "it was awaited long enough"
    )
    health.end(IGNORED, now_us)
    assert health.snapshot(now_us + 600 * SECOND_US)["ewma_ms"] == 0


def test_a_quantile_takes_20_samples(health):
    for _ in range(19):
        health.first_byte(1_000, START_US)
    assert health.quantile_us(0.5) == 0
    health.first_byte(1_000, START_US)
    assert 1_000 <= health.quantile_us(0.5) <= 1_125


@pytest.mark.parametrize("latency_us", [64, 100, 999, 12_345, 1_000_000, 59_999_999, 999_999_999])
def test_a_quantile_is_at_most_an_eighth_too_long(health, latency_us):
    for _ in range(20):
        health.first_byte(latency_us, START_US)
    assert latency_us < health.quantile_us(0.95) <= latency_us * 1.125 + 64


def test_quantiles_are_those_of_the_samples(health):
    for number in range(1, 1_001):
        health.first_byte(number * 1_000, START_US)
    for share in (0.05, 0.5, 0.9, 0.95, 0.99, 1.0):
        assert share * 1e6 <= health.quantile_us(share) <= share * 1.13e6
    assert health.quantile_us(0.0) <= 1_200


def test_old_samples_give_way_to_new_ones(health):
    now_us = told_every(health, 100_000, 1_000, 900, START_US)
    assert health.quantile_us(0.5) < 120_000
    told_every(health, 900_000, 1_000, 1_200, now_us)
    assert health.quantile_us(0.5) > 900_000


def test_a_minute_makes_old_samples_weigh_half(health):
    now_us = told_every(health, 100_000, 1_000, 300, START_US)
    for _ in range(4):
        now_us = told_every(health, 900_000, 1_000, 20, now_us + 61 * SECOND_US)
    assert health.quantile_us(0.5) > 900_000


@pytest.mark.parametrize("share", [float("nan"), -1.0, float("-inf"), 0.0])
def test_a_share_that_is_none_is_the_least(health, share):
    for latency_us in (1_000, 50_000):
        for _ in range(20):
            health.first_byte(latency_us, START_US)
    assert health.quantile_us(share) == health.quantile_us(1e-9) < 1_200
    assert health.quantile_us(float("inf")) == health.quantile_us(1.0) > 50_000


# -- what nobody should say


@pytest.mark.parametrize("value", [MOST, LEAST, -1, 0, 1 << 62])
def test_no_number_of_a_provider_or_a_clock_does_harm(value):
    health = a_health(2, slow_us=5, failures=1000)
    for now_us in (START_US, START_US + 1):
        health.begin(now_us)
        health.first_byte(value, now_us)
        health.end(OK, now_us, value)
        health.pause(0, value)
        health.told(0, value, value, value, value, now_us)
    assert health.verdict(START_US) == GO and health.inflight == 0
    assert 0 < health.ewma_us <= 3_600 * SECOND_US
    json.dumps(health.snapshot(START_US))


def test_a_clock_that_goes_back_moves_nothing(health):
    send(health, 50, 3, START_US)
    health.throttled(START_US + 3 * SECOND_US)
    health.first_byte(5_000, START_US)
    for now_us in (START_US, START_US - MINUTE_US, 0):
        health.first_byte(9_000, now_us)
        health.end(FAILED, now_us, 0)
        health.end(OK, now_us, 0)
        assert not health.begin(now_us)
    assert 5_000 <= health.ewma_us <= 9_000
    found = health.snapshot(START_US + 3 * SECOND_US)
    assert found["ended"] == 6 and found["pace_per_s"] == pytest.approx(35, rel=0.05)


@pytest.mark.parametrize("value", [1 << 63, 1 << 200, -(1 << 64)])
def test_what_is_beyond_64_bits_is_an_error_and_changes_nothing(health, value):
    for call in (
        lambda: health.begin(value),
        lambda: health.first_byte(value, 0),
        lambda: health.end(OK, value),
        lambda: health.told(0, value, 0, 0, 0, 0),
    ):
        with pytest.raises(OverflowError):
            call()
    assert health.inflight == 0 and health.ewma_us == 0


def test_a_snapshot_is_json_and_says_everything(health):
    assert health.begin(START_US)
    health.first_byte(1_500, START_US + 1_500)
    health.pause(0, START_US + 3_000)
    found = json.loads(json.dumps(health.snapshot(START_US + 2_000)))
    assert (found["state"], found["verdict"], found["inflight"]) == ("closed", "cooling", 1)
    assert (found["ewma_ms"], found["paused_ms"], found["wait_ms"]) == (1.5, [1.0], 1.0)


# -- traffic


def a_traffic(offered=0, now_us=START_US):
    traffic = Board().traffic(KEY)
    for _ in range(offered):
        traffic.offered(now_us)
    return traffic


def taken(traffic, now_us, ratio=0.2, per_s=10.0, most=10_000):
    return next((count for count in range(most) if not traffic.take_retry(now_us, ratio, per_s)), most)


def test_retries_are_a_share_of_what_is_offered_and_so_many_a_second():
    assert taken(a_traffic(0), START_US) == 100
    assert taken(a_traffic(1_000), START_US) == 300
    assert taken(a_traffic(1_000), START_US, per_s=0) == 200
    assert taken(a_traffic(4), START_US, per_s=0) == 0 and taken(a_traffic(5), START_US, per_s=0) == 1
    assert taken(a_traffic(5), START_US, ratio=0.0, per_s=0.1) == 1


def test_offered_counts_for_9_to_10_s_and_what_was_taken_for_10_to_11_s():
    traffic = a_traffic(100, START_US)
    assert taken(traffic, START_US + 10 * SECOND_US - 1, per_s=0) == 20
    traffic = a_traffic(100, START_US)
    assert taken(traffic, START_US + 10 * SECOND_US, per_s=0) == 0
    traffic = a_traffic(0)
    assert taken(traffic, START_US) == 100
    assert taken(traffic, START_US + 11 * SECOND_US - 1) == 0
    assert taken(traffic, START_US + 11 * SECOND_US) == 100


def test_in_no_10_s_are_there_more_than_the_share_and_so_many_a_second():
    traffic, offered, retried = a_traffic(), [], []
    for number in range(6_000):
        now_us = START_US + number * 5_000
        traffic.offered(now_us)
        offered.append(now_us)
        retried += [now_us for _ in range(3) if traffic.take_retry(now_us, 0.2, 10.0)]
    assert len(retried) > 0.9 * (0.2 * len(offered) + 300)
    for since_us in range(START_US, START_US + 20 * SECOND_US, 333_333):
        until_us = since_us + 10 * SECOND_US
        count = sum(since_us <= at_us < until_us for at_us in retried)
        assert count <= 0.2 * 2_000 + 100


def test_hedges_have_a_budget_of_their_own():
    traffic = a_traffic(100)
    assert taken(traffic, START_US, per_s=0) == 20
    assert [traffic.take_hedge(START_US, 0.05) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not a_traffic().take_hedge(START_US, 0.05)
    for _ in range(9):
        traffic.give_hedge_back(START_US)
    assert [traffic.take_hedge(START_US, 0.05) for _ in range(7)] == [True] * 5 + [False] * 2
    traffic.give_hedge_back(START_US + 60 * SECOND_US)


@pytest.mark.parametrize("wrong", [float("nan"), -1.0, float("-inf"), 0.0])
def test_a_ratio_that_is_none_allows_nothing(wrong):
    traffic = a_traffic(100)
    assert not traffic.take_retry(START_US, wrong, wrong) and not traffic.take_hedge(START_US, wrong)


def test_a_ratio_without_bound_does_no_harm():
    traffic = a_traffic(1)
    assert all(traffic.take_retry(START_US, float("inf"), float("inf")) for _ in range(100))


def test_traffic_of_a_clock_that_jumps_is_of_now():
    traffic = a_traffic(100, START_US)
    assert taken(traffic, START_US + 3_600 * SECOND_US, per_s=0) == 0
    traffic.offered(START_US)
    assert taken(traffic, START_US, ratio=1.0, per_s=0) == 1, "a clock that goes back counts as of the latest"
