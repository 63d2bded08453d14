"""Which of a model's targets of one priority a request goes to.

First who is available: breaker closed (or a probe due), a key that does not rest, pace allows. At most half
of a tier is ejected by breakers, unless all are: where more are open, those with the lowest share of failures
count as available until half of the tier is ejected. Then the strategy among them:

    weighted     smooth weighted round robin, as nginx does it: every available target gains its weight, the
                 one that has most is chosen and pays back what all gained together. Over any run of picks from
                 the same targets each gets its share to within one pick, and the shares are spread: 5, 1, 1
                 gives a a b a c a a. The credits are shared by all workers.
    round_robin  the same with equal weights
    ordered      the first
    least_busy   of two at random the one with fewer attempts in flight for its weight
    latency      least time to first token, times the attempts in flight with this one; a target without
                 a sample counts as the mean of the others
    cost         least price of the request's tokens, unknown prices last; of equals the least busy
    hash         rendezvous hashing of the affinity over the weights: a target that goes takes only its own
                 share with it, and has it again when it comes back. Without an affinity, at random.
    score        least mix of price, latency (as above) and lack of quality, each as how far it is
                 behind the best available one: 0 for the best, 0.5 for twice the price, 1 for boundlessly worse

A target of weight 0 is never picked, whatever the strategy. Nothing here is allocated after `__init__`; a
pick of 8 targets takes 0.1 to 0.5 us (`benchmarks/selection.py`).
"""

from os import urandom

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport INFINITY, isfinite, log
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from llmgw._core.segment import TIERS_BYTES

from llmgw._core.health cimport (
    VERDICT_OPEN, VERDICT_PROBE, Board, Health, breaker_wait_us, is_ejected, keys_wait_us, latency_of, pace_wait_us,
    share_of, verdict_of,
)
from llmgw._core.segment cimport Segment

cdef extern from *:
    int bits_of "__builtin_popcountll"(uint64_t mask) noexcept nogil
    int first_of "__builtin_ctzll"(uint64_t mask) noexcept nogil

WEIGHTED, ROUND_ROBIN, ORDERED, LEAST_BUSY, LATENCY, COST, HASH, SCORE = range(8)

cdef enum:
    BY_WEIGHT = 0
    BY_TURN = 1
    BY_ORDER = 2
    BY_LOAD = 3
    BY_LATENCY = 4
    BY_COST = 5
    BY_HASH = 6
    BY_SCORE = 7
    WEIGHT_MAX = 1_000_000          # keeps every sum far inside 64 bits

TIERS_MAX = 1024
cdef int64_t CREDIT_MAX = 64 * 64 * <int64_t>WEIGHT_MAX    # beyond is what a dying process left

assert TIERS_MAX * sizeof(TierRow) == TIERS_BYTES


