"""The health of each target, as all workers of the machine share it: breaker, keys, pace, time to first token.

A target's row stands in the region `targets` of the segment, under one robust lock for the region; a section
takes some 50 ns. Whoever asks (`verdict`, `Tier.pick`) reads without it. A row stays its target's until the
gateway starts again; where the table is full, a target's row is the process's own. Attempts in flight are
counted for each worker slot, so that those of a dead worker can be taken off (`Board.release`). A process
that dies with the lock leaves at worst one attempt uncounted: every field is right by itself, and the one
that sums up others is made anew by the next holder.

The breaker. `TRANSITIONS` is the one table of it; `Health._step` alone changes the state.

    closed      attempts go through. It opens on so many failures in a row, or on a share of failures among
                those that ended in the window. A slow answer is a failure for the share, not for the row.
    open        none goes through until its time is over, which doubles with each opening until it has closed.
    half open   one probe an interval. Probes are not tracked: one that never ends is followed by the next.
                A failure or a slow answer opens it again, so many successes close it.

Failures come at once and streams end late. So a success ends a row of failures, but not one that began before
it while all that began since has failed: at 100 requests a second to two targets and streams of half a minute,
the breaker of the one that let nobody in any more opened after 8 s, and now after 0.2. And a failure begins the
row anew where most of what began since the row did has not failed, though it had the time to; and the share is
one of what began, where that is more than what ended: else 5 % of failures would open it whenever streams begin.

What began before the last opening says nothing any more, in whichever state it ends: it tells of a time that
has been judged. So neither a late success closes, nor a late failure opens again.

Keys. A key rests until a moment; of several moments told, the latest holds. Answers come out of order, and a
provider's `remaining: 0` may be stale when it is read, but it was true until the reset it names: so it only
ever lengthens a rest, and a `remaining` above 0 ends none. Nothing a provider says makes a key rest for more
than 10 minutes.

The pace. A 429 cuts the rate of attempts to 0.7 of what was sent lately (at most once a second: what is in
flight tells of the same excess; and not below 5/s, where the key's rest says enough). From there it grows, slowly
up to where it was, in some 13 s, and ever faster beyond: tenfold in 50 s. It is forgotten after 30 s in which less
than half of it was asked for. What was sent says nothing right behind a rest, when there was little of it, and a
429 to the first ones behind one says that the rest was too short, not that they were too many: it cuts nothing.

Times are microseconds of CLOCK_MONOTONIC. A clock that goes back moves nothing.
"""

import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.math cimport exp
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from llmgw._core.segment import TARGETS_BYTES

from llmgw._core.clock cimport monotonic_ns
from llmgw._core.robust cimport EOWNERDEAD, ROBUST_BYTES, in_order, robust_init, robust_lock, robust_mend, robust_unlock
from llmgw._core.segment cimport Segment

CLOSED, OPEN, HALF_OPEN = range(3)
FAILURE, TRIP, SUCCESS, HEAL, DUE = range(5)
GO, PROBE, IS_OPEN, IS_COOLING, IS_PACED = range(5)
OK, FAILED, IGNORED = range(3)

STATES = ("closed", "open", "half_open")
EVENTS = ("failure", "trip", "success", "heal", "due")
VERDICTS = ("go", "probe", "open", "cooling", "paced")

# FAILURE: an attempt failed; TRIP: one too many. SUCCESS: one went well; HEAL: as many as are wanted.
# DUE: the open time is over, and somebody asks.
TRANSITIONS = {
    (CLOSED, FAILURE): CLOSED,
    (CLOSED, TRIP): OPEN,
    (CLOSED, SUCCESS): CLOSED,
    (CLOSED, HEAL): CLOSED,
    (CLOSED, DUE): CLOSED,
    (OPEN, FAILURE): OPEN,
    (OPEN, TRIP): OPEN,
    (OPEN, SUCCESS): OPEN,
    (OPEN, HEAL): OPEN,
    (OPEN, DUE): HALF_OPEN,
    (HALF_OPEN, FAILURE): OPEN,
    (HALF_OPEN, TRIP): OPEN,
    (HALF_OPEN, SUCCESS): HALF_OPEN,
    (HALF_OPEN, HEAL): CLOSED,
    (HALF_OPEN, DUE): HALF_OPEN,
}

