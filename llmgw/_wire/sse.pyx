"""The event-stream scanner: whole events go on, and what they say is noted on the way.

A provider's stream arrives cut anywhere. `feed` returns the bytes that may go to the client now:
events up to and with their blank line, never a part of one, so that an error event of our own
can always follow. Lines are split as WHATWG's HTML standard says (section 9.2.6: LF, CRLF and CR,
mixed; a BOM in front; comments; several data lines). A chunk that is whole events and needs no
change comes back as the very same object. After the terminal event nothing more goes out.

The scan runs over a *window*: the chunk itself, or, where an event is unfinished, the pending
bytes with the chunk behind them. All offsets count from the window's start, and each byte is
looked at once, however small the chunks are.
"""

cimport cython

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcmp

from llmgw._wire.buffer cimport Buffer, buffer_append, buffer_drop, buffer_free
from llmgw._wire.event cimport Event, Span, read_event


cdef extern from "_scan.h":
    const unsigned char* find_line_end(const unsigned char* at, const unsigned char* end) noexcept nogil


class ScanError(ValueError):
    """The upstream's stream is one that must not be held in memory."""


@cython.final
cdef class EventScanner:
    """One stream's scanner.

    `terminal`: the data of the terminal event (b"[DONE]"), or the types of which an event of any
    ends the stream, or None where nothing is known of its end. Where it is known, an event that tells
    of an error is an end, too. `strip_usage`: usage was asked for
    by us and not by the client, so the chunk that only brings it is dropped (`"choices":[]` and a
    usage object) and `"usage":null` is cut from the others. An event above `max_event_bytes`
    raises ScanError from then on.
    """

    def __cinit__(self, terminal=None, bint strip_usage=False, Py_ssize_t max_event_bytes=1 << 20):
        if isinstance(terminal, bytes):
            self.terminal_data = terminal
        elif terminal is not None:
            self.terminal_types = frozenset(terminal)
        self.strip_usage = strip_usage
        self.max_event_bytes = max_event_bytes
        self.is_first_line = True
        self.type_start = -1

    def __dealloc__(self):
        buffer_free(&self.pending)
        buffer_free(&self.out)

    @property
    def is_final(self):
        """It ended as its protocol has it; for a typed stream, an error's event is such an end."""
        return self.is_terminal and (self.error is None or self.terminal_types is not None)

    @property
    def pending_bytes(self):
        """Bytes of an unfinished event that wait for the rest of it."""
        return self.pending.size

    cpdef bytes feed(self, bytes chunk):
        """The bytes that may go to the client now that `chunk` has come."""
        cdef Py_ssize_t size = len(chunk)        # first: it refuses None
        cdef const unsigned char* window = <const unsigned char*>PyBytes_AS_STRING(chunk)
        if self.is_broken:
            raise ScanError("the stream is broken")
        if self.pending.size:
            buffer_append(&self.pending, window, size)
            window, size = self.pending.data, self.pending.size
        if self.is_after_cr and self.line_start < size:
            end_cr_line(self, window)
        if not self.is_terminal:
            scan(self, window, size)
        return take_output(self, chunk, window, size)

    cpdef bytes finish(self):
        """The upstream's body has ended. What is unfinished stays here, unless it is the terminal
        event and lacks but the blank line, which some providers leave out."""
        if self.is_terminal or not self.pending.size:
            return b""
        self.is_closing = True
        return self.feed(b"\n\n")


# lines

cdef int scan(EventScanner s, const unsigned char* window, Py_ssize_t size) except -1:
    """Reads the lines that are complete, up to the terminal event."""
    cdef Py_ssize_t stop, next_line
    while not s.is_terminal:
        stop = find_line_end(window + s.scanned, window + size) - window
        s.scanned = stop
        if stop == size:
            break
        next_line = stop + 1
        if window[stop] == c'\r':
            s.is_after_cr = next_line == size
            if next_line < size and window[next_line] == c'\n':
                next_line += 1
        end_line(s, window, stop, next_line)
        s.line_start = s.scanned = next_line
    return 0


cdef int end_cr_line(EventScanner s, const unsigned char* window) except -1:
    """A CR was the last byte so far; an LF that follows is of the same line end."""
    s.is_after_cr = False
    if window[s.line_start] != c'\n':
        return 0
    s.line_start += 1
    s.scanned = s.line_start
    if s.line_start == 1:                # it follows a whole event, and goes where that went
        s.event_start = 1
        if s.is_last_dropped:
            s.flushed, s.is_edited = 1, True
    return 0


