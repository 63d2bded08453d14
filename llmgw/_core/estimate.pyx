"""Token estimates: how many tokens a request will use, learned from what earlier ones did use.

Per upstream model and in the shared segment, so that all workers learn together and a restart
forgets nothing. A unit of the region `estimates` holds, of one model,

    ratios    for each of four classes of prompt size: samples by tokens per byte, 12 bins an
              octave from 1/8 to 4. Classes, since what does not grow with the prompt (a hidden
              system prompt, the frame of each message) rules small prompts and vanishes in large
              ones: one histogram would reserve a long prompt at the ratio of a short one.
    outputs   samples by tokens of an answer, 4 bins an octave from 1 to 2^20

and beside each histogram the quantile read from it, so that an estimate is one load: the bin's
upper edge above which less than 1/128 (ratios) or 1/20 (outputs) of the samples lie. Histograms
age by halving at 1,024 samples: a denser mix is followed within some ten requests, a lighter one
within some thousand. Both the ratio's floor and its ceiling bound what a flood of odd prompts, or
a provider that reports nonsense, can do to everybody else.

No lock: counts are aligned 4-byte, everything else 8-byte stores. Two workers in one histogram at
the same moment lose a sample or halve twice; the quantile is read from what is there, whatever
that is. A unit is claimed once, by compare-and-swap of its key, and never given up; names that
find no unit share one.
"""

cimport cython
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_Check
from libc.math cimport ceil, exp2, log2
from libc.stdint cimport uint32_t, uint64_t

from hashlib import blake2b

from llmgw._core import segment as layout

cdef extern from *:
    bint claim "__sync_bool_compare_and_swap"(uint64_t* at, uint64_t old, uint64_t new) noexcept nogil


cdef enum:
    UNITS = 1024                    # number 0 is the one that names without a unit share
    PROBES = 16                     # units that a name may stand in
    HANDLES = 4096                  # kept per process; a further name pays for its digest each time
    FRAME_TOKENS = 8                # of any request: the frame of a message, and the answer's beginning
    SURE_SAMPLES = 20               # below, what was learned raises an estimate and does not lower it
    AGED_SAMPLES = 1024             # a histogram is halved here
    READ_SAMPLES = 16               # so often it is read anew; above the quantile, each sample has it read
    RATIO_STEPS = 12                # bins an octave
    OUTPUT_STEPS = 4
    RATIO_TAIL = 128                # 1/128 of the samples may lie above the quantile
    OUTPUT_TAIL = 20
    ABSURD_RATIO = 64               # tokens per byte: no prompt, but a provider's mistake

cdef double LEAST_RATIO = 0.125     # half of what English has: nothing real stays below for long
cdef double MOST_RATIO = 4.0        # LEAST_RATIO * 2 ** (RATIO_BINS / RATIO_STEPS)
cdef double FIRST_RATIO = 0.5       # until learned: above every script in wide use; emoji and base64 reach 0.75
cdef long long FIRST_OUTPUT = 1024  # until learned
cdef long long MOST_OUTPUT = 1 << 20        # of one choice, where the model's maximum is unknown
cdef long long MOST_COUNT = 1 << 40         # keeps every product far inside 64 bits,
cdef long long MOST_CHOICES = 1 << 22       # together with this

assert UNITS * sizeof(Unit) <= layout.ESTIMATES_BYTES


cdef class Estimator:
    """The estimates of all models, as one process sees them."""

    def __init__(self, Segment segment not None):
        self._segment = segment
        self._units = <Unit*>segment.unit("estimates", 0)
        self._handles = {}

    cpdef ModelEstimate find(self, str model):
        """The estimate of the model that the provider knows as `model`. To be kept where that is easy."""
        cdef ModelEstimate handle = self._handles.get(model)
        if handle is None:
            handle = ModelEstimate.__new__(ModelEstimate)
            handle._segment, handle._units = self._segment, self._units
            handle._key = key_of(model)
            if len(self._handles) < HANDLES:
                self._handles[model] = handle
        return handle


