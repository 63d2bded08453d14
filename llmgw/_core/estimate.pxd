cimport cython
from libc.stdint cimport uint32_t, uint64_t

from llmgw._core.segment cimport Segment

cdef enum:
    CLASSES = 4                     # of prompts, by their size
    RATIO_BINS = 60
    OUTPUT_BINS = 80


cdef struct Unit:                   # other fields: another version of the region, in `segment.wanted`
    uint64_t key                    # digest of the model's name; 0: free
    uint64_t samples[CLASSES]       # ever learned from
    uint64_t output_samples
    double tokens_per_byte[CLASSES]         # the high quantile of `ratios`; 0: none yet
    double output_tokens            # the high quantile of `outputs`; 0: none yet
    uint32_t ratios[CLASSES][RATIO_BINS]    # samples, decaying
    uint32_t outputs[OUTPUT_BINS]           # samples, decaying


@cython.final
cdef class Estimator:
    cdef Segment _segment           # keeps the mapping
    cdef Unit* _units
    cdef dict _handles

    cpdef ModelEstimate find(self, str model)


@cython.final
cdef class ModelEstimate:
    cdef Segment _segment           # keeps the mapping
    cdef Unit* _units
    cdef uint64_t _key
    cdef Unit* _unit                # NULL: nobody has learned anything of this model

    cdef Unit* unit(self) noexcept
    cpdef long long input_tokens(self, long long prompt_bytes, long long max_input=*) noexcept
    cpdef long long output_tokens(self, long long max_tokens, long long n, long long max_output) noexcept
    cpdef int learn(self, prompt_bytes, input_tokens, output_tokens) except -1