@cython.final
cdef class Tier:
    """The targets of one priority. `prices`: pico-USD per input and output token, below 0 unknown.

    `key`: 16 bytes that name it to all workers. `qualities`: the higher the better. `score`: how much price,
    latency and quality count.
    """

    def __init__(
        self, Board board not None, bytes key not None, int strategy, tuple healths not None, *,
        tuple weights not None, tuple prices not None, tuple qualities not None, tuple score=(0.0, 0.0, 0.0),
    ):
        if self._entries != NULL:
            raise ValueError("a tier is made once")
        if not 1 <= len(healths) <= ENTRIES_MAX or not len(healths) == len(weights) == len(prices) == len(qualities):
            raise ValueError(f"1 to {ENTRIES_MAX} targets, each with weight, price and quality")
        if not BY_WEIGHT <= strategy <= BY_SCORE:
            raise ValueError(f"no strategy has number {strategy}")
        if not all(0 <= weight <= WEIGHT_MAX for weight in weights):
            raise ValueError(f"a weight is 0 to {WEIGHT_MAX}")
        self.board, self.healths, self.strategy = board, healths, strategy
        self._entries = <Entry*>PyMem_Calloc(len(healths), sizeof(Entry))
        if self._entries == NULL:
            raise MemoryError()
        for weight, health, price, quality in zip(weights, healths, prices, qualities, strict=True):
            self._add(health, weight, price, quality)
        self._score_cost, self._score_latency, self._score_quality = [sound(part) for part in score]
        self._find_row(key)
        self.seed(int.from_bytes(urandom(8), "little"))

    cdef int _add(self, Health health, int64_t weight, tuple price, double quality) except -1:
        cdef Entry* entry = &self._entries[self._count]
        cdef uint64_t[2] key
        memcpy(key, <const char*>health.key, 16)
        entry.row, entry.limits, entry.name = health.row, &health.limits, mixed(key[0] ^ mixed(key[1]))
        entry.weight = weight
        entry.input_pusd, entry.output_pusd = price
        entry.quality = sound(quality)
        if weight > 0:
            self._usable |= <uint64_t>1 << self._count
        self._count += 1
        return 0

    cdef int _find_row(self, bytes key) except -1:
        if self.board.segment is not None:
            at = (<Segment>self.board.segment).unit("tiers", 0)
            self._row = <TierRow*>self.board.find(at, sizeof(TierRow), TIERS_MAX, key)
            self.is_shared = self._row != NULL
        if self._row == NULL:
            self._row = self._owned = <TierRow*>calloc(1, sizeof(TierRow))
            if self._row == NULL:
                raise MemoryError()
        return 0

    def __dealloc__(self):
        PyMem_Free(self._entries)
        free(self._owned)

    def seed(self, value):
        """Of its randomness: any integer."""
        self._random = value & 0xFFFF_FFFF_FFFF_FFFF

    # -- who is available

    cdef uint64_t _spared(self, int64_t now_us) noexcept:
        """Those whose breaker does not count, since too many are open."""
        cdef uint64_t ejected = 0, spared = 0
        cdef int index, over
        for index in range(self._count):
            if is_ejected(self._entries[index].row, self._entries[index].limits):
                ejected |= <uint64_t>1 << index
        ejected &= self._usable
        over = bits_of(ejected) - bits_of(self._usable) // 2
        if over <= 0 or ejected == self._usable:
            return 0
        while over > 0:
            spared |= <uint64_t>1 << self._soundest(ejected & ~spared, now_us)
            over -= 1
        return spared

    cdef int _soundest(self, uint64_t among, int64_t now_us) noexcept:
        cdef int best = first_of(among), index
        cdef double share, least = INFINITY
        while among:
            index = first_of(among)
            among &= among - 1
            share = share_of(self._entries[index].row, self._entries[index].limits, now_us)
            if share < least:
                best, least = index, share
        return best

    cdef int _verdict(self, int index, uint64_t spared, int64_t now_us) noexcept:
        cdef Entry* entry = &self._entries[index]
        cdef int verdict = verdict_of(entry.row, entry.limits, now_us, False)
        if verdict == VERDICT_OPEN and spared >> index & 1:
            return verdict_of(entry.row, entry.limits, now_us, True)
        return verdict

    cdef uint64_t _available(self, uint64_t mask, uint64_t spared, int64_t now_us) noexcept:
        cdef uint64_t available = 0
        cdef int index
        for index in range(self._count):
            if mask >> index & 1 and self._verdict(index, spared, now_us) <= VERDICT_PROBE:
                available |= <uint64_t>1 << index
        return available

    cpdef int64_t wait_us(self, uint64_t mask, int64_t now_us) noexcept:
        """Until the first of them may be available; 0: one is, -1: there is none."""
        cdef uint64_t spared = self._spared(now_us)
        cdef int64_t soonest_us = -1, wait_us
        cdef Entry* entry
        cdef int index
        for index in range(self._count):
            if not (mask & self._usable) >> index & 1:
                continue
            entry = &self._entries[index]
            wait_us = max(
                keys_wait_us(entry.row, entry.limits, now_us), pace_wait_us(entry.row, entry.limits, now_us)
            )
            if not spared >> index & 1:
                wait_us = max(wait_us, breaker_wait_us(entry.row, entry.limits, now_us))
            if soonest_us < 0 or wait_us < soonest_us:
                soonest_us = wait_us
        return soonest_us

    def verdicts(self, uint64_t mask, int64_t now_us):
        """Of each target what `pick` saw; -1 where its bit is not set, or its weight is 0."""
        cdef uint64_t spared = self._spared(now_us)
        cdef uint64_t seen = mask & self._usable
        cdef int index
        return [self._verdict(index, spared, now_us) if seen >> index & 1 else -1 for index in range(self._count)]

    # -- the choice

    cpdef int pick(
        self, uint64_t mask, int64_t now_us, uint64_t affinity=0, int64_t input_tokens=0, int64_t output_tokens=0,
    ) except -2:
        """The number of the best available target whose bit is set; -1: none of them is available now.

        Takes nothing but a turn: `Health.begin` does. An `affinity` of 0 is none.
        """
        cdef Choice choice
        cdef uint64_t spared
        cdef int best
        mask &= self._usable
        if mask == 0:
            return -1
        spared = self._spared(now_us)
        choice.available = self._available(mask, spared, now_us)
        if choice.available == 0:
            return -1
        choice.now_us, choice.affinity = now_us, affinity
        choice.input_tokens, choice.output_tokens = max(input_tokens, 0), max(output_tokens, 0)
        best = self._choose(&choice)
        if spared >> best & 1:
            (<Health>self.healths[best]).spared_us = now_us
        return best

    cdef int _choose(self, Choice* choice) except -2:
        cdef uint64_t available = choice.available
        if available & (available - 1) == 0 or self.strategy == BY_ORDER:
            return first_of(available)
        if self.strategy <= BY_TURN:
            return self._in_turn(available)
        if self.strategy == BY_LOAD:
            return self._least_busy(available)
        if self.strategy == BY_LATENCY:
            return self._fastest(choice)
        if self.strategy == BY_COST:
            return self._cheapest(choice)
        if self.strategy == BY_HASH:
            return self._hashed(choice)
        return self._best_mix(choice)

    cdef int _in_turn(self, uint64_t available) except -2:
        cdef int64_t* credits = self._row.credits
        cdef int64_t total = 0, weight
        cdef int best = -1, index
        self.board.lock()
        while available:
            index = first_of(available)
            available &= available - 1
            weight = self._entries[index].weight if self.strategy == BY_WEIGHT else 1
            if not -CREDIT_MAX <= credits[index] <= CREDIT_MAX:
                credits[index] = 0
            credits[index] += weight
            total += weight
            if best < 0 or credits[index] > credits[best]:
                best = index
        credits[best] -= total
        self.board.unlock()
        return best

    cdef int _least_busy(self, uint64_t available) noexcept:
        cdef int count = bits_of(available)
        cdef int one = <int>(self._draw() % <uint64_t>count)
        cdef int other = <int>(self._draw() % <uint64_t>(count - 1))
        other += other >= one
        one, other = nth_of(available, one), nth_of(available, other)
        # (n + 1) / weight, multiplied out
        if (self._entries[other].row.inflight + 1) * self._entries[one].weight < (
            (self._entries[one].row.inflight + 1) * self._entries[other].weight
        ):
            return other
        return one

    cdef int _fastest(self, Choice* choice) noexcept:
        """From a random one on, so that equals share."""
        cdef double unseen_us = self._unseen_us(choice.available, choice.now_us)
        cdef int start = <int>(self._draw() % <uint64_t>self._count)
        cdef double load, least = INFINITY
        cdef int best = first_of(choice.available), turn, index
        for turn in range(self._count):
            index = start + turn if start + turn < self._count else start + turn - self._count
            if choice.available >> index & 1:
                load = self._latency_load(&self._entries[index], unseen_us, choice.now_us)
                if load < least:
                    best, least = index, load
        return best

    cdef double _unseen_us(self, uint64_t available, int64_t now_us) noexcept:
        """The mean time to first token of those where it is known; 1 where none is, or nobody needs it."""
        cdef double sum_us = 0
        cdef int known = 0
        cdef uint64_t left = available
        while left and self._entries[first_of(left)].row.ewma_us > 0:
            left &= left - 1
        if left == 0:
            return 1.0
        while available:
            if self._entries[first_of(available)].row.ewma_us > 0:
                sum_us += latency_of(self._entries[first_of(available)].row, now_us)
                known += 1
            available &= available - 1
        return sum_us / known if known else 1.0

    cdef double _latency_load(self, Entry* entry, double unseen_us, int64_t now_us) noexcept:
        cdef double latency_us = latency_of(entry.row, now_us) if entry.row.ewma_us > 0 else unseen_us
        return latency_us * (max(entry.row.inflight, 0) + 1)

    cdef int _cheapest(self, Choice* choice) noexcept:
        cdef uint64_t available = choice.available
        cdef double cost, least = INFINITY
        cdef int best = first_of(available), index
        while available:
            index = first_of(available)
            available &= available - 1
            cost = cost_of(&self._entries[index], choice)
            if cost < least or (cost == least and self._entries[index].row.inflight < self._entries[best].row.inflight):
                best, least = index, cost
        return best

    cdef int _hashed(self, Choice* choice) noexcept:
        cdef uint64_t available = choice.available
        cdef uint64_t affinity = choice.affinity if choice.affinity else self._draw()
        cdef double place, most = -1.0
        cdef int best = first_of(available), index
        while available:
            index = first_of(available)
            available &= available - 1
            place = self._entries[index].weight / -log(unit_of(mixed(affinity ^ self._entries[index].name)))
            if place > most:
                best, most = index, place
        return best

    cdef int _best_mix(self, Choice* choice) noexcept:
        cdef double unseen_us = self._unseen_us(choice.available, choice.now_us)
        cdef double[ENTRIES_MAX] costs
        cdef double[ENTRIES_MAX] loads
        cdef double least_cost = INFINITY, least_load = INFINITY, most_quality = 0, mix, least = INFINITY
        cdef uint64_t left = choice.available
        cdef int best = first_of(left), index
        while left:
            index = first_of(left)
            left &= left - 1
            costs[index] = cost_of(&self._entries[index], choice)
            loads[index] = self._latency_load(&self._entries[index], unseen_us, choice.now_us)
            least_cost, least_load = min(least_cost, costs[index]), min(least_load, loads[index])
            most_quality = max(most_quality, self._entries[index].quality)
        left = choice.available
        while left:
            index = first_of(left)
            left &= left - 1
            mix = (
                self._score_cost * behind(least_cost, costs[index])
                + self._score_latency * behind(least_load, loads[index])
                + self._score_quality * behind(self._entries[index].quality, most_quality)
            )
            if mix < least or (mix == least and self._entries[index].row.inflight < self._entries[best].row.inflight):
                best, least = index, mix
        return best

    cdef uint64_t _draw(self) noexcept:
        self._random += 0x9E3779B97F4A7C15ULL
        return mixed(self._random)


cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    """Every bit of the result hangs on every bit of the value (the finish of splitmix64)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL
    return value ^ (value >> 31)


cdef inline double unit_of(uint64_t value) noexcept nogil:
    """Between 0 and 1, and neither."""
    return (<double>(value >> 11) + 0.5) / 9007199254740992.0


cdef inline int nth_of(uint64_t mask, int number) noexcept nogil:
    while number > 0:
        mask &= mask - 1
        number -= 1
    return first_of(mask)


cdef inline double cost_of(const Entry* entry, const Choice* choice) noexcept nogil:
    """Infinite where it is unknown. Where no tokens are known, of one each."""
    if entry.input_pusd < 0 or entry.output_pusd < 0:
        return INFINITY
    if choice.input_tokens + choice.output_tokens <= 0:
        return entry.input_pusd + entry.output_pusd
    return entry.input_pusd * choice.input_tokens + entry.output_pusd * choice.output_tokens


cdef inline double behind(double less, double more) noexcept nogil:
    """How far the one is below the other: 0 where they are equal, 1 where it is nothing against it."""
    return 1 - less / more if more > less else 0.0


cdef double sound(double value) noexcept:
    return value if isfinite(value) and value > 0 else 0.0
