"""The targets under several processes, and under the death of some."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import time

import pytest
from limiterworld import Board as Shared
from limiterworld import end, forked, place

from llmgw._core.health import FAILED, HALF_OPEN, LOCK_S, OK, OPEN, ROW_BYTES, TARGETS_MAX, Board, Policy
from llmgw._core.select import WEIGHTED, Tier

KEY = b"target of a test"
SECOND_US = 1_000_000


@pytest.fixture
def supervisor(segment):
    board = Board(segment)
    board.prepare()
    return board


def both(first, second):
    """Exit statuses of two processes that do these at the same time."""
    with forked(first) as one, forked(second) as other:
        return end(one), end(other)


def test_of_two_workers_that_race_for_a_probe_one_gets_it(segment, supervisor):
    rounds = 2_000
    policy = Policy(failures=1, open_us=1, max_open_us=1, probe_every_us=1_000, successes=10 * rounds)
    seen = supervisor.health(KEY, policy)
    seen.begin(0)
    seen.end(FAILED, 0)
    assert seen.state == OPEN
    won, at = [Shared(rounds), Shared(rounds)], Shared(2)

    def race(slot):
        health = Board(segment, slot).health(KEY, policy)
        for number in range(rounds):
            at[slot] = number
            while at[1 - slot] < number:
                pass
            won[slot][number] = health.begin((number + 1) * 1_000)
        at[slot] = rounds

    assert both(lambda: race(0), lambda: race(1)) == (0, 0)
    assert [one + other for one, other in zip(*won)] == [1] * rounds
    assert 0 < sum(won[0]) < rounds, "each of them was first at times"
    assert seen.state == HALF_OPEN and seen.inflight == rounds


def test_two_workers_lose_no_count(segment, supervisor):
    count = 20_000

    def work(slot):
        board = Board(segment, slot)
        health, traffic = board.health(KEY, Policy()), board.traffic(KEY)
        for number in range(count):
            assert health.begin(number)
            health.first_byte(5_000, number)
            traffic.offered(number)
            if number % 3:
                health.end(OK, number, 1)

    assert both(lambda: work(0), lambda: work(1)) == (0, 0)
    health, traffic = supervisor.health(KEY, Policy()), supervisor.traffic(KEY)
    left = -(-count // 3)
    assert health.inflight == 2 * left and health.snapshot(count)["ended"] == 2 * (count - left)
    supervisor.release(0)
    assert health.inflight == left
    supervisor.release(1)
    assert health.inflight == 0 and supervisor.repairs == 0
    assert sum(traffic.take_retry(count, 1.0, 0.0) for _ in range(3 * count)) == 2 * count


def test_two_workers_share_the_turns_of_a_tier(segment, supervisor):
    def tier_of(board):
        healths = tuple(board.health(bytes([number] * 16), Policy()) for number in (1, 2, 3))
        return Tier(
            board, KEY, WEIGHTED, healths, weights=(5, 3, 1), prices=((-1, -1),) * 3, qualities=(0.0,) * 3
        )

    picks = Shared(2 * 3)

    def work(slot):
        tier = tier_of(Board(segment, slot))
        for _ in range(9_000):
            picks[3 * slot + tier.pick(0b111, 0)] += 1

    assert both(lambda: work(0), lambda: work(1)) == (0, 0)
    assert [picks[number] + picks[3 + number] for number in range(3)] == [10_000, 6_000, 2_000]
    tier = tier_of(supervisor)
    assert tier.is_shared and [tier.pick(0b111, 0) for _ in range(9)].count(0) == 5


def test_a_worker_killed_at_any_moment_holds_up_nobody_and_leaves_nothing_in_flight(segment, supervisor):
    kill_often(25, segment, supervisor)


@pytest.mark.soak
def test_a_worker_killed_at_any_of_many_moments_leaves_nothing_in_flight(segment, supervisor):
    kill_often(1_000, segment, supervisor)
    assert supervisor.repairs > 0, "some died with the lock"


def kill_often(times, segment, supervisor):
    board, rng = Shared(1), random.Random(5)
    living = Board(segment, 1).health(KEY, Policy())

    def hammer():
        health = Board(segment, 0).health(KEY, Policy())
        while True:
            health.begin(0)
            health.first_byte(1_000, 0)
            health.end(OK, 0, 1)
            board[0] += 1

    for _ in range(times):
        assert living.begin(0)
        with forked(hammer) as pid:
            began = board[0]
            while board[0] < began + 50:
                pass
            time.sleep(rng.random() / 500)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        began_s = time.monotonic()
        assert living.begin(0)
        living.end(OK, 0, 1)
        assert time.monotonic() - began_s < LOCK_S / 2, "nobody waits for the dead"
        supervisor.release(0)
        assert living.inflight == 1
        living.end(OK, 0, 1)
        assert living.inflight == 0


def lock_address(segment):
    """Of the region's header, where this process has it mapped."""
    offset = place(segment, "targets")
    with open("/proc/self/maps", encoding="ascii") as maps:
        line = next(line for line in maps if line.rstrip().endswith(segment.path))
    return int(line.split("-")[0], 16) + offset - int(line.split()[2], 16)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="the mapping is found there")
def test_who_takes_the_lock_of_a_dead_process_makes_the_sum_of_those_in_flight_anew(segment, supervisor):
    board = Shared(1)

    def die_with_it():
        health = Board(segment, 0).health(KEY, Policy())
        assert health.begin(1) and health.begin(1)
        at = lock_address(segment)
        assert ctypes.CDLL(None).pthread_mutex_lock(ctypes.c_void_p(at)) == 0
        # as if between the two counts of a beginning
        inflight_at = at + 128 + 8 + home_of(KEY) * ROW_BYTES + 16 + 4
        assert ctypes.c_int32.from_address(inflight_at).value == 2
        ctypes.c_int32.from_address(inflight_at).value = 1
        board[0] = 1
        signal.pause()

    with forked(die_with_it) as pid:
        while not board[0]:
            pass
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    health = Board(segment, 1).health(KEY, Policy())
    assert supervisor.repairs == 1 and health.inflight == 2
    assert health.begin(2) and health.inflight == 3
    supervisor.release(0)
    assert health.inflight == 1


def home_of(key):
    return int.from_bytes(key[:8], "little") % TARGETS_MAX


def test_what_one_worker_learns_another_knows_at_once(segment, supervisor):
    one, other = (Board(segment, slot).health(KEY, Policy(), 2) for slot in (0, 1))
    now_us = supervisor.now_us()
    one.pause(-1, now_us + SECOND_US)
    assert other.wait_us(now_us) == SECOND_US
    for _ in range(5):
        one.begin(now_us + SECOND_US)
        other.end(FAILED, now_us + SECOND_US, 0)
    assert one.state == OPEN and other.state == OPEN
