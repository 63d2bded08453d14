"""What is pure: the shared memory's model, how much is asked for, and the caps of an outage."""

from __future__ import annotations

import random
from collections import deque

import pytest

from llmgw._core.limiter import CALENDAR, SLOTS, USD
from llmgw.limits import lease
from llmgw.limits.fleet import Ask, Entry, Lease, Row, Settle
from llmgw.limits.lease import Demand, Known, Own
from llmgw.limits.memory import Fleet

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


def test_a_return_finds_what_paid_for_it_though_its_bucket_began_before():
    """The machine says when its bucket began; the lease is of the memory's bucket after that."""
    row, fleet = Row("a" * 32, USD, 3_600_000_000, 1000), Fleet()
    begin_us = 10**6 * row.width_us
    leased_us = begin_us + row.width_us + 1_000_000
    fleet.answer(Lease("t", "m", 1, (Ask(row, 600, 600, 1, 1),)), leased_us)
    fleet.answer(Settle("t", "m", 1, (Entry(row, begin_us + 2_000_000, -600),)), leased_us + row.life_us)
    [look] = fleet.answer(Lease("t", "m", 2, (Ask(row, 0, 0, 1, 1),)), leased_us + row.life_us).answers
    assert look.used == 0


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
    owns = [lease.own_of(MINUTE, *own[:2], known, machines, 0) for own in owns]
    window_us = lease.phase_us(MINUTE)
    for away_us in (0, window_us // 2, window_us, 2 * window_us - 1, 2 * window_us, 10 * window_us):
        caps = [lease.cap(MINUTE, own, own.used, False, machines, away_us, 0) for own in owns]
        assert sum(caps) <= MINUTE.limit
        if away_us < 2 * window_us:  # what was admitted under a first cap may still be in the window
            assert all(now <= own.all for now, own in zip(caps, owns, strict=True))


def test_for_a_while_what_leaves_the_window_is_not_used_again():
    own = Own(used=50, leased=10, sure=5, part=20)
    assert [lease.cap(MINUTE, own, kept, False, 4, 0, 0) for kept in (50, 20, 0)] == [65, 35, 15]
    assert lease.cap(MINUTE, own, 0, False, 4, lease.HOLD_US, 0) == own.all
    budget = Row("b" * 32, USD, 86_400_000_000, 1000)
    assert lease.cap(budget, own, 20, False, 4, 9_000_000, 10_000_000) == 35
    slots = Row("5" * 32, SLOTS, 0, 100)
    assert lease.cap(slots, own, 0, False, 4, 0, 0) == own.all


@pytest.mark.parametrize(("rise", "parts"), [(0, [200, 200]), (10, [165, 85]), (100, [0, 0])])
def test_of_what_is_left_a_machine_takes_only_what_the_others_will_not_have_used_up(rise, parts):
    """`rise` in each look, four looks to a second; of 4 machines, and of a budget with a grace of 10 s."""
    known = Known(200 - 20 * rise // 10, 0)
    for look in range(1, 9):
        known.look(known.used + rise if look > 4 else known.used, look * 250_000)
    for unit, part in zip((0, USD), parts, strict=True):
        row = Row("a" * 32, unit, 60_000_000, 1000)
        assert lease.own_of(row, 7, 3, known, 4, 10_000_000).sure == part
        assert lease.own_of(row, 7, 3, known, 1, 10_000_000).sure == 1000 - known.used


def test_a_rise_is_forgotten_when_nobody_uses_more():
    known = Known(0, 0)
    for look in range(1, 60):
        known.look(min(look * 25, 100), look * 1_000_000)
    assert (known.step, known.per_s) == (0, 0)


def test_a_budget_closes_and_a_rate_goes_on():
    budget = Row("b" * 32, USD, CALENDAR, 1000, 0, 86_400_000_000)
    assert lease.cap(budget, Own(300, 0), 300, False, 2, 9_000_000, 10_000_000) == 300
    assert lease.cap(budget, Own(300, 0), 300, False, 2, 11_000_000, 10_000_000) == 0
    assert lease.cap(MINUTE, Own(300, 0), 0, False, 2, 10**12, 10_000_000) == 500


def test_a_limit_that_was_never_looked_at_waits_for_one_that_knows():
    assert lease.own_of(MINUTE, 20, 5, None, 4, 0) == Own(20, 5)
    assert lease.cap(MINUTE, Own(20, 5), 20, False, 4, 0, 0) == 25
    assert lease.cap(MINUTE, Own(20, 5), 20, True, 4, lease.TRUST_US, 0) == 250


def test_leases_live_a_part_of_the_window():
    assert [Row("x", 0, us, 1).life_us for us in (1_000_000, 6_400_000, 60_000_000, CALENDAR)] == [
        50_000,
        200_000,
        1_875_000,
        2_000_000,
    ]
    assert Row("x", SLOTS, 0, 1).ring == 1 and Row("x", 0, 1_000_000, 1).ring == 137
