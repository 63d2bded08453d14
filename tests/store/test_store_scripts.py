"""The scripts and their model say the same, whatever is asked, in whatever order."""

from __future__ import annotations

import asyncio
import random

import pytest
from redis.asyncio import Redis

from llmgw._core.limiter import CALENDAR, SLOTS, USD
from llmgw.config import parse_redis_url
from llmgw.limits import fleet
from llmgw.limits.fleet import Ask, Beat, Claim, Entry, GiveSlots, Lease, Row, Settle, TakeSlots
from llmgw.limits.memory import Fleet
from llmgw.store import scripts
from llmgw.store.adapter import Counters, Store
from llmgw.store.client import make_client

WINDOWS_US = (60_000, 250_000, 1_000_000, 60_000_000, 86_400_000_000)
STEPS, SOAK_STEPS, BATCH = 3_000, 20_000, 5


@pytest.fixture
async def store(redis):
    store = Store(make_client(parse_redis_url(redis.url), 2.0), "t", 2.0, Counters())
    yield store
    await store.close()


def rows(now_us: int) -> list[Row]:
    windows = [
        Row(f"{index:032x}", index % 3, us, 10 ** (index % 4 + 1)) for index, us in enumerate(WINDOWS_US)
    ]
    start_us = now_us // 86_400_000_000 * 86_400_000_000
    calendar = Row("c" * 32, USD, CALENDAR, 5_000_000, start_us, start_us + 10**12)
    return [*windows, calendar]


