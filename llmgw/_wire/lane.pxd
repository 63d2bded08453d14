from llmgw._wire.call cimport Call
from llmgw._wire.deadline cimport Wheel
from llmgw._wire.gate cimport Gate
from llmgw._wire.head cimport Head
from llmgw._wire.outlet cimport Outlet
from llmgw._wire.serving cimport Serving


cdef class Edge:
    cdef object serve            # coroutine function (Call, Outlet) -> None
    cdef object fail             # (Call, exception, Outlet) -> None: tells the client
    cdef object identify         # (Call) -> None: sets principal or fault
    cdef object general          # () -> the protocol of the general lane
    cdef dict routes             # path as bytes -> (Route, path as text)
    cdef object overloaded       # (number of a reason) -> the error of a request that the gate turns away
    cdef readonly Wheel wheel
    cdef readonly Gate gate
    cdef readonly set lanes      # open connections of the fast lane
    cdef public bint is_draining
    cdef public bint keeps_head  # a call gets its head's bytes: a strategy looks at a header
    cdef long long max_body_bytes
    cdef Py_ssize_t max_head_bytes
    cdef unsigned long long generation       # counts configurations
    cdef double header_s
    cdef double body_s
    cdef double send_s
    cdef double keep_alive_s
    cdef object scratch          # where the bytes of all lanes are read into, one after the other
    cdef bytes id_prefix         # of this process's request ids
    cdef unsigned long long id_count

    cdef Call new_call(self)
    cpdef str next_id(self)


cdef enum LaneState:
    READING_HEAD
    READING_BODY
    SERVING
    LINGERING                    # answered and closed for writing; what still comes in is dropped
    CLOSED                       # or handed over


cdef class FastLane(Outlet):
    cdef Edge edge
    cdef object transport
    cdef LaneState state
    cdef Call call
    cdef Serving serving
    # whom the last request was let in as; None: nobody
    cdef object principal
    cdef bytes credential        # with this key
    cdef str tenant_id
    cdef str key_name
    cdef unsigned long long generation       # under this configuration
    # the request
    cdef bytes pending           # bytes that belong to the next step, or None
    cdef bytes body              # of a request that comes in several pieces; its end is not written yet
    cdef Py_ssize_t body_missing_bytes
    cdef bint is_direct          # the bytes that come next are read straight into `body`
    cdef double head_since_s     # when the first byte of an unfinished head came; 0: none has
    cdef bint is_answered        # the answer is complete
    cdef bint is_chunked
    cdef bint is_closing         # after this answer
    cdef bint is_unread          # the request's body was not read to its end
    cdef bint is_taken_on        # the gate counts its request
    cdef bint is_advancing
    cdef bint is_paused

    cdef int advance(self) except -1
    cdef int read_request_head(self) except -1
    cdef int read_request_body(self) except -1
    cdef Call fill_call(self, bytes data, Head* head, tuple route)
    cdef int recognise(self, Call call) except -1
    cdef int remember(self, Call call) except -1
    cdef int expect_body(self, bytes data, Head* head) except -1
    cdef int take_on(self, long long body_bytes) except -1
    cdef void drop_body(self) noexcept
    cdef void let_go(self) noexcept
    cdef int start_serving(self) except -1
    cdef int start_serving_body(self) except -1
    cdef int refuse(self, object fault) except -1
    cdef int hand_over(self) except -1
    cdef int write_head(self, int status, bytes head, long long length, bytes body) except -1
    cdef int rest(self) except -1
    cdef int close_after_answer(self) except -1
