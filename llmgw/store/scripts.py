"""The Lua scripts: read from `lua/` once, with what they include, and each call as KEYS and ARGV."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from typing import NamedTuple

from llmgw.limits import fleet

INCLUDE = re.compile(r"^-- include (\w+)\n", re.MULTILINE)
REPLIES_STAY_US = fleet.LATE_US
MEMORY_STAYS_US = 90 * 86_400_000_000

Argument = str | int


class Script(NamedTuple):
    text: str
    sha: str


class Command(NamedTuple):
    script: Script
    keys: list[str]
    arguments: list[Argument]


def read(name: str) -> str:
    return (files("llmgw.store") / "lua" / f"{name}.lua").read_text("utf-8")


def load(name: str) -> Script:
    own = read(name)
    text = "".join(read(part) for part in INCLUDE.findall(own)) + own
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


LEASE_AMOUNTS = load("lease_amounts")
SETTLE_AMOUNTS = load("settle_amounts")
LEASE_SLOTS = load("lease_slots")
RETURN_SLOTS = load("return_slots")
BEAT_MACHINE = load("beat_machine")
CLAIM_WORD = load("claim_word")
ALL = (LEASE_AMOUNTS, SETTLE_AMOUNTS, LEASE_SLOTS, RETURN_SLOTS, BEAT_MACHINE, CLAIM_WORD)


def command(prefix: str, call: fleet.Call) -> Command:
    if isinstance(call, fleet.Beat):
        return beat(prefix, call)
    if isinstance(call, fleet.Claim):
        return claim(prefix, call)
    place = f"{prefix}:{{{call.tag}}}:"
    if isinstance(call, fleet.Lease):
        return lease(place, call)
    if isinstance(call, fleet.Settle):
        return settle(place, call)
    if isinstance(call, fleet.TakeSlots):
        return take_slots(place, call)
    return give_slots(place, call)


def row_key(place: str, row: fleet.Row) -> str:
    """The periods of a calendar limit are apart: each has its own key."""
    return f"{place}{row.key}:{row.start_us}" if row.start_us else f"{place}{row.key}"


def lease(place: str, call: fleet.Lease) -> Command:
    keys = [f"{place}lease:{call.asker}", f"{place}memory"]
    arguments: list[Argument] = [call.number, REPLIES_STAY_US, MEMORY_STAYS_US, call.epoch, call.heard_us]
    for row, wanted, need, least, parts, _ in call.asks:
        keys.append(row_key(place, row))
        arguments += (
            row.width_us,
            row.ring,
            row.limit,
            wanted,
            need,
            least,
            parts,
            row.end_us,
            fleet.LATE_US,
        )
    return Command(LEASE_AMOUNTS, keys, arguments)


def settle(place: str, call: fleet.Settle) -> Command:
    keys = [f"{place}settle:{call.asker}"]
    arguments: list[Argument] = [call.number, REPLIES_STAY_US]
    for row, at_us, delta in call.entries:
        keys.append(row_key(place, row))
        arguments += (row.width_us, row.ring, row.life_us, row.end_us, fleet.LATE_US, at_us, delta)
    return Command(SETTLE_AMOUNTS, keys, arguments)


def take_slots(place: str, call: fleet.TakeSlots) -> Command:
    keys = [f"{place}take:{call.asker}", f"{place}memory"]
    arguments: list[Argument] = [call.number, REPLIES_STAY_US, call.machine, fleet.DEAD_US]
    arguments += (MEMORY_STAYS_US, call.epoch, call.heard_us)
    for row, wanted, need, least, parts, held in call.asks:
        keys.append(row_key(place, row))
        arguments += (row.limit, wanted, need, least, parts, held)
    return Command(LEASE_SLOTS, keys, arguments)


def give_slots(place: str, call: fleet.GiveSlots) -> Command:
    keys = [f"{place}give:{call.asker}"]
    arguments: list[Argument] = [call.number, REPLIES_STAY_US, call.machine, fleet.DEAD_US]
    for row, _, delta in call.entries:
        keys.append(row_key(place, row))
        arguments.append(delta)
    return Command(RETURN_SLOTS, keys, arguments)


def beat(prefix: str, call: fleet.Beat) -> Command:
    return Command(BEAT_MACHINE, [f"{prefix}:{{fleet}}:machines"], [call.machine, fleet.DEAD_US])


def claim(prefix: str, call: fleet.Claim) -> Command:
    return Command(CLAIM_WORD, [f"{prefix}:{{fleet}}:told:{call.word}"], [call.machine, call.stays_us])


def reply_of(call: fleet.Call, text: bytes) -> fleet.Reply:
    number, time_us, *rest = map(int, text.split())
    if isinstance(call, fleet.Beat):
        return fleet.Reply(number, time_us, machines=rest[0])
    if isinstance(call, fleet.Claim):
        return fleet.Reply(number, time_us, is_ours=bool(rest[0]))
    if not rest:
        return fleet.Reply(number, time_us)
    size = 4 if isinstance(call, fleet.TakeSlots) else 3
    answers = tuple(fleet.Answer(*rest[at : at + size]) for at in range(2, len(rest), size))
    return fleet.Reply(number, time_us, answers, epoch=rest[0], since_us=rest[1])
