cimport cython

from llmgw._wire.buffer cimport Buffer


@cython.final
cdef class EventScanner:
    # facts
    cdef readonly bint is_terminal           # the terminal event was there, whole, or one of an error
    cdef readonly bytes error                # the data of the first event that tells of an error
    cdef readonly bytes usage                # the last usage object, as written
    cdef readonly bytes first_usage          # that of the message which an Anthropic stream begins with
    cdef readonly Py_ssize_t events          # with data, dropped ones too
    cdef readonly Py_ssize_t text_bytes      # what the model wrote, unescaped
    # what to do
    cdef bytes terminal_data                 # b"[DONE]" | None
    cdef frozenset terminal_types            # {b"response.completed", ...} | None
    cdef bint strip_usage
    cdef Py_ssize_t max_event_bytes
    # where the scan stands; offsets from the start of the window (see sse.pyx)
    cdef Buffer pending                      # the unfinished event
    cdef Py_ssize_t event_start
    cdef Py_ssize_t line_start
    cdef Py_ssize_t scanned                  # no line end in line_start..scanned
    cdef Py_ssize_t data_start               # the value of the event's first data line
    cdef Py_ssize_t data_end
    cdef int data_lines
    cdef Py_ssize_t type_start               # the value of its last event line
    cdef Py_ssize_t type_end
    cdef bint is_first_line                  # of the stream: a BOM may stand before it
    cdef bint is_after_cr                    # an LF that comes next belongs to the line end before it
    cdef bint is_last_dropped                # the event before this one did not go out
    cdef bint is_closing                     # in finish(): only a terminal event goes out
    cdef bint is_broken                      # a ScanError was raised
    # what goes out, where it is not the window as it stands
    cdef Buffer out
    cdef Py_ssize_t flushed                  # the window before this is in `out`, or dropped
    cdef bint is_edited

    cpdef bytes feed(self, bytes chunk)
    cpdef bytes finish(self)
