# The types that reply.py is compiled with.

from llmgw._core.ask cimport Ask, Attempt
from llmgw._wire.call cimport Call
from llmgw._wire.skim cimport Answer, Skim, skim_answer
from llmgw._wire.sse cimport EventScanner
from llmgw._wire.upstream cimport Connection
from llmgw._wire.usage cimport Usage, completed_usage, estimated_usage, reported_usage
from llmgw.upstream.provider cimport Upstream


cdef class Reply:
    cdef readonly Answer answer
    cdef readonly Attempt attempt
    cdef readonly bytes body
    cdef readonly Connection connection
    cdef readonly EventScanner scanner
    cdef readonly Upstream upstream

    cpdef Usage usage(self, Skim facts, Call call)
    cpdef bint costs_tokens(self, Call call)
    cpdef bint is_charged_by_text(self, Call call)


cdef judge_json(Answer answer)
