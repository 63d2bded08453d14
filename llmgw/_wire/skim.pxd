cimport cython


@cython.final
cdef class Skim:
    cdef readonly str model                  # None: the body names none
    cdef readonly Py_ssize_t model_start     # the value's span with its quotes; -1: absent
    cdef readonly Py_ssize_t model_end
    cdef readonly bint stream
    cdef readonly int max_tokens             # the larger of it and max_completion_tokens; -1: absent
    cdef readonly int max_output_tokens      # what the Responses route calls it
    cdef readonly int n                      # the larger of `n` and `best_of`; 1: absent
    cdef readonly Py_ssize_t prompts         # that `prompt` is a list of; 1: it is one, or absent
    cdef readonly str user
    cdef readonly str user_id                # metadata.user_id, as Anthropic names the user
    cdef readonly bint is_user_id_odd        # it is there and cannot be taken for one
    cdef readonly bint is_background         # `background` is there, and neither false nor null
    cdef readonly bint include_usage
    cdef readonly Py_ssize_t stream_options_start    # the value's span; -1: absent
    cdef readonly Py_ssize_t stream_options_end
    cdef readonly Py_ssize_t close_at        # the root's closing brace
    cdef readonly bint is_empty              # a root without members
    cdef readonly Py_ssize_t prompt_bytes    # what the model reads, as written; an inline image as IMAGE_BYTES
    cdef bint options_are_null               # "stream_options": null
    cdef bint options_are_empty              # {}
    cdef Py_ssize_t usage_start              # the span of include_usage's value; -1: absent
    cdef Py_ssize_t usage_end


@cython.final
cdef class Answer:
    cdef readonly bytes usage                # the top level's `usage` object, as written
    cdef readonly bint is_json
    cdef readonly bint is_error              # a top-level `error` that is not null
    cdef readonly Py_ssize_t text_bytes      # what the model wrote, unescaped


cpdef Skim skim(bytes body)
cpdef list splice(bytes body, Skim facts, str model, bint force_usage)
cpdef Answer skim_answer(bytes body)
