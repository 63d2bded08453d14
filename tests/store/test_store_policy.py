"""What is pure: the shared memory's model, how much is asked for, and the caps of an outage."""

from __future__ import annotations

import random
from collections import deque

import pytest

from llmgw.limits import lease
from llmgw.limits.fleet import CALENDAR, SLOTS, USD, Ask, Entry, Fleet, Lease, Row, Settle
from llmgw.limits.lease import Demand, Known, Own

MINUTE = Row("a" * 32, 0, 60_000_000, 1000)


class Life:
    """Machines that lease from the model, admit from their leases while they last, and settle later for less."""

    def __init__(self, seed: int, row: Row) -> None:
        self.random = random.Random(seed)
        self.row = row
        self.fleet = Fleet()
        self.now_us = 10**12
        self.number = 0
        self.leases: list[list[int]] = []  # [amount left, end]
        self.events: deque[list[int]] = deque()  # [when admitted, amount]
        self.open: list[list[int]] = []

    def exchange(self, kind, item) -> object:
        self.number += 1
        return self.fleet.answer(kind("t", "m", self.number, (item,)), self.now_us)

    def lease(self) -> None:
        wanted = self.random.randint(1, self.row.limit // 3)
        [got] = self.exchange(Lease, Ask(self.row, wanted, 1, 1, 2)).answers
        if got.granted:
            self.leases.append([got.granted, self.now_us + self.row.life_us])

    def admit(self) -> None:
        running = [one for one in self.leases if one[0] and one[1] > self.now_us]
        if running:
            one = self.random.choice(running)
            amount = self.random.randint(1, one[0])
            one[0] -= amount
            self.events.append([self.now_us, amount])
            self.open.append(self.events[-1])

    def settle(self) -> None:
        if self.open:
            event = self.open.pop(self.random.randrange(len(self.open)))
            less = self.random.randint(0, event[1])
            event[1] -= less
            self.exchange(Settle, Entry(self.row, event[0], -less))

    def return_unused(self) -> None:
        for one in [one for one in self.leases if one[1] <= self.now_us]:
            self.leases.remove(one)
            self.exchange(Settle, Entry(self.row, one[1], -one[0]))

    def in_window(self) -> int:
        while self.events and self.events[0][0] <= self.now_us - self.row.window_us:
            self.events.popleft()
        return sum(amount for _, amount in self.events)


@pytest.mark.parametrize("seed", range(20))
def test_no_window_ever_holds_more_than_the_limit_whatever_is_returned(seed):
    life = Life(seed, Row("a" * 32, 0, 1_000_000, 100))
    fullest = 0
    for _ in range(1500):
        life.now_us += life.random.choice((0, 500, 3000, 20_000))
        life.random.choice((life.lease, life.admit, life.admit, life.settle, life.return_unused))()
        assert life.in_window() <= life.row.limit
        fullest = max(fullest, life.in_window())
    assert fullest > 60


def test_a_clock_that_goes_back_forgets_nothing():
    fleet = Fleet()
    fleet.answer(Lease("t", "m", 1, (Ask(MINUTE, 600, 600, 1, 1),)), 10**12)
    back_us = 10**12 - 3_600_000_000
    [look] = fleet.answer(Lease("t", "m", 2, (Ask(MINUTE, 0, 0, 1, 1),)), back_us).answers
    assert look.used == 600
    [later] = fleet.answer(Lease("t", "m", 3, (Ask(MINUTE, 0, 0, 1, 1),)), back_us + 70_000_000).answers
    assert later.used == 0


def test_slices_follow_the_demand_and_shrink_with_the_rest():
    demand = Demand(MINUTE.life_us, 0, 0)
    for tick in range(1, 400):
        demand.note(tick * 10, tick * lease.TICK_US)
    assert 700 <= demand.target <= 760
    assert lease.top_up(demand, left=demand.target, limit=10**6) == 0
    assert lease.top_up(demand, left=10, limit=10**6) == demand.target - 10
    assert lease.top_up(demand, left=0, limit=50) == 50
    fleet = Fleet()
    granted = []
    for number in range(1, 40):
        [got] = fleet.answer(Lease("t", "m", number, (Ask(MINUTE, 500, 1, 1, 4),)), 10**12).answers
        granted.append(got.granted)
    assert granted == sorted(granted, reverse=True) and granted[0] == 250 and granted[20] == 1
    assert sum(granted) <= MINUTE.limit


def test_so_few_requests_ask_one_by_one():
    demand = Demand(MINUTE.life_us, 0, 0)
    demand.note_size(100)
    demand.note(100, lease.TICK_US)
    assert demand.target == 0


@pytest.mark.parametrize("seed", range(50))
def test_the_caps_of_all_machines_never_add_up_to_more_than_the_limit(seed):
    pick = random.Random(seed)
    machines = pick.randint(1, 9)
    cuts = sorted(pick.randint(0, MINUTE.limit) for _ in range(2 * machines))
    parts = [high - low for low, high in zip([0, *cuts], cuts, strict=False)]
    owns = [Own(*parts[index : index + 2]) for index in range(0, 2 * machines, 2)]
    known = Known(sum(map(sum, owns)), 0)
    firsts = [lease.first_cap(MINUTE, own, known, machines) for own in owns]
    window_us = lease.phase_us(MINUTE)
    for away_us in (0, window_us // 2, window_us, 2 * window_us - 1, 2 * window_us, 10 * window_us):
        caps = [lease.cap(MINUTE, first, False, machines, away_us, 0) for first in firsts]
        assert sum(caps) <= MINUTE.limit
        if away_us < 2 * window_us:  # what was admitted under a first cap may still be in the window
            assert all(now <= first for now, first in zip(caps, firsts, strict=True))


def test_a_budget_closes_and_a_rate_goes_on():
    budget = Row("b" * 32, USD, CALENDAR, 1000, 0, 86_400_000_000)
    assert lease.cap(budget, 300, False, 2, 9_000_000, 10_000_000) == 300
    assert lease.cap(budget, 300, False, 2, 11_000_000, 10_000_000) == 0
    assert lease.cap(MINUTE, 300, False, 2, 10**12, 10_000_000) == 500


def test_a_limit_that_was_never_looked_at_waits_for_one_that_knows():
    assert lease.first_cap(MINUTE, Own(20, 5), None, 4) == 25
    assert lease.cap(MINUTE, 25, False, 4, 0, 0) == 25
    assert lease.cap(MINUTE, 25, True, 4, lease.TRUST_US, 0) == 250


def test_leases_live_a_part_of_the_window():
    assert [Row("x", 0, us, 1).life_us for us in (1_000_000, 6_400_000, 60_000_000, CALENDAR)] == [
        50_000,
        200_000,
        1_875_000,
        2_000_000,
    ]
    assert Row("x", SLOTS, 0, 1).ring == 1 and Row("x", 0, 1_000_000, 1).ring == 137
