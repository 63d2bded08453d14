"""The limiter under several processes, and under the death of some."""

import ctypes
import os
import random
import signal
import struct
import time

import pytest
from limiterworld import HOUR_US, MINUTE_US, Board, end, forked, gauge, is_whole, place

from llmgw._core import limiter as module
from llmgw._core.limiter import Hold, Limiter, Refusal
from llmgw._core.segment import Segment

UNDO_COUNT_AT = 128 + 8 + 8 + 16 + 8 + 256 * 8  # in the header; see limiter.pxd
RELAYED_AT = 16 + 8 + 2 * 4 * 8 + 4 * 8  # in a hold's record


@pytest.fixture
def gauges():
    """Requests, tokens and slots: the first two so wide that nothing leaves while a test runs."""
    return gauge("requests", 1 << 40, 24 * HOUR_US), gauge("tokens", 1 << 50, 24 * HOUR_US), gauge("slots", 3)


@pytest.fixture
def supervisor(segment):
    limiter = Limiter(segment)
    limiter.prepare()
    return limiter


def header(segment, at):
    with open(segment.path, "rb") as file:
        file.seek(place(segment, "limits") + at)
        return struct.unpack("<q", file.read(8))[0]


def test_eight_processes_lose_no_update_and_never_hold_more_slots_than_there_are(path):
    segment = Segment(path, 8)
    supervisor = Limiter(segment)
    supervisor.prepare()
    requests, tokens, slots = (
        gauge("requests", 1_500, 24 * HOUR_US),
        gauge("tokens", 1 << 40, 24 * HOUR_US),
        gauge("slots", 3),
    )
    admitted, settled, inside, worst = Board(8), Board(8), Board(8), Board(8)

    def work(slot):
        limiter, rng = Limiter(segment, slot), random.Random(slot)
        for _ in range(4_000):
            asked = rng.randrange(100)
            hold = limiter.admit((requests, slots), (tokens,), asked, 0, limiter.now_us())
            if isinstance(hold, Refusal):
                continue
            inside[slot] = 1
            worst[slot] = max(worst[slot], sum(inside), limiter.read(slots, limiter.now_us())[0])
            used = rng.randrange(150)
            inside[slot] = 0
            limiter.settle(hold, used, 0, limiter.now_us())
            admitted[slot] += 1
            settled[slot] += used

    children = [forked(lambda slot=slot: work(slot)) for slot in range(8)]
    assert [end(pid) for pid in [child.__enter__() for child in children]] == [0] * 8
    now_us = supervisor.now_us()
    assert sum(admitted) == 1_500 and 1 <= max(worst) <= 3
    assert supervisor.read(requests, now_us) == (1_500, 0)
    assert supervisor.read(tokens, now_us) == (sum(settled), 0)
    assert supervisor.read(slots, now_us) == (0, 0)
    assert is_whole(segment, (requests, tokens, slots)) and supervisor.repairs == 0


def hammer(segment, slot, gauges, board):
    """What began and what was settled is on the board; each counted before and after."""
    limiter = Limiter(segment, slot)
    requests, tokens, slots = gauges
    while True:
        board[0] += 1
        hold = limiter.admit((requests, slots), (tokens,), 100, 0, limiter.now_us())
        if isinstance(hold, Hold):
            limiter.settle(hold, 70, 0, limiter.now_us())
            board[1] += 1


def test_a_worker_killed_at_any_moment_leaves_whole_changes_and_nothing_open(segment, supervisor, gauges):
    kill_often(50, segment, supervisor, gauges)


@pytest.mark.soak
def test_a_worker_killed_at_any_of_many_moments_leaves_whole_changes(segment, supervisor, gauges):
    kill_often(1_000, segment, supervisor, gauges)


def kill_often(times, segment, supervisor, gauges):
    requests, tokens, slots = gauges
    board, recovered = Board(2), 0
    rng = random.Random(3)
    for _ in range(times):
        with forked(lambda: hammer(segment, 0, gauges, board)) as pid:
            began = board[0]
            while board[0] < began + 50:
                pass
            time.sleep(rng.random() / 500)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        now_us = supervisor.now_us()
        found = supervisor.give_back(0, now_us)
        assert len(found) <= 1
        recovered += len(found)
        assert supervisor.give_back(0, now_us) == []
        assert supervisor.read(slots, now_us) == (0, 0)
        used, reserved = supervisor.read(requests, now_us)
        assert reserved == 0 and board[1] <= used <= board[0]
        assert (
            supervisor.read(tokens, now_us)[1] == 0
            and 70 * board[1] <= supervisor.read(tokens, now_us)[0] <= 70 * used
        )
        assert is_whole(segment, gauges)
    assert recovered > 0, "some died with a hold"
    assert supervisor.repairs > 0 or times < 1_000, "some died in a section, which chance may spare a few"


