# The types that gateway.py is compiled with; without this file it runs as it stands, and slower.

from llmgw._core.ask cimport Ask, Attempt, Books, Permit
from llmgw._wire.call cimport Call
from llmgw._wire.outlet cimport Outlet
from llmgw._wire.skim cimport Skim, skim
from llmgw.upstream.heads cimport reply_head
from llmgw.upstream.provider cimport Upstream
from llmgw.upstream.reply cimport Reply


cdef class Gateway:
    cdef readonly object config, metrics, write_log, recent, catalog, admission, failover, hedging, mirrors
    cdef readonly object resources, limiter, board, keyring
    cdef readonly Books books
    cdef readonly dict permitted, upstreams

    cpdef identify(self, Call call)
    cpdef identified(self, Call call)
    cpdef Permit permit(self, principal, Call call)
    cpdef remember(self, Call call, Permit permit, answer=*)


cpdef Skim read(Call call)
cdef bytes limits_met(Call call, answer)
