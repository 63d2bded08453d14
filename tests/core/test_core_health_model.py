"""A target against a plain account of what happened to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from llmgw._core.health import (
    CLOSED,
    FAILED,
    GO,
    HALF_OPEN,
    IGNORED,
    IS_COOLING,
    IS_OPEN,
    IS_PACED,
    OK,
    OPEN,
    PROBE,
    Board,
    Policy,
)

SECOND_US = 1_000_000
START_US = 500 * SECOND_US
KEYS = 2
NEVER_US = -1


@dataclass
class Account:
    """A target in plain words. Every event stays in a list; what counts is looked up there."""

    failures_max: int
    failure_rate: float
    min_requests: int
    width_us: int
    slow_us: int
    open_us: int
    max_open_us: int
    successes_min: int
    probe_every_us: int
    is_breaking: bool
    is_paced: bool
    state: int = CLOSED
    in_a_row: int = 0
    row_us: int = 0  # when the first failure of the row ended
    begun_since: int = 0
    begun_us: list[int] = field(default_factory=list)  # those that were not ignored, since the last closing
    successes: int = 0
    opened_us: int = NEVER_US
    open_until_us: int = 0
    last_open_us: int = 0
    probe_us: int = 0
    ends: list[tuple[int, bool]] = field(default_factory=list)  # (moment, was it bad)
    rests_us: list[int] = field(default_factory=lambda: [0] * KEYS)
    begins: list[int] = field(default_factory=list)
    inflight: int = 0
    pace_per_s: float = 0.0
    cut_per_s: float = 0.0
    tokens: float = 0.0
    filled_us: int = 0
    cut_us: int = NEVER_US
    needed_us: int = 0
    samples: int = 0
    ewma_us: float = 0.0
    sampled_us: int = 0

    # -- waits

    def breaker_wait_us(self, now_us: int) -> int:
        if self.state == CLOSED:
            return 0
        until_us = self.open_until_us if self.state == OPEN else self.probe_us + self.probe_every_us
        return max(until_us - now_us, 0)

    def keys_wait_us(self, now_us: int) -> int:
        return max(min(self.rests_us) - now_us, 0)

    def pace_wait_us(self, now_us: int) -> int:
        if not self.is_held(now_us) or self.tokens >= 1:
            return 0
        need_us = math.ceil((1 - self.tokens) / self.pace_per_s * 1e6 - 1e-3)
        return max(self.filled_us + need_us - now_us, 0)

    def is_held(self, now_us: int) -> bool:
        return self.pace_per_s > 0 and now_us - self.needed_us < 30 * SECOND_US

    def verdict(self, now_us: int) -> int:
        if self.breaker_wait_us(now_us):
            return IS_OPEN
        if self.keys_wait_us(now_us):
            return IS_COOLING
        if self.pace_wait_us(now_us):
            return IS_PACED
        return GO if self.state == CLOSED else PROBE

    # -- attempts

    def begin(self, now_us: int) -> bool:
        if self.verdict(now_us) not in {GO, PROBE}:
            return False
        if self.state != CLOSED:
            self.probe_us = now_us
        if self.state == OPEN:
            self.state, self.successes = HALF_OPEN, 0
        self.begins.append(now_us)
        self.begun_since += 1
        self.begun_us.append(now_us)
        self.inflight += 1
        self.use_pace(now_us)
        return True

    def use_pace(self, now_us: int) -> None:
        if not self.is_held(now_us):
            self.pace_per_s = 0.0
            return
        gone_s = (now_us - self.filled_us) / 1e6
        self.tokens = min(self.tokens + self.pace_per_s * gone_s, max(self.pace_per_s / 10, 1)) - 1
        self.pace_per_s = self.pace(now_us)
        self.filled_us = now_us
        if self.pace_per_s < 2 * self.rate(now_us):
            self.needed_us = now_us

    def pace(self, now_us: int) -> float:
        if not self.is_held(now_us):
            return 0.0
        since_s = (now_us - self.cut_us) / 1e6
        return self.cut_per_s * (1 + 0.03 * since_s + (since_s / 25) ** 3)

    def rate(self, now_us: int) -> float:
        second, into_us = divmod(now_us, SECOND_US)
        running = sum(at_us // SECOND_US == second for at_us in self.begins)
        before = sum(at_us // SECOND_US == second - 1 for at_us in self.begins)
        return running + before * (1 - into_us / SECOND_US)

    def throttled(self, now_us: int) -> None:
        if not self.is_paced or (self.cut_us != NEVER_US and now_us - self.cut_us < SECOND_US):
            return
        sent, pace = self.rate(now_us), self.pace(now_us)
        has_rested = self.keys_wait_us(now_us - SECOND_US) > 0
        if (pace <= 0 and sent < 5) or (pace > 0 and has_rested and sent < pace / 2):
            return
        base = sent if pace <= 0 else pace if has_rested else min(sent, pace)
        self.pace_per_s = self.cut_per_s = max(0.7 * base, 0.5)
        self.tokens, self.cut_us, self.filled_us, self.needed_us = 0.0, now_us, now_us, now_us

    def sample(self, latency_us: int, now_us: int) -> None:
        self.samples += 1
        share = 1 - math.exp(-(now_us - self.sampled_us) / 1e7)
        if self.samples < 8:
            share = max(share, 1 / self.samples)
        self.ewma_us += share * (latency_us - self.ewma_us)
        self.sampled_us = now_us

    def latency_us(self, now_us: int) -> float:
        last_us = self.begins[-1] if self.begins else 0
        is_awaited = self.inflight > 0 and last_us >= self.sampled_us and now_us - last_us < 10 * SECOND_US
        age_us = 0 if is_awaited else now_us - self.sampled_us
        return self.ewma_us * math.exp(-age_us / 1e7)

    def count_row(self, is_failure: bool, now_us: int, duration_us: int) -> None:
        is_sparse = self.begun_since > 2 * self.in_a_row and now_us - self.row_us > 2 * duration_us
        is_news = now_us - duration_us >= self.row_us or self.begun_since > self.in_a_row
        if (is_failure and is_sparse) or (not is_failure and is_news):
            self.in_a_row = 0
        if is_failure:
            if not self.in_a_row:
                self.row_us, self.begun_since = now_us, 0
            self.in_a_row += 1

    def ignore(self, begun_us: int) -> None:
        if begun_us in self.begun_us:
            self.begun_us.remove(begun_us)
        if begun_us >= self.row_us:
            self.begun_since = max(self.begun_since - 1, 0)

    def end(self, outcome: int, now_us: int, duration_us: int) -> None:
        self.inflight -= 1
        if outcome == IGNORED:
            self.ignore(now_us - duration_us)
        if outcome == IGNORED or now_us - duration_us < self.opened_us:
            return
        is_slow = bool(self.slow_us) and duration_us > self.slow_us
        is_bad = outcome == FAILED or is_slow
        self.ends.append((now_us, is_bad))
        self.count_row(outcome == FAILED, now_us, duration_us)
        if self.state == CLOSED and is_bad and self.is_breaking and self.is_too_much(now_us):
            self.open(now_us)
        elif self.state == HALF_OPEN and is_bad:
            self.open(now_us)
        elif self.state == HALF_OPEN:
            self.successes += 1
            if self.successes >= self.successes_min:
                self.state, self.in_a_row, self.last_open_us = CLOSED, 0, 0
                self.ends, self.begun_us = [], []

    def in_window(self, now_us: int) -> list[bool]:
        newest = now_us // self.width_us
        return [is_bad for at_us, is_bad in self.ends if newest - at_us // self.width_us < 10]

    def judged(self, now_us: int) -> int:
        newest = now_us // self.width_us
        begun = sum(newest - at_us // self.width_us < 10 for at_us in self.begun_us)
        return max(len(self.in_window(now_us)), begun)

    def is_too_much(self, now_us: int) -> bool:
        failed, judged = sum(self.in_window(now_us)), self.judged(now_us)
        is_rate = judged >= self.min_requests and failed / judged >= self.failure_rate
        return is_rate or self.in_a_row >= self.failures_max

    def open(self, now_us: int) -> None:
        self.last_open_us = min(max(2 * self.last_open_us, self.open_us), self.max_open_us)
        self.state, self.opened_us, self.open_until_us = OPEN, now_us, now_us + self.last_open_us


@dataclass
class Flight:
    number: int  # which of the two that share the target
    begun_us: int


class Machine(RuleBasedStateMachine):
    """Two that share a target, on a clock that only goes forward."""

    @initialize(
        failures=st.integers(1, 6),
        rate=st.sampled_from([0.25, 0.5, 1.0]),
        min_requests=st.integers(1, 8),
        window_us=st.sampled_from([SECOND_US, 10 * SECOND_US]),
        slow_us=st.sampled_from([0, 300_000]),
        open_us=st.sampled_from([1_000, SECOND_US, 5 * SECOND_US]),
        times=st.integers(1, 5),
        successes=st.integers(1, 3),
        probe_every_us=st.sampled_from([1_000, SECOND_US]),
        is_breaking=st.sampled_from([True, True, True, False]),
        is_paced=st.sampled_from([True, True, False]),
    )
    def start(
        self,
        failures,
        rate,
        min_requests,
        window_us,
        slow_us,
        open_us,
        times,
        successes,
        probe_every_us,
        is_breaking,
        is_paced,
    ):
        policy = Policy(
            failures=failures,
            failure_rate=rate,
            min_requests=min_requests,
            window_us=window_us,
            slow_us=slow_us,
            open_us=open_us,
            max_open_us=times * open_us,
            successes=successes,
            probe_every_us=probe_every_us,
            is_breaking=is_breaking,
            is_paced=is_paced,
        )
        self.account = Account(
            failures,
            rate,
            min_requests,
            window_us // 10,
            slow_us,
            open_us,
            times * open_us,
            successes,
            probe_every_us,
            is_breaking,
            is_paced,
        )
        self.board = Board()
        self.healths = [self.board.health(b"target of a test", policy, KEYS) for _ in range(2)]
        self.flights: list[Flight] = []
        self.now_us = START_US

    @rule(later_us=st.sampled_from([1, 700, 90_000, 400_000, SECOND_US, 3 * SECOND_US, 11 * SECOND_US]))
    def later(self, later_us):
        self.now_us += later_us

    @rule(early_us=st.integers(0, 1))
    def when_it_says(self, early_us):
        """To the moment that it said, or just before."""
        wait_us = self.healths[0].wait_us(self.now_us)
        if wait_us > early_us:
            self.now_us += wait_us - early_us
            assert (self.healths[0].verdict(self.now_us) in {GO, PROBE}) == (early_us == 0)

    @rule(number=st.integers(0, 1), times=st.sampled_from([1, 1, 1, 8, 40]))
    def begin(self, number, times):
        for _ in range(times):
            if self.is_near_a_boundary():
                return
            is_begun = self.account.begin(self.now_us)
            assert self.healths[number].begin(self.now_us) == is_begun
            if is_begun:
                self.flights.append(Flight(number, self.now_us))

    @rule(
        outcome=st.sampled_from([OK, OK, FAILED, FAILED, IGNORED]),
        which=st.integers(0, 1_000),
        times=st.sampled_from([1, 1, 1, 6, 30]),
        latency_us=st.sampled_from([0, 1_000, 40_000, 900_000]),
    )
    def end(self, outcome, which, times, latency_us):
        for _ in range(min(times, len(self.flights))):
            flight = self.flights.pop(which % len(self.flights))
            health = self.healths[flight.number]
            if latency_us:
                self.account.sample(latency_us, self.now_us)
                health.first_byte(latency_us, self.now_us)
            self.account.end(outcome, self.now_us, self.now_us - flight.begun_us)
            health.end(outcome, self.now_us, self.now_us - flight.begun_us)

    @rule(number=st.integers(0, 1), key=st.integers(-1, KEYS), for_us=st.integers(-9, 3 * SECOND_US))
    def pause(self, number, key, for_us):
        until_us = self.now_us + for_us
        self.healths[number].pause(key, until_us)
        self.rest(key, until_us)

    def rest(self, key, until_us):
        for each in range(KEYS):
            if key in {each, -1}:
                self.account.rests_us[each] = max(self.account.rests_us[each], until_us)

    @rule(
        number=st.integers(0, 1),
        key=st.integers(0, KEYS - 1),
        requests=st.integers(-1, 2),
        reset_us=st.sampled_from([-1, -SECOND_US, 5, SECOND_US, 2_000 * SECOND_US]),
    )
    def told(self, number, key, requests, reset_us):
        at_us = reset_us if reset_us == -1 else self.now_us + reset_us
        self.healths[number].told(key, requests, at_us, -1, -1, self.now_us)
        if requests == 0 and self.account.is_paced:
            self.rest(key, self.now_us + min(SECOND_US if reset_us == -1 else reset_us, 600 * SECOND_US))

    @rule(number=st.integers(0, 1))
    def throttled(self, number):
        self.account.throttled(self.now_us)
        self.healths[number].throttled(self.now_us)

    def is_near_a_boundary(self):
        """Of the pace, by a rounding of floating point."""
        return abs(self.account.pace_wait_us(self.now_us) - self.pace_wait_us()) == 1

    def pace_wait_us(self):
        others = max(self.account.breaker_wait_us(self.now_us), self.account.keys_wait_us(self.now_us))
        found_us = self.healths[0].wait_us(self.now_us)
        return found_us if found_us > others else self.account.pace_wait_us(self.now_us)

    @invariant()
    def is_as_the_account_says(self):
        if not hasattr(self, "account") or self.is_near_a_boundary():
            return
        account, now_us = self.account, self.now_us
        waits = account.breaker_wait_us(now_us), account.keys_wait_us(now_us), account.pace_wait_us(now_us)
        for health in self.healths:
            assert health.state == account.state and health.inflight == account.inflight
            assert health.verdict(now_us) == account.verdict(now_us)
            assert health.wait_us(now_us) == max(waits)
            free = [key for key in range(KEYS) if account.rests_us[key] <= now_us]
            assert health.maybe_key(1, now_us) == max(free, default=-1)
        found = self.healths[0].snapshot(now_us)
        bad = account.in_window(now_us)
        counted = (len(bad), sum(bad), account.in_a_row)
        assert (found["ended"], found["failed"], found["failures"]) == counted
        assert found["pace_per_s"] == pytest.approx(account.pace(now_us), abs=1e-3)
        assert found["ewma_ms"] == pytest.approx(account.latency_us(now_us) / 1e3, abs=2e-3)


def run(steps):
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=steps // 50,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


def test_a_target_is_what_a_plain_account_of_events_says():
    run(10_000)


@pytest.mark.soak
def test_a_target_is_what_a_plain_account_of_events_says_for_long():
    run(300_000)