def test_who_lives_goes_on_within_a_second_of_anothers_death_and_counts_right(path, gauges):
    segment = Segment(path, 3)
    supervisor = Limiter(segment)
    supervisor.prepare()
    requests, tokens, slots = gauges
    victims, survivor, stop = Board(2), Board(3), Board(1)

    def survive():
        limiter = Limiter(segment, 2)
        while not stop[0]:
            began_s = time.monotonic()
            hold = limiter.admit((requests,), (tokens,), 10, 0, limiter.now_us())
            limiter.settle(hold, 7, 0, limiter.now_us())
            survivor[0] += 1
            survivor[1] = max(survivor[1], round(1e6 * (time.monotonic() - began_s)))

    rng = random.Random(4)
    with forked(survive) as living:
        for _ in range(25):
            with forked(lambda: hammer(segment, 0, gauges, victims)) as pid:
                began = victims[0]
                while victims[0] < began + 20:
                    pass
                time.sleep(rng.random() / 500)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            supervisor.give_back(0, supervisor.now_us())
        stop[0] = 1
        assert end(living) == 0
    now_us = supervisor.now_us()
    used, reserved = supervisor.read(requests, now_us)
    assert reserved == 0 and victims[1] + survivor[0] <= used <= victims[0] + survivor[0]
    assert supervisor.read(tokens, now_us)[1] == 0
    assert supervisor.read(slots, now_us) == (0, 0)
    assert is_whole(segment, gauges)
    assert survivor[1] < 1_000_000


def kill_in_a_change(segment, supervisor, gauges):
    """Until one died with an undo record that says so."""
    board = Board(2)
    for _ in range(500):
        with forked(lambda: hammer(segment, 0, gauges, board)) as pid:
            began = board[0]
            while board[0] < began + 20:
                pass
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if header(segment, UNDO_COUNT_AT):
            return
        supervisor.give_back(0, supervisor.now_us())
    raise AssertionError("nobody died in a change")


def test_an_unfinished_change_is_put_back_when_the_gateway_starts_again(path, gauges):
    segment = Segment(path, 1)
    first = Limiter(segment)
    first.prepare()
    kill_in_a_change(segment, first, gauges)
    repairs = first.repairs
    del first, segment
    segment = Segment(path, 1)
    again = Limiter(segment)
    again.prepare()
    assert header(segment, UNDO_COUNT_AT) == 0 and again.repairs == repairs + 1
    again.give_back(0, again.now_us())
    assert is_whole(segment, gauges)


def header_address(segment, hold):
    """Of the first record of slot 0: where the header stands in this process."""
    return hold.progress - RELAYED_AT - place(segment, "holds") + place(segment, "limits")


def test_a_hold_whose_settling_was_cut_short_is_given_back(segment, supervisor, gauges):
    """Its record says free while the undo record says open: what is put back is looked at after that."""
    board = Board(1)

    def settle_and_hang():
        limiter = Limiter(segment, 0)
        hold = limiter.admit(gauges, (), 100, 0, limiter.now_us())
        hold.sent(b"names", 7, 10, 0, 0, 0)
        at = header_address(segment, hold)
        limiter.settle(hold, 5, 0, limiter.now_us())
        assert ctypes.CDLL(None).pthread_mutex_lock(ctypes.c_void_p(at)) == 0
        ctypes.c_int64.from_address(at + UNDO_COUNT_AT).value = 3  # a moment before it was done
        board[0] = 1
        signal.pause()

    with forked(settle_and_hang) as pid:
        while not board[0]:
            pass
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    found = supervisor.give_back(0, supervisor.now_us())
    assert found == [(b"names", 7, True, 10, 0, 0, 0)] and supervisor.repairs == 1
    assert [supervisor.read(one, supervisor.now_us()) for one in gauges] == [(1, 0), (10, 0), (0, 0)]


@pytest.mark.parametrize("wall_step_us", [-HOUR_US, 0, 3 * HOUR_US])
def test_a_restart_neither_moves_the_clock_nor_forgets_whatever_the_wall_clock_does(
    path, wall_step_us, monkeypatch
):
    requests = gauge("requests", 5)
    segment = Segment(path, 1)
    first = Limiter(segment)
    assert first.is_new
    first.prepare()
    assert not first.is_new
    limiter = Limiter(segment, 0)
    before_us = limiter.now_us()
    limiter.settle(limiter.admit((requests,), (), 0, 0, before_us), 0, 0, before_us)
    del first, limiter, segment
    wall_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns() + wall_step_us * 1000)
    again = Limiter(Segment(path, 1))
    again.prepare()
    after_us = again.now_us()
    assert before_us <= after_us < before_us + MINUTE_US
    assert again.read(requests, after_us) == (1, 0)