cdef int end_line(
    EventScanner s, const unsigned char* window, Py_ssize_t stop, Py_ssize_t next_line
) except -1:
    cdef Py_ssize_t start = s.line_start
    if s.is_first_line:
        s.is_first_line = False
        if stop - start >= 3 and memcmp(window + start, b"\xef\xbb\xbf", 3) == 0:
            start += 3
            s.event_start = start        # it goes on, but belongs to no event
    if start < stop:
        read_line(s, window, start, stop)
    else:
        end_event(s, window, stop, next_line)
    return 0


cdef void read_line(EventScanner s, const unsigned char* window, Py_ssize_t start, Py_ssize_t stop) noexcept:
    cdef Py_ssize_t value = value_offset(window + start, stop - start, b"data", 4)
    if value >= 0:
        s.data_lines += 1
        if s.data_lines == 1:
            s.data_start, s.data_end = start + value, stop
        return
    value = value_offset(window + start, stop - start, b"event", 5)
    if value >= 0:
        s.type_start, s.type_end = start + value, stop


cdef Py_ssize_t value_offset(
    const unsigned char* line, Py_ssize_t size, const char* name, Py_ssize_t name_bytes
) noexcept:
    """Where the value of the field `name` starts in the line; -1 where it is another's line."""
    if size < name_bytes or memcmp(line, name, name_bytes) != 0:
        return -1
    if size == name_bytes:
        return size
    if line[name_bytes] != c':':
        return -1
    return name_bytes + (2 if size > name_bytes + 1 and line[name_bytes + 1] == c' ' else 1)


# events

cdef int end_event(
    EventScanner s, const unsigned char* window, Py_ssize_t stop, Py_ssize_t next_line
) except -1:
    """A blank line ends at `stop`; the line behind it starts at `next_line`."""
    check_size(s, stop - s.event_start)
    s.is_last_dropped = False
    if s.data_lines:
        read_data(s, window, next_line)
    if s.is_closing and not s.is_terminal:
        drop(s, window, next_line)
    s.event_start = next_line
    s.data_lines = 0
    s.type_start = -1
    return 0


cdef int check_size(EventScanner s, Py_ssize_t size) except -1:
    if size > s.max_event_bytes:
        s.is_broken = True
        raise ScanError(f"an event of more than {s.max_event_bytes} bytes")
    return 0


cdef int read_data(EventScanner s, const unsigned char* window, Py_ssize_t next_line) except -1:
    cdef const unsigned char* data = window + s.data_start
    cdef Py_ssize_t size = s.data_end - s.data_start
    cdef bytes joined = None
    cdef Event event
    s.events += 1
    if s.data_lines > 1:
        joined = b"\n".join(data_values(<bytes>window[s.event_start:next_line]))
        data, size = <const unsigned char*>PyBytes_AS_STRING(joined), len(joined)
    if s.terminal_data is not None and is_bytes(data, size, s.terminal_data):
        s.is_terminal = True
        return 0
    read_event(data, size, s.terminal_types is not None, &event)
    note_facts(s, window, data, size, &event)
    if s.strip_usage and not s.is_closing and event.usage.start != NULL:
        if event.has_no_choices and event.usage.start[0] == c'{' and not s.is_terminal:
            drop(s, window, next_line)
        elif event.usages == 1 and event.usage.start[0] == c'n':
            cut(s, window, next_line, joined, &event.usage_member)
    return 0


cdef int note_facts(
    EventScanner s, const unsigned char* window, const unsigned char* data, Py_ssize_t size,
    const Event* event,
) except -1:
    cdef Py_ssize_t type_size = s.type_end - s.type_start if s.type_start >= 0 else 0
    cdef bytes line_type = <bytes>window[s.type_start:s.type_end] if type_size else b""
    cdef bytes json_type
    cdef bint is_error
    s.text_bytes += event.text_bytes
    note_usage(s, &event.usage)
    json_type = <bytes>event.type.start[:event.type.raw_bytes] if event.type.raw_bytes else b""
    is_error = event.is_error or line_type == b"error" or json_type == b"error"
    if s.terminal_types is not None:
        if line_type in s.terminal_types or json_type in s.terminal_types:
            s.is_terminal = True
            note_usage(s, &event.response_usage)
            is_error = is_error or line_type == b"response.failed" or json_type == b"response.failed"
        if event.message_usage.start != NULL and event.message_usage.start[0] == c'{':
            s.first_usage = span_bytes(&event.message_usage)
    if is_error and s.error is None:
        s.error = <bytes>data[:size]
        if s.terminal_types is not None or s.terminal_data is not None:
            s.is_terminal = True
    return 0


