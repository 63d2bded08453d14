cimport cython


@cython.final
cdef class Usage:
    cdef readonly long long input_tokens
    cdef readonly long long output_tokens
    cdef readonly long long cached_tokens    # part of `input_tokens`
    cdef readonly bint is_estimated          # counted from what was relayed; else the provider told it


cdef Usage new_usage(long long input_tokens, long long output_tokens, long long cached_tokens, bint is_estimated)