@pytest.mark.parametrize("wall_step_us", [-HOUR_US, 3 * HOUR_US])
def test_after_a_boot_the_clock_goes_on_from_the_later_of_wall_clock_and_last_moment(
    path, wall_step_us, monkeypatch
):
    segment = Segment(path, 1)
    first = Limiter(segment)
    first.prepare()
    limiter = Limiter(segment, 0)
    last_us = limiter.now_us()
    limiter.admit((gauge("requests", 5),), (), 0, 0, last_us)
    del first, limiter, segment
    wall_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns() + wall_step_us * 1000)
    monkeypatch.setattr(module, "boot_id", lambda: b"another boot, ok")
    again = Limiter(Segment(path, 1))
    again.prepare()
    expected_us = max(last_us, wall_ns() // 1000 + wall_step_us)
    assert abs(again.now_us() - expected_us) < MINUTE_US and again.now_us() >= last_us


def test_a_clock_that_fell_behind_what_was_seen_goes_on_from_there_where_boots_have_no_name(
    path, monkeypatch
):
    monkeypatch.setattr(module, "boot_id", lambda: bytes(16))
    segment = Segment(path, 1)
    limiter = Limiter(segment, 0)
    limiter.prepare()
    last_us = limiter.now_us() + 2 * HOUR_US  # as after a boot that set CLOCK_BOOTTIME back
    limiter.admit((gauge("requests", 5),), (), 0, 0, last_us)
    del limiter, segment
    again = Limiter(Segment(path, 1))
    again.prepare()
    assert last_us <= again.now_us() < last_us + MINUTE_US


def test_what_a_dead_workers_requests_came_to_is_as_far_as_they_had_come(segment, supervisor):
    requests, tokens, money, slots = (
        gauge("requests", 10),
        gauge("tokens", 10_000),
        gauge("usd", 10_000),
        gauge("slots", 9),
    )
    caller, target = (requests, money), (tokens, slots)
    limiter = Limiter(segment, 1)
    now_us = limiter.now_us()
    reserved, sent, half, known, unsent, settled = (
        limiter.admit(caller, target, 1_000, 500, now_us) for _ in range(6)
    )
    sent.sent(b"sent", 1, 100, 2_000_000, 5_000_000, 3_000_000)
    half.sent(b"half", 2, 100, 2_000_000, 5_000_000, 3_000_000)
    ctypes.c_int64.from_address(half.progress).value = 41
    known.sent(b"n" * 800, 3, 100, 1, 1, 1, 17)
    known.known(130, 77)
    unsent.sent(b"unsent", 4, 100, 1, 1, 1)
    unsent.unsent()
    limiter.settle(settled, 9, 9, now_us)
    found = supervisor.give_back(1, now_us)
    assert sorted(found) == sorted(
        [
            (b"", 0, False, 0, 0, 0, 0),
            (b"sent", 1, True, 100, 0, 203, 0),
            (b"half", 2, True, 100, 11, 258, 0),  # 200 + 55 + 3
            (b"n" * 760, 3, True, 100, 30, 77, 17),
            (b"unsent", 4, False, 0, 0, 0, 0),
        ]
    )
    assert supervisor.read(requests, now_us) == (6, 0)
    assert supervisor.read(tokens, now_us) == (100 + 111 + 130 + 9, 0)
    assert supervisor.read(money, now_us) == (203 + 258 + 77 + 9, 0)
    assert supervisor.read(slots, now_us) == (0, 0)
    assert supervisor.give_back(1, now_us) == []


def test_a_record_that_is_used_again_says_nothing_of_who_had_it_before(segment, supervisor):
    limiter = Limiter(segment, 1)
    one = gauge("requests", 10)
    hold = limiter.admit((one,), (), 5, 0, limiter.now_us())
    hold.sent(b"first", 1, 100, 1, 1, 1)
    limiter.settle(hold, 5, 0, limiter.now_us())
    limiter.admit((one,), (), 5, 0, limiter.now_us())
    assert supervisor.give_back(1, supervisor.now_us()) == [(b"", 0, False, 0, 0, 0, 0)]


def test_a_hold_that_went_to_another_target_settles_there_alone(segment, supervisor):
    """Also where the caller has no limits of its own."""
    one, other = gauge("tokens", 1_000), gauge("tokens", 1_000)
    limiter = Limiter(segment, 1)
    now_us = limiter.now_us()
    hold = limiter.admit((), (one,), 100, 0, now_us)
    assert limiter.switch(hold, (other,), now_us, 30) is None
    assert [supervisor.read(each, now_us) for each in (one, other)] == [(30, 0), (100, 100)]
    hold.sent(b"", 2, 40, 0, 0, 0)
    assert len(supervisor.give_back(1, now_us)) == 1
    assert [supervisor.read(each, now_us) for each in (one, other)] == [(30, 0), (40, 0)]