cdef int note_usage(EventScanner s, const Span* usage) except -1:
    if usage.start != NULL and usage.start[0] == c'{':
        s.usage = span_bytes(usage)
    return 0


cdef inline bytes span_bytes(const Span* span):
    return <bytes>span.start[:span.end - span.start]


cdef inline bint is_bytes(const unsigned char* text, Py_ssize_t size, bytes other) noexcept:
    return size == len(other) and memcmp(text, PyBytes_AS_STRING(other), size) == 0


cdef list data_values(bytes event):
    """The values of the event's data lines."""
    values = []
    for line in event.splitlines():
        value = value_offset(line, len(line), b"data", 4)
        if value >= 0:
            values.append(line[value:])
    return values


# what goes out

cdef int flush(EventScanner s, const unsigned char* window, Py_ssize_t until) except -1:
    """From here on the output is not the window as it stands."""
    buffer_append(&s.out, window + s.flushed, until - s.flushed)
    s.flushed = until
    s.is_edited = True
    return 0


cdef int drop(EventScanner s, const unsigned char* window, Py_ssize_t next_line) except -1:
    """The event's bytes, up to `next_line`, do not go out."""
    flush(s, window, s.event_start)
    s.flushed = next_line
    s.is_last_dropped = True
    return 0


cdef int cut(
    EventScanner s, const unsigned char* window, Py_ssize_t next_line, bytes joined, const Span* member
) except -1:
    """The event goes out without `member` of its data; `joined`: the data, of several lines."""
    if joined is None:
        flush(s, window, member.start - window)
        s.flushed = member.end - window
        return 0
    text = <const unsigned char*>PyBytes_AS_STRING(joined)
    left = joined[:member.start - text] + joined[member.end - text:]
    event = with_data(<bytes>window[s.event_start:next_line], left)
    flush(s, window, s.event_start)
    buffer_append(&s.out, PyBytes_AS_STRING(event), len(event))
    s.flushed = next_line
    return 0


cdef bytes with_data(bytes event, bytes data):
    """The event with `data` in the place of its first data line, and without the others."""
    lines = []
    for line in event.splitlines(keepends=True):
        content = line.rstrip(b"\r\n")
        if value_offset(content, len(content), b"data", 4) < 0:
            lines.append(line)
        elif data is not None:
            lines += [b"data: " + value + line[len(content):] for value in data.split(b"\n")]
            data = None
    return b"".join(lines)


cdef bytes take_output(EventScanner s, bytes chunk, const unsigned char* window, Py_ssize_t size):
    """What was released of the window; the rest becomes pending, or is cut off behind the end."""
    cdef bytes output
    if s.is_edited:
        flush(s, window, s.event_start)
        output = PyBytes_FromStringAndSize(<char*>s.out.data, s.out.size)
        buffer_drop(&s.out, s.out.size)
        s.is_edited = False
    elif s.event_start == len(chunk) and not s.pending.size:
        output = chunk
    else:
        output = PyBytes_FromStringAndSize(<const char*>window, s.event_start)
    keep_tail(s, window, size)
    return output


cdef int keep_tail(EventScanner s, const unsigned char* window, Py_ssize_t size) except -1:
    """Makes the unfinished event's start the window's."""
    cdef Py_ssize_t released = s.event_start
    if s.pending.size:
        buffer_drop(&s.pending, size if s.is_terminal else released)
    elif not s.is_terminal and released < size:
        buffer_append(&s.pending, window + released, size - released)
    s.line_start -= released
    s.scanned -= released
    s.data_start -= released
    s.data_end -= released
    if s.type_start >= 0:
        s.type_start -= released
        s.type_end -= released
    s.event_start = s.flushed = 0
    return check_size(s, s.pending.size)