cdef uint64_t key_of(str model) except 0:
    """64 bits: a collision, which needs to be made on purpose, shares an estimate and no more."""
    digest = blake2b(model.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


cdef Unit* unit_of(Unit* units, uint64_t key, bint is_claimed) noexcept nogil:
    """The key's unit; where it has none a free one if `is_claimed`, else NULL."""
    cdef Unit* unit
    cdef int probe
    for probe in range(PROBES):
        unit = &units[1 + (key + <uint64_t>probe) % <uint64_t>(UNITS - 1)]
        if unit.key == 0:
            if not is_claimed:
                return NULL
            claim(&unit.key, 0, key)        # where another was faster, it may be with this very key
        if unit.key == key:
            return unit
    return units


cdef class ModelEstimate:
    """What is known of one model. Reads and learns in some ten nanoseconds, and never fails."""

    cdef Unit* unit(self) noexcept:
        if self._unit == NULL:
            self._unit = unit_of(self._units, self._key, False)
        return self._unit

    @property
    def samples(self):
        """Answers whose input was learned from, ever."""
        cdef Unit* unit = self.unit()
        return 0 if unit == NULL else sum([unit.samples[size] for size in range(CLASSES)])

    cpdef long long input_tokens(self, long long prompt_bytes, long long max_input=-1) noexcept:
        """Tokens of a prompt of so many bytes as written in JSON; errs upward, up to `max_input` (-1: unknown)."""
        cdef Unit* unit = self.unit()
        cdef long long size = min(max(prompt_bytes, 0), MOST_COUNT)
        cdef double ratio = FIRST_RATIO
        if unit != NULL:
            ratio = ratio_of(unit, class_of(size))
        cdef long long tokens = FRAME_TOKENS + <long long>ceil(ratio * size)
        return tokens if max_input < 0 else min(tokens, max_input)

    cpdef long long output_tokens(self, long long max_tokens, long long n, long long max_output) noexcept:
        """Tokens of the answer's `n` choices. -1: `max_tokens` not sent, `max_output` of the model unknown."""
        cdef long long tokens = max_tokens
        if max_tokens < 0:
            tokens = learned_output(self.unit())
        tokens = min(tokens, MOST_COUNT if max_output >= 0 else MOST_OUTPUT)
        if max_output >= 0:
            tokens = min(tokens, max_output)
        return min(tokens * min(max(n, 1), MOST_CHOICES), MOST_COUNT)

    cpdef int learn(self, prompt_bytes, input_tokens, output_tokens) except -1:
        """Takes in what a provider reported. Anything but a positive count tells nothing and is passed over."""
        cdef long long size = count_of(prompt_bytes)
        cdef long long tokens = count_of(input_tokens)
        cdef long long output = count_of(output_tokens)
        cdef bint is_input = 0 < tokens <= size * ABSURD_RATIO
        if self._unit == NULL:
            if not is_input and output == 0:
                return 0
            self._unit = unit_of(self._units, self._key, True)
        if is_input:
            learn_ratio(self._unit, class_of(size), <double>(tokens - FRAME_TOKENS) / size)
        if output > 0:
            learn_output(self._unit, output)
        return 0


cdef long long count_of(object value) noexcept:
    """0 where it is not an integer from 1 to MOST_COUNT."""
    cdef int overflow = 0
    cdef long long count
    if not PyLong_Check(value):
        return 0
    count = PyLong_AsLongLongAndOverflow(value, &overflow)
    return count if overflow == 0 and 0 < count <= MOST_COUNT else 0


# input

cdef inline int class_of(long long prompt_bytes) noexcept nogil:
    return (prompt_bytes >= 512) + (prompt_bytes >= 4096) + (prompt_bytes >= 32768)


cdef inline double ratio_of(const Unit* unit, int size) noexcept nogil:
    """Trusts no byte of the segment: what is out of range, NaN included, counts as not learned."""
    cdef double learned = unit.tokens_per_byte[size]
    if not LEAST_RATIO <= learned <= MOST_RATIO:
        return FIRST_RATIO
    return learned if unit.samples[size] >= SURE_SAMPLES else max(learned, FIRST_RATIO)


cdef void learn_ratio(Unit* unit, int size, double ratio) noexcept nogil:
    cdef int step
    unit.ratios[size][bin_of(ratio / LEAST_RATIO, RATIO_STEPS, RATIO_BINS)] += 1
    unit.samples[size] += 1
    if ratio > unit.tokens_per_byte[size] or unit.samples[size] % READ_SAMPLES == 0:
        step = high_quantile(unit.ratios[size], RATIO_BINS, RATIO_TAIL)
        unit.tokens_per_byte[size] = LEAST_RATIO * exp2(<double>(step + 1) / RATIO_STEPS)


# output

cdef long long learned_output(const Unit* unit) noexcept nogil:
    if unit == NULL or not 1 <= unit.output_tokens <= MOST_OUTPUT:
        return FIRST_OUTPUT
    cdef long long learned = <long long>unit.output_tokens
    return learned if unit.output_samples >= SURE_SAMPLES else max(learned, FIRST_OUTPUT)


cdef void learn_output(Unit* unit, long long tokens) noexcept nogil:
    cdef int step
    unit.outputs[bin_of(<double>tokens, OUTPUT_STEPS, OUTPUT_BINS)] += 1
    unit.output_samples += 1
    if tokens > unit.output_tokens or unit.output_samples % READ_SAMPLES == 0:
        step = high_quantile(unit.outputs, OUTPUT_BINS, OUTPUT_TAIL)
        unit.output_tokens = ceil(exp2(<double>(step + 1) / OUTPUT_STEPS))


# decaying histograms

cdef inline int bin_of(double value, int steps, int bins) noexcept nogil:
    """Of a histogram whose first bin begins at 1; what lies outside goes to the bin at that end."""
    if value <= 1.0:
        return 0
    return <int>min(log2(value) * steps, <double>(bins - 1))


cdef int high_quantile(uint32_t* counts, int bins, int tail) noexcept nogil:
    """The lowest bin above which at most 1/tail of the samples lie. Halves the counts when it is time."""
    cdef uint64_t total = sum_of(counts, bins), above
    cdef int at
    if total >= AGED_SAMPLES:
        for at in range(bins):
            counts[at] >>= 1
        total = sum_of(counts, bins)
    at = bins - 1
    above = counts[at]
    while at > 0 and above * tail <= total:
        at -= 1
        above += counts[at]
    return at


cdef inline uint64_t sum_of(const uint32_t* counts, int bins) noexcept nogil:
    cdef uint64_t total = 0
    cdef int at
    for at in range(bins):
        total += counts[at]
    return total
