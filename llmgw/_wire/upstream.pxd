from llmgw._wire.outlet cimport Feeder, Outlet
from llmgw._wire.serving cimport Signal
from llmgw._wire.sse cimport EventScanner


cdef enum LinkState:
    CONNECTING
    IDLE
    ASKED                        # the request is out, no byte of an answer yet
    ANSWERING                    # a byte of the answer came
    ANSWERED                     # the answer is whole; the connection may be used again
    CLOSED


cdef class Connection(Feeder):
    cdef readonly LinkState state
    cdef readonly object transport
    cdef object wheel
    cdef object loop
    cdef object parser
    cdef object on_lost          # called once with this connection when it is lost, or None
    cdef readonly int asked      # requests sent on it
    cdef bint is_write_paused
    cdef object drained          # a Future while a writer waits, or None
    # the exchange
    cdef Signal signal
    cdef EventScanner scanner    # of the answer's events, or None
    cdef double first_byte_s     # deadline in seconds from sending to the answer's first body byte
    cdef double idle_s           # between two pieces of the answer
    cdef double total_at_s       # when all must be over
    cdef Py_ssize_t hold_bytes   # the answer is held back to be seen whole up to this size
    # its answer
    cdef readonly int status
    cdef readonly list headers   # of (name in lower case, value)
    cdef readonly bytes content_type
    cdef readonly long long content_length   # -1: not told
    cdef readonly bint is_events
    cdef readonly bint is_json
    cdef readonly double answered_s          # monotonic, first byte of the body; 0: none yet
    cdef readonly object error               # what broke the exchange, or None
    cdef list held               # pieces not handed on yet
    cdef Py_ssize_t held_size
    cdef list fresh              # pieces of the bytes that are being read just now
    cdef Py_ssize_t head_size    # bytes read before the head was complete
    cdef bint has_bytes          # any byte of an answer came
    cdef bint has_head
    cdef bint is_whole           # the answer's end came
    cdef bint is_ready           # the asker was woken for the answer's beginning
    cdef bint is_reusable
    cdef bint is_long            # a part of the request may still wait to be sent
    cdef bint is_unfinished      # the request was not sent to its end
    cdef readonly bint is_late   # a deadline passed
    cdef readonly long long relayed_bytes    # of an answer without events
    cdef bytes tail              # the last bytes relayed of an answer without events
    # where it goes on to
    cdef Outlet outlet
    cdef bint is_feed_paused
    cdef long long* progress     # where to note how much text has gone on; NULL: nowhere

    cpdef Signal ask(self, bytes head, list body, EventScanner scanner, double first_byte_s, double idle_s, double total_at_s)
    cpdef int send(self, bytes head, list body) except -1
    cpdef Signal relay(self, Outlet outlet)
    cpdef bytes take_held(self)
    cdef int read_headers(self, int status) except -1
    cdef bint is_unsent(self) except -1
    cdef int wake_writer(self) except -1
    cdef int leave_outlet(self) except -1
    cdef bint ends_with_connection(self) except -1
    cdef int on_pieces(self) except -1
    cdef int relay_pieces(self, bytes data) except -1
    cdef int hold(self, bytes data) except -1
    cdef int ready(self) except -1
    cdef int on_whole(self) except -1
    cdef int break_off(self, object error) except -1
    cdef int hang_up(self) except -1
    cdef int arm(self, double seconds) except -1