cdef enum:
    ON_FAILURE = 0
    ON_TRIP = 1
    ON_SUCCESS = 2
    ON_HEAL = 3
    ON_DUE = 4
    ENDED_OK = 0
    ENDED_FAILED = 1
    COUNT_MAX = 1 << 30             # of anything that is counted in 4 bytes
    SAMPLE = 16                     # weight of one time to first token: four halvings lose nothing
    FULL = 1024 * SAMPLE            # the histogram is halved here,
    STALE = 64 * SAMPLE             # or after AGE_US from here on
    SURE = 20 * SAMPLE              # below, no quantile is told
    MEAN_SAMPLES = 8                # the first ones weigh the same: their average, before it is one over time

cdef int64_t[STATES_COUNT][EVENTS_COUNT] NEXT
for (_state, _event), _next in TRANSITIONS.items():
    NEXT[<int>_state][<int>_event] = _next

KEYS_MAX = KEYS
TARGETS_MAX = 1024
TRAFFICS_MAX = 256
ROW_BYTES = sizeof(TargetRow)
LOCK_S = 5                          # the supervisor has ended a stuck holder by then

cdef int64_t DAY_US = 86_400_000_000
cdef int64_t PAUSE_MAX_US = 600_000_000
cdef int64_t UNTOLD_US = 1_000_000          # nothing remains, and nobody says until when
cdef int64_t SPARED_US = 100_000            # from a choice to its beginning
cdef int64_t LATENCY_MAX_US = 3_600_000_000
cdef int64_t AGE_US = 60_000_000
cdef int64_t CUT_EVERY_US = 1_000_000
cdef double CUT = 0.7
cdef double PACE_MIN_PER_S = 0.5
cdef double QUIET_PER_S = 5             # below that no pace begins
cdef double PACE_MAX_PER_S = 1e6
cdef double GROWTH = 0.03                   # of the pace after the cut, a second
cdef double FASTER_S = 25                   # and once more of it in this time, with the cube of the time
cdef double BURST_S = 0.1                   # what a pace saves up for

assert <int>ROBUST_BYTES <= <int>LOCK_BYTES
assert sizeof(BoardHeader) + TARGETS_MAX * sizeof(TargetRow) + TRAFFICS_MAX * sizeof(TrafficRow) <= TARGETS_BYTES


@cython.final
cdef class Policy:
    """When a target's breaker opens and closes, and whether it is paced. ValueError: not a policy."""

    def __init__(
        self, int64_t failures=5, *, double failure_rate=0.5, int64_t min_requests=20, int64_t window_us=10_000_000,
        int64_t slow_us=0, int64_t open_us=5_000_000, int64_t max_open_us=60_000_000, int64_t successes=2,
        int64_t probe_every_us=1_000_000, bint is_breaking=True, bint is_paced=True,
    ):
        if min(failures, min_requests, successes) < 1 or not failure_rate > 0:
            raise ValueError("a breaker counts from 1, and its share of failures is above 0")
        if min(window_us, open_us, probe_every_us) < 1 or slow_us < 0:
            raise ValueError("a breaker's times are positive")
        self._limits.failures, self._limits.min_requests, self._limits.successes = failures, min_requests, successes
        self._limits.failure_rate, self._limits.slow_us = failure_rate, slow_us
        self._limits.width_us = (min(window_us, DAY_US) + BUCKETS - 1) // BUCKETS
        self._limits.open_us = min(open_us, DAY_US)
        self._limits.max_open_us = max(self._limits.open_us, min(max_open_us, DAY_US))
        self._limits.probe_every_us = min(probe_every_us, DAY_US)
        self._limits.is_breaking, self._limits.is_paced = is_breaking, is_paced