class Driver:
    """Random calls, each made by the script and then by the model at the time that the script says."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.fleet = Fleet()
        self.random = random.Random(seed)
        self.numbers: dict[str, int] = {}
        self.past: list[fleet.Call] = []
        self.now_us = 0
        self.heard = 0, 0  # epoch, and when it answered last

    def number(self, asker: str) -> int:
        self.numbers[asker] = self.numbers.get(asker, 0) + self.random.randint(1, 3)
        return self.numbers[asker]

    def amount(self, row: Row) -> int:
        return self.random.choice(
            (0, 1, row.limit // 7, row.limit // 2, row.limit, row.limit + 1, 10**12 // 7)
        )

    def ask(self, row: Row) -> Ask:
        pick = self.random
        return Ask(
            row,
            self.amount(row),
            pick.randint(0, row.limit),
            pick.randint(1, row.limit + 2),
            pick.randint(1, 9),
        )

    def known(self) -> tuple[int, int]:
        """What an asker says it knew: nothing, this memory, or a later one than this."""
        epoch, heard_us = self.heard
        return self.random.choice(
            ((0, 0), (epoch, heard_us), (epoch, heard_us), (epoch, heard_us + 10**6), (epoch + 7, 1), (1, 1))
        )

    def call(self) -> fleet.Call:
        pick = self.random
        if self.past and pick.random() < 0.1:
            return pick.choice(self.past)  # once more, or a late copy
        some = pick.sample(rows(self.now_us), pick.randint(1, 3))
        asker, machine = pick.choice("ab"), pick.choice(("m1", "m2", "m3"))
        slots = [Row("5" * 32, SLOTS, 0, 20), Row("6" * 32, SLOTS, 0, 1)]
        kind = pick.randrange(6)
        if kind == 0:
            return Beat(machine)
        if kind == 5:
            return Claim(pick.choice("uvw"), machine, pick.choice((0, 10**10, 10**10)))
        if kind == 1:
            asks = tuple(
                self.ask(row)._replace(wanted=pick.randint(0, 9), held=pick.choice((0, 0, 3)))
                for row in slots
            )
            return TakeSlots("x", asker, self.number(asker), machine, asks, *self.known())
        if kind == 2:
            entries = tuple(Entry(row, 0, pick.randint(-9, 2)) for row in slots)
            return GiveSlots("x", asker, self.number(asker), machine, entries)
        if kind == 3:
            entries = tuple(
                Entry(
                    row,
                    self.now_us - pick.randint(0, 4 * row.life_us),
                    pick.choice((-1, -1, -1, 1)) * self.amount(row),
                )
                for row in some
            )
            return Settle("x", asker, self.number(asker), entries)
        return Lease("x", asker, self.number(asker), tuple(self.ask(row) for row in some), *self.known())

    async def steps(self) -> None:
        calls = [self.call() for _ in range(BATCH)]
        for call, got in zip(calls, await self.store.exchange(calls)):
            said = self.fleet.answer(call, got.time_us)
            assert got == said, f"{call}\nscript {got}\nmodel  {said}"
            self.now_us = max(self.now_us, got.time_us)
            self.heard = max(self.heard, (got.epoch, got.time_us if got.epoch else 0))
        self.past = [call for call in calls if not isinstance(call, Beat)]
        if self.random.random() < 0.15:
            await asyncio.sleep(self.random.choice((0.001, 0.01, 0.05)))


async def test_scripts_and_model_give_the_same_replies(store):
    driver = Driver(store, 1)
    for _ in range(STEPS // BATCH):
        await driver.steps()


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
async def test_scripts_and_model_give_the_same_replies_for_long(store, seed):
    driver = Driver(store, seed)
    for _ in range(SOAK_STEPS // BATCH):
        await driver.steps()


async def test_every_key_of_every_script_expires(store, redis):
    driver = Driver(store, 3)
    for _ in range(40):
        await driver.steps()
    client = Redis.from_url(redis.url)
    keys = await client.keys("*")
    assert len(keys) > 10
    assert [key for key in keys if await client.pttl(key) == -1] == []
    await client.aclose()


async def test_all_keys_of_a_call_are_in_one_hash_slot():
    row = Row("a" * 32, 0, 60_000_000, 10)
    for call in (
        Lease("tenant:acme", "m", 1, (Ask(row, 1, 1, 1, 1),)),
        Settle("tenant:acme", "m", 1, (Entry(row, 0, 1),)),
        TakeSlots("tenant:acme", "m", 1, "m", (Ask(row, 1, 1, 1, 1),)),
        GiveSlots("tenant:acme", "m", 1, "m", (Entry(row, 0, 1),)),
    ):
        assert all("{tenant:acme}" in key for key in scripts.command("llmgw", call).keys)


async def test_a_lease_asked_for_again_is_the_same_lease(store):
    row = Row("a" * 32, 0, 60_000_000, 10)
    call = Lease("x", "m", 7, (Ask(row, 4, 4, 1, 1),))
    first = await store.exchange([call])
    assert await store.exchange([call]) == first
    [look] = await store.exchange([Lease("x", "m", 8, (Ask(row, 0, 0, 1, 1),))])
    assert look.answers[0].used == 4


async def test_a_late_copy_of_an_earlier_call_changes_nothing(store):
    row = Row("a" * 32, 0, 60_000_000, 10)
    await store.exchange([Lease("x", "m", 8, (Ask(row, 4, 4, 1, 1),))])
    await store.exchange([Lease("x", "m", 7, (Ask(row, 5, 5, 1, 1),))])
    [look] = await store.exchange([Lease("x", "m", 9, (Ask(row, 0, 0, 1, 1),))])
    assert look.answers[0].used == 4


async def test_a_memory_older_than_its_asker_knew_is_another_one(store):
    row = Row("a" * 32, 0, 60_000_000, 10)

    async def look(number: int, epoch: int, heard_us: int) -> fleet.Reply:
        [reply] = await store.exchange([Lease("x", "m", number, (Ask(row, 0, 0, 1, 1),), epoch, heard_us)])
        return reply

    first = await look(1, 0, 0)
    same = await look(2, first.epoch, first.time_us)
    assert same.epoch == first.epoch and same.since_us == 0
    other = await look(3, same.epoch, same.time_us + 1_000_000)
    assert other.epoch > same.epoch and other.since_us == same.time_us
    assert (await look(4, same.epoch, same.time_us)).since_us == other.since_us
    assert (await look(5, 1, 1)).since_us == 0
    assert (await look(6, other.epoch, other.time_us)).epoch == other.epoch
    assert (await look(7, other.epoch + 10**9, 1)).epoch > other.epoch + 10**9


async def test_amounts_up_to_thousands_of_millions_of_dollars_stay_whole(store):
    row = Row("a" * 32, USD, 86_400_000_000, 2**52)
    odd = 2**51 + 1
    [reply] = await store.exchange([Lease("x", "m", 1, (Ask(row, odd, odd, odd, 1),))])
    assert reply.answers[0].granted == reply.answers[0].used == odd


def test_scripts_are_short_and_say_what_they_guarantee():
    for script in (
        "lease_amounts",
        "settle_amounts",
        "lease_slots",
        "return_slots",
        "beat_machine",
        "claim_word",
    ):
        text = scripts.read(script)
        assert len(text.splitlines()) <= 65
        assert all(word in text for word in ("-- Guarantee:", "-- KEYS[1]", "-- ARGV[1]", "-- Reply:"))
