cimport cython


@cython.final
cdef class Usage:
    cdef readonly long long input_tokens
    cdef readonly long long output_tokens
    cdef readonly long long cached_tokens    # part of `input_tokens`
    cdef readonly bint is_estimated          # counted from what was relayed; else the provider told it


cpdef Usage estimated_usage(Py_ssize_t prompt_bytes, Py_ssize_t text_bytes)
cpdef Usage completed_usage(Usage reported, Py_ssize_t prompt_bytes, Py_ssize_t text_bytes)
cpdef Usage reported_usage(bytes raw, bytes first=*)