@cython.final
cdef class Board:
    """The targets of the machine, as one process sees them. `slot` is the worker's, -1 the supervisor's.

    Without a segment it stands alone, in memory of its own and on whatever clock its caller has.
    """

    def __init__(self, Segment segment=None, int slot=-1, *, int rows=64):
        if self._header != NULL:
            raise ValueError("a board is made once")
        if slot >= SLOTS_MAX or rows < 1:
            raise ValueError(f"up to {SLOTS_MAX} slots, and at least one row")
        cdef char* at
        self.segment, self.slot = segment, slot
        if segment is not None:
            at = segment.unit("targets", 0)
            self._targets_max, self._traffics_max = TARGETS_MAX, TRAFFICS_MAX
        else:
            at = self._owned = <char*>calloc(
                1, sizeof(BoardHeader) + rows * (sizeof(TargetRow) + sizeof(TrafficRow))
            )
            if at == NULL:
                raise MemoryError()
            self._targets_max = self._traffics_max = rows
            self.slot = 0
        self._header = <BoardHeader*>at
        self._targets = <TargetRow*>(at + sizeof(BoardHeader))
        self._traffics = <TrafficRow*>(self._targets + self._targets_max)
        if segment is None:
            self.prepare()

    def __dealloc__(self):
        free(self._owned)

    def prepare(self):
        """Once, before any worker runs: nothing is known of any target."""
        memset(self._header, 0, <char*>(self._traffics + self._traffics_max) - <char*>self._header)
        if robust_init(self._header.lock):
            raise OSError("no lock can be made")

    def release(self, int slot):
        """The slot's process is gone: nothing of it is in flight any more."""
        cdef int index
        cdef TargetRow* row
        if not 0 <= slot < SLOTS_MAX:
            raise IndexError(f"there are {SLOTS_MAX} slots, not number {slot}")
        for index in range(self._targets_max):
            row = &self._targets[index]
            if row.slots[slot]:
                self.lock()
                row.inflight = max(row.inflight - row.slots[slot], 0)
                row.slots[slot] = 0
                self.unlock()

    @property
    def repairs(self):
        """How often a process died with the lock."""
        return self._header.repairs

    cdef int64_t now(self) noexcept:
        return <int64_t>(monotonic_ns() // 1000)

    def now_us(self):
        return self.now()

    def health(self, bytes key not None, Policy policy not None, int keys=1):
        """Of the target that `key` names, with so many credentials."""
        if not 1 <= keys <= KEYS:
            raise ValueError(f"1 to {KEYS} keys, not {keys}")
        cdef Health health = Health.__new__(Health)
        health._board, health.key, health.limits = self, key, policy._limits
        health.limits.keys, health._slot = keys, self.slot
        health.row = <TargetRow*>self.find(<char*>self._targets, sizeof(TargetRow), self._targets_max, key)
        health.is_shared = health.row != NULL
        if health.row == NULL:
            health.row = health._owned = <TargetRow*>calloc(1, sizeof(TargetRow))
            if health.row == NULL:
                raise MemoryError()
        return health

    def traffic(self, bytes key not None):
        cdef Traffic traffic = Traffic.__new__(Traffic)
        traffic._board, traffic.key = self, key
        traffic._row = <TrafficRow*>self.find(<char*>self._traffics, sizeof(TrafficRow), self._traffics_max, key)
        if traffic._row == NULL:
            traffic._row = traffic._owned = <TrafficRow*>calloc(1, sizeof(TrafficRow))
            if traffic._row == NULL:
                raise MemoryError()
        return traffic

    cdef char* find(self, char* rows, size_t row_bytes, int count, bytes key) except? NULL:
        """The key's row, made where there is none; NULL: the table is full."""
        cdef uint64_t[2] name
        cdef uint64_t* row = NULL
        cdef int probe
        if PyBytes_GET_SIZE(key) != 16 or not any(key):
            raise ValueError("a key is 16 bytes, not all of them 0")
        memcpy(name, PyBytes_AS_STRING(key), 16)
        self.lock()
        for probe in range(count):
            row = <uint64_t*>(rows + (name[0] % <uint64_t>count + <uint64_t>probe) % <uint64_t>count * row_bytes)
            if row[0] == 0 and row[1] == 0:
                row[1] = name[1]
                in_order()
                row[0] = name[0]
            if row[0] == name[0] and row[1] == name[1]:
                self.unlock()
                return <char*>row
        self.unlock()
        return NULL

    cdef int lock(self) except -1:
        cdef int state = robust_lock(self._header.lock, LOCK_S)
        if state == EOWNERDEAD:
            self._repair()
            robust_mend(self._header.lock)
        elif state:
            raise RuntimeError(f"the lock of targets cannot be taken: {os.strerror(state)}")
        return 0

    cdef void unlock(self) noexcept:
        robust_unlock(self._header.lock)

    cdef void _repair(self) noexcept:
        cdef int index, slot
        cdef int32_t inflight
        for index in range(self._targets_max):
            if self._targets[index].key_low == 0 and self._targets[index].key_high == 0:
                continue
            inflight = 0
            for slot in range(SLOTS_MAX):
                inflight += self._targets[index].slots[slot]
            self._targets[index].inflight = inflight
        self._header.repairs += 1


@cython.final
cdef class Health:
    """One target, as one process sees it."""

    def __init__(self, *never):
        raise TypeError("Board.health makes it")

    def __dealloc__(self):
        free(self._owned)

    # -- what is known

    cpdef int verdict(self, int64_t now_us) noexcept:
        return verdict_of(self.row, &self.limits, now_us, False)

    cpdef int64_t wait_us(self, int64_t now_us) noexcept:
        """Until it may be available, if nothing else happens; 0: it is."""
        return max(
            breaker_wait_us(self.row, &self.limits, now_us),
            keys_wait_us(self.row, &self.limits, now_us),
            pace_wait_us(self.row, &self.limits, now_us),
        )

    cpdef int maybe_key(self, int first, int64_t now_us) noexcept:
        """Number of the first key from `first` on, in turn, that does not rest; -1: all do."""
        cdef int turn, key
        cdef int keys = self.limits.keys
        cdef int start = first % keys if first >= 0 else 0
        for turn in range(keys):
            key = start + turn if start + turn < keys else start + turn - keys
            if self.row.paused_us[key] <= now_us:
                return key
        return -1

    cpdef int64_t quantile_us(self, double share) noexcept:
        """The time that so many of the latest first tokens came within, 12 % too long at most; 0: too few to say."""
        cdef uint32_t weight = 0
        cdef int at
        for at in range(BINS):
            weight += self.row.bins[at]
        if weight < SURE:
            return 0
        cdef double wanted = weight * min(share, 1.0) if share > 0 else 0.0
        weight = 0
        for at in range(BINS):
            weight += self.row.bins[at]
            if weight > 0 and weight >= wanted:
                break
        return upper_us(at)

    @property
    def state(self):
        return self.row.state if self.limits.is_breaking else STATE_CLOSED

    @property
    def inflight(self):
        return self.row.inflight

    @property
    def ewma_us(self):
        """Time to first token, as of now; 0: unknown."""
        return latency_of(self.row, self._moment())

    @property
    def pace_per_s(self):
        """Attempts a second that it is held to, as of now; 0: none."""
        return pace_of(self.row, self._moment()) if self.limits.is_paced else 0.0

    cdef int64_t _moment(self) noexcept:
        """Now; of a board that stands alone the latest moment it was told."""
        return self.row.seen_us if self._board.segment is None else max(self._board.now(), self.row.seen_us)

    def reset(self):
        """The operator knows better: as if nothing had been told of it. What is in flight stays so."""
        cdef TargetRow* row = self.row
        self._board.lock()
        inflight = row.inflight
        memset(&row.state, 0, <char*>&row.slots - <char*>&row.state)
        row.inflight = inflight
        self._board.unlock()

    def snapshot(self, int64_t now_us):
        """For people: everything of it that one may want to see."""
        cdef TargetRow* row = self.row
        cdef int32_t ended = 0, failed = 0
        in_window(row, &self.limits, now_us, &ended, &failed)
        pace_per_s = pace_of(row, now_us) if self.limits.is_paced else 0.0
        return {
            "state": STATES[self.state],
            "verdict": VERDICTS[self.verdict(now_us)],
            "wait_ms": ms(self.wait_us(now_us)),
            "inflight": row.inflight,
            "ended": ended,
            "failed": failed,
            "failures": row.failures,
            "openings": row.openings,
            "ewma_ms": round(latency_of(row, now_us) / 1000, 3),
            "p50_ms": ms(self.quantile_us(0.5)),
            "p95_ms": ms(self.quantile_us(0.95)),
            "paused_ms": [ms(max(row.paused_us[key] - now_us, 0)) for key in range(self.limits.keys)],
            "pace_per_s": round(pace_per_s, 3),
            "throttles": row.throttles,
            "is_shared": self.is_shared,
        }

    # -- an attempt

    cpdef bint begin(self, int64_t now_us) except -1:
        """Takes the probe, or what the pace allows, and counts as in flight; False: no longer available.

        What `Tier.pick` chose a moment ago in spite of an open breaker goes through.
        """
        cdef TargetRow* row = self.row
        cdef bint is_spared = self.spared_us != 0 and now_us - self.spared_us <= SPARED_US
        cdef int verdict
        self.spared_us = 0
        self._board.lock()
        verdict = verdict_of(row, &self.limits, now_us, False)
        if verdict == VERDICT_OPEN and is_spared:
            verdict = verdict_of(row, &self.limits, now_us, True)
        if verdict <= VERDICT_PROBE:
            row.seen_us = max(row.seen_us, now_us)
            if verdict == VERDICT_PROBE:
                row.probe_us = now_us
                self._step(ON_DUE, now_us)
            count_begun(row, now_us)
            turn(row, &self.limits, now_us)
            row.begun_in[row.head % BUCKETS] += 1
            row.begun_since += 1
            row.begun_us = max(row.begun_us, now_us)
            if row.pace_per_s > 0:
                take_pace(row, now_us)
            if self._slot >= 0:
                row.slots[self._slot] += 1
                row.inflight += 1
            self._begun_us = now_us
        self._board.unlock()
        return verdict <= VERDICT_PROBE

    cpdef void first_byte(self, int64_t latency_us, int64_t now_us) except *:
        """The first token came so long after its request went out."""
        cdef TargetRow* row = self.row
        latency_us = min(max(latency_us, 1), LATENCY_MAX_US)
        self._board.lock()
        row.seen_us = max(row.seen_us, now_us)
        average(row, latency_us, now_us)
        if row.weight == 0:
            row.aged_us = now_us
        row.bins[bin_of(latency_us)] += SAMPLE
        row.weight += SAMPLE
        if row.weight >= FULL or (row.weight >= STALE and now_us - row.aged_us > AGE_US):
            age(row, now_us)
        self._board.unlock()

    cpdef void end(self, int outcome, int64_t now_us, int64_t duration_us=-1) except *:
        """An attempt that began is over. `duration_us`: since its `begin`; -1: unknown, as of this process's latest."""
        cdef TargetRow* row = self.row
        self._board.lock()
        row.seen_us = max(row.seen_us, now_us)
        if self._slot >= 0 and row.slots[self._slot] > 0:
            row.inflight -= 1
            row.slots[self._slot] -= 1
        if outcome == ENDED_OK or outcome == ENDED_FAILED:
            self._judge(outcome, now_us, duration_us)
        else:
            uncount_begun(row, &self.limits, now_us - duration_us if duration_us >= 0 else self._begun_us)
        self._board.unlock()

    def checked(self, bint is_well, int64_t now_us, int64_t duration_us=0):
        """Somebody asked the provider how it is, which took so long: a probe that costs no request.

        That it is not counts as an attempt that failed. That it is says nothing of attempts: it ends no row of
        failures, and an open time runs to its end. From there on it counts as a probe's success.
        """
        cdef TargetRow* row = self.row
        self._board.lock()
        row.seen_us = max(row.seen_us, now_us)
        if row.openings == 0 or now_us - duration_us >= row.opened_us:
            if row.state == STATE_OPEN and now_us >= row.open_until_us:
                self._step(ON_DUE, now_us)
            if not is_well:
                self._judge(ENDED_FAILED, now_us, duration_us)
            elif row.state == STATE_HALF_OPEN:
                row.successes = min(row.successes + 1, COUNT_MAX)
                self._step(ON_HEAL if row.successes >= self.limits.successes else ON_SUCCESS, now_us)
        self._board.unlock()

    cdef void _judge(self, int outcome, int64_t now_us, int64_t duration_us) noexcept:
        cdef TargetRow* row = self.row
        cdef Thresholds* limits = &self.limits
        cdef int64_t begun_us = now_us - duration_us if duration_us >= 0 else self._begun_us
        cdef bint is_bad = outcome == ENDED_FAILED or (limits.slow_us > 0 and duration_us > limits.slow_us)
        if row.openings > 0 and begun_us < row.opened_us:
            return
        turn(row, limits, now_us)
        row.ended[row.head % BUCKETS] += 1
        row.failed[row.head % BUCKETS] += is_bad
        count_row(row, outcome, begun_us, now_us)
        if is_bad:
            self._step(ON_TRIP if is_too_much(row, limits, now_us) else ON_FAILURE, now_us)
            return
        if row.state == STATE_HALF_OPEN:
            row.successes = min(row.successes + 1, COUNT_MAX)
        self._step(ON_HEAL if row.successes >= limits.successes else ON_SUCCESS, now_us)

    cdef void _step(self, int event, int64_t now_us) noexcept:
        """The state's only change. Whoever reads beside it finds the new state's fields set."""
        cdef TargetRow* row = self.row
        cdef int64_t after = NEXT[row.state][event]
        if after == row.state or not self.limits.is_breaking:
            return
        if after == STATE_OPEN:
            row.share = share_of(row, &self.limits, now_us)
            row.open_us = min(max(2 * row.open_us, self.limits.open_us), self.limits.max_open_us)
            row.opened_us, row.open_until_us = now_us, now_us + row.open_us
            row.openings += 1
        elif after == STATE_HALF_OPEN:
            row.successes = 0
        else:
            row.failures = row.successes = 0
            row.open_us = 0
            memset(row.ended, 0, sizeof(row.ended))
            memset(row.failed, 0, sizeof(row.failed))
            memset(row.begun_in, 0, sizeof(row.begun_in))
        in_order()
        row.state = <int32_t>after

    # -- what a provider says

    cpdef void pause(self, int key, int64_t until_us) except *:
        """The key (-1: each of them) rests until then; what already rests longer, does. A shared one 10 min at most."""
        cdef int each
        if self._board.segment is not None:
            until_us = min(until_us, self._board.now() + PAUSE_MAX_US)
        self._board.lock()
        for each in range(self.limits.keys):
            if key == each or key == -1:
                self.row.paused_us[each] = max(self.row.paused_us[each], until_us)
        self._board.unlock()

    cpdef void throttled(self, int64_t now_us) except *:
        """The provider answered 429. To be told before the rest that it asked for, which would look like an earlier one."""
        cdef TargetRow* row = self.row
        self._board.lock()
        row.seen_us = max(row.seen_us, now_us)
        if row.throttles == 0 or now_us - row.cut_us >= CUT_EVERY_US:
            if self.limits.is_paced:
                cut_pace(row, &self.limits, now_us)
        row.throttles += 1
        self._board.unlock()

    cpdef void blame(self, int cause) noexcept:
        """Why it last failed."""
        self.row.blamed = cause

    @property
    def blamed(self):
        return self.row.blamed

    cpdef void told(self, int key, int64_t remaining_requests, int64_t reset_requests_us, int64_t remaining_tokens,
                    int64_t reset_tokens_us, int64_t now_us) except *:
        """The provider's own figures; -1: unknown. Where nothing remains the key rests until the reset, 10 min at most.

        Called with every answer: nothing is done, and no lock taken, while something remains.
        """
        cdef int64_t until_us = 0
        if not self.limits.is_paced or key < 0:
            return
        if remaining_requests == 0:
            until_us = reset_requests_us if reset_requests_us >= 0 else now_us + UNTOLD_US
        if remaining_tokens == 0:
            until_us = max(until_us, reset_tokens_us if reset_tokens_us >= 0 else now_us + UNTOLD_US)
        if until_us > now_us:
            self.row.blamed = 0
            self.pause(key, min(until_us, now_us + PAUSE_MAX_US))


@cython.final
cdef class Traffic:
    """What was offered to one provider, and what was sent beyond it, in the last 10 s.

    Requests count for 9 to 10 s and what was added to them for 10 to 11 s: no window of 10 s has more than
    its share.
    """

    def __init__(self, *never):
        raise TypeError("Board.traffic makes it")

    def __dealloc__(self):
        free(self._owned)

    cpdef void offered(self, int64_t now_us) except *:
        """A request's first attempt."""
        self._board.lock()
        turn_seconds(self._row, now_us)
        self._row.offered[self._row.second % SECONDS] += 1
        self._board.unlock()

    cpdef bint take_retry(self, int64_t now_us, double ratio, double per_s) except -1:
        """Whether a further attempt stays below `ratio` of the requests and `per_s` more; then it counts."""
        return self._take(self._row.retries, now_us, ratio, per_s)

    cpdef bint take_hedge(self, int64_t now_us, double ratio) except -1:
        return self._take(self._row.hedges, now_us, ratio, 0.0)

    cpdef int give_hedge_back(self, int64_t now_us) except -1:
        """The one that was just taken found nobody to go to."""
        self._board.lock()
        turn_seconds(self._row, now_us)
        if self._row.hedges[self._row.second % SECONDS]:
            self._row.hedges[self._row.second % SECONDS] -= 1
        self._board.unlock()
        return 0

    cdef bint _take(self, int32_t* taken, int64_t now_us, double ratio, double per_s) except -1:
        cdef double allowed
        cdef int32_t sent = 0, offered = 0
        cdef int index
        cdef bint is_taken
        self._board.lock()
        turn_seconds(self._row, now_us)
        for index in range(SECONDS):
            sent += taken[index]
            offered += self._row.offered[index]
        offered -= self._row.offered[(self._row.second + 1) % SECONDS]
        allowed = within(ratio, 1e3) * offered + within(per_s, 1e6) * (SECONDS - 1)
        is_taken = sent + 1 <= allowed + 1e-9
        if is_taken:
            taken[self._row.second % SECONDS] += 1
        self._board.unlock()
        return is_taken


# -- the window, under the lock

cdef inline void turn(TargetRow* row, const Thresholds* limits, int64_t now_us) noexcept nogil:
    """Lets go what has left the window; all of it where the window is another one."""
    cdef int64_t number = now_us // limits.width_us
    if row.width_us != limits.width_us or number - row.head >= BUCKETS:
        memset(row.ended, 0, sizeof(row.ended))
        memset(row.failed, 0, sizeof(row.failed))
        memset(row.begun_in, 0, sizeof(row.begun_in))
        row.width_us, row.head = limits.width_us, number
    while row.head < number:
        row.head += 1
        row.ended[row.head % BUCKETS] = row.failed[row.head % BUCKETS] = row.begun_in[row.head % BUCKETS] = 0


cdef inline void count_row(TargetRow* row, int outcome, int64_t begun_us, int64_t now_us) noexcept nogil:
    """Failures in a row, of which `begun_since` says how dense it is."""
    if outcome == ENDED_OK:
        if begun_us >= row.failing_us or row.begun_since > row.failures:
            row.failures = 0
        return
    if row.begun_since > 2 * row.failures and now_us - row.failing_us > 2 * (now_us - begun_us):
        row.failures = 0
    if row.failures == 0:
        row.failing_us, row.begun_since = now_us, 0
    row.failures = min(row.failures + 1, COUNT_MAX)


cdef inline void uncount_begun(TargetRow* row, const Thresholds* limits, int64_t begun_us) noexcept nogil:
    """An attempt that says nothing is as if it had not begun."""
    cdef int64_t number = begun_us // limits.width_us
    if row.width_us == limits.width_us and row.head - BUCKETS < number <= row.head:
        row.begun_in[number % BUCKETS] = max(row.begun_in[number % BUCKETS] - 1, 0)
    if begun_us >= row.failing_us:
        row.begun_since = max(row.begun_since - 1, 0)


cdef inline bint is_too_much(const TargetRow* row, const Thresholds* limits, int64_t now_us) noexcept nogil:
    cdef int32_t ended = 0, failed = 0
    if row.failures >= limits.failures:
        return True
    in_window(row, limits, now_us, &ended, &failed)
    ended = max(ended, begun_in_window(row, limits, now_us))
    return ended >= limits.min_requests and failed >= limits.failure_rate * ended


cdef inline void turn_seconds(TrafficRow* row, int64_t now_us) noexcept nogil:
    cdef int64_t second = now_us // SECOND_US
    if second - row.second >= SECONDS:
        row.second = second - SECONDS
    while row.second < second:
        row.second += 1
        row.offered[row.second % SECONDS] = row.retries[row.second % SECONDS] = row.hedges[row.second % SECONDS] = 0


cdef inline double within(double value, double most) noexcept nogil:
    """NaN is 0."""
    return min(value, most) if value > 0 else 0.0


# -- the pace, under the lock

cdef inline void count_begun(TargetRow* row, int64_t now_us) noexcept nogil:
    cdef int64_t second = now_us // SECOND_US
    if second > row.second:
        row.begun_before = row.begun if second == row.second + 1 else 0
        row.begun = 0
        row.second = second
    row.begun = min(row.begun + 1, COUNT_MAX)


cdef inline double rate_of(const TargetRow* row, int64_t now_us) noexcept nogil:
    """Attempts begun in the last second."""
    cdef int64_t second = now_us // SECOND_US
    cdef double part = 1 - <double>(now_us % SECOND_US) / SECOND_US
    if second <= row.second:
        return row.begun + row.begun_before * part
    return row.begun * part if second == row.second + 1 else 0.0


cdef inline double pace_of(const TargetRow* row, int64_t now_us) noexcept nogil:
    cdef double since_s = max(now_us - row.cut_us, 0) * 1e-6
    cdef double far = since_s / FASTER_S
    if row.pace_per_s <= 0 or now_us - row.needed_us >= FORGET_US:
        return 0.0
    return min(row.cut_per_s * (1 + GROWTH * since_s + far * far * far), PACE_MAX_PER_S)


cdef inline void take_pace(TargetRow* row, int64_t now_us) noexcept nogil:
    """One attempt of what the pace allows. It was looked at just before."""
    cdef double pace_per_s = pace_of(row, now_us)
    cdef int64_t gone_us = max(now_us - row.filled_us, 0)
    if pace_per_s <= 0:
        row.pace_per_s = 0
        return
    row.tokens = min(row.tokens + row.pace_per_s * gone_us * 1e-6, max(row.pace_per_s * BURST_S, 1.0)) - 1
    row.pace_per_s = pace_per_s
    row.filled_us = max(row.filled_us, now_us)
    if pace_per_s < 2 * rate_of(row, now_us):
        row.needed_us = now_us


cdef inline void cut_pace(TargetRow* row, const Thresholds* limits, int64_t now_us) noexcept nogil:
    cdef double pace_per_s = pace_of(row, now_us)
    cdef double sent_per_s = rate_of(row, now_us)
    if pace_per_s <= 0:
        if sent_per_s < QUIET_PER_S:
            return                      # the pause says enough: a pace of so few would only refuse the next burst
        pace_per_s = sent_per_s
    elif has_rested(row, limits, now_us):
        if sent_per_s < pace_per_s / 2:
            return
    else:
        pace_per_s = min(pace_per_s, sent_per_s)
    row.pace_per_s = row.cut_per_s = max(CUT * pace_per_s, PACE_MIN_PER_S)
    row.cut_us = row.needed_us = row.filled_us = now_us
    row.tokens = 0


cdef inline bint has_rested(const TargetRow* row, const Thresholds* limits, int64_t now_us) noexcept nogil:
    """Within the last second, or since: all of its keys."""
    return keys_wait_us(row, limits, now_us - SECOND_US) > 0


# -- time to first token, under the lock

cdef inline void average(TargetRow* row, int64_t latency_us, int64_t now_us) noexcept nogil:
    cdef double age_us = <double>max(now_us - row.ewma_at_us, 0)
    cdef double share = 1 - exp(-age_us / FADE_US)
    row.samples = min(row.samples + 1, MEAN_SAMPLES)
    if row.samples < MEAN_SAMPLES:
        share = max(share, 1.0 / row.samples)
    row.ewma_us += share * (latency_us - row.ewma_us)
    row.ewma_at_us = max(row.ewma_at_us, now_us)


cdef inline int bin_of(int64_t latency_us) noexcept nogil:
    """Eight bins an octave; what is below 64 us or beyond 18 min is in the first or last."""
    cdef int64_t value = latency_us >> 6
    cdef int octave = 0
    while value >> octave >= 16:
        octave += 1
    return min(octave * 8 + <int>(value >> octave), BINS - 1)


cdef inline int64_t upper_us(int at) noexcept nogil:
    cdef int octave = 0 if at < 16 else at // 8 - 1
    return (<int64_t>(at - 8 * octave) + 1) << (octave + 6)


cdef void age(TargetRow* row, int64_t now_us) noexcept nogil:
    cdef uint32_t weight = 0
    cdef int at
    for at in range(BINS):
        row.bins[at] >>= 1
        weight += row.bins[at]
    row.weight, row.aged_us = weight, now_us


cdef ms(int64_t us):
    return round(us / 1000, 3)
