"""One connection to a provider and the exchange on it. HTTP is read by httptools.

    CONNECTING ─> IDLE ─ask─> ASKED ─first byte─> ANSWERING ─last byte─> ANSWERED ─rest─> IDLE
                    └──────── any byte, a deadline, the end of the connection ──────────> CLOSED

The asker is woken twice at most. First for the answer's beginning: its first whole event where it
streams; the whole body where it does not and is small; its first bytes where it is large. Then, where
it was relayed, for its end. In between, bytes go from one socket to the other in one call, and the
slower side sets the pace.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from llmgw import errors
from llmgw._wire.deadline cimport Wheel, monotonic_s
from llmgw._wire.outlet cimport Outlet
from llmgw._wire.serving cimport Signal
from llmgw._wire.sse cimport EventScanner

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char* one, const char* other, size_t size)

cdef extern from "<sys/socket.h>" nogil:
    enum: SHUT_RDWR
    int shutdown(int fd, int how)

# A JSON answer up to this size is held until it is whole, so that its usage and its errors are known
# before a byte goes out; a larger one, or another kind, flows through.
cdef Py_ssize_t HOLD_JSON_BYTES = 1 << 20
cdef Py_ssize_t HOLD_OTHER_BYTES = 16384
# Enough for the members that stand behind a long answer's data: OpenAI's embeddings end in `usage`.
cdef Py_ssize_t TAIL_BYTES = 4096
cdef Py_ssize_t HEADERS_MAX = 128
# Of a content-length: what 64 bits hold.
cdef Py_ssize_t LENGTH_MAX_DIGITS = 18
# Before the answer's head is complete, in more than one read.
cdef Py_ssize_t HEAD_MAX_BYTES = 65536
# The kernel takes so much of a request at once, whether or not the provider reads it.
cdef Py_ssize_t SENT_AT_ONCE_BYTES = 16384
# How long a provider may keep the connection open behind a stream's terminal event.
cdef double AFTER_TERMINAL_S = 1.0


cdef bint begins(bytes value, const char* word, size_t size) noexcept:
    """In upper or lower case."""
    return strncasecmp(PyBytes_AS_STRING(value), word, size) == 0


cdef long long length_of(bytes value) except -1:
    """A content-length, which whoever read the head has found to be one."""
    cdef const char* at = PyBytes_AS_STRING(value)
    cdef long long length = 0
    cdef Py_ssize_t index
    for index in range(PyBytes_GET_SIZE(value)):
        if not 48 <= at[index] <= 57 or index == LENGTH_MAX_DIGITS:
            return int(value)            # with space around it, or zeros before it
        length = length * 10 + (at[index] - 48)
    return length


cdef class Connection(Feeder):
    """`on_lost(connection)` is called when the connection has ended, for whatever reason."""

    def __cinit__(self, loop, Wheel wheel, on_lost):
        self.loop = loop
        self.wheel = wheel
        self.on_lost = on_lost
        self.signal = Signal()
        self.parser = HttpResponseParser(self)
        self.state = CONNECTING

    @property
    def is_open(self) -> bool:
        return self.state != CLOSED

    @property
    def is_idle(self) -> bool:
        return self.state == IDLE

    @property
    def has_begun(self) -> bool:
        """A byte of an answer came: the provider may have done the work."""
        return self.has_bytes

    @property
    def is_complete(self) -> bool:
        return self.is_whole

    @property
    def events(self) -> EventScanner | None:
        """The scanner, where the answer is an event stream that it reads."""
        return self.scanner

    @property
    def relayed_tail(self) -> bytes:
        return self.tail or b""

    # -- asyncio.Protocol

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.state = IDLE

    def data_received(self, bytes data) -> None:
        if self.state == IDLE or self.state == ANSWERED:
            # Bytes that nobody asked for must never be taken for the next answer.
            self.close()
            return
        if self.state == CLOSED:
            return
        self.state = ANSWERING
        self.has_bytes = True
        if not self.has_head:
            self.head_size += PyBytes_GET_SIZE(data)
            if self.head_size > HEAD_MAX_BYTES and self.head_size > PyBytes_GET_SIZE(data):
                self.break_off(errors.UpstreamBroken("The head of the provider's answer is too large."))
                return
        try:
            self.parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.break_off(errors.UpstreamBroken("The provider's answer is not valid HTTP."))
            return
        if self.error is not None:
            self.break_off(self.error)
        elif self.state == ANSWERING:
            if self.fresh or self.is_whole:
                self.head_size = 0
            elif self.has_head:
                # Trailers and chunk sizes, which bring nothing: as bounded as the head.
                self.head_size += PyBytes_GET_SIZE(data)
                if self.head_size > HEAD_MAX_BYTES:
                    self.break_off(errors.UpstreamBroken("The provider's trailers are too large."))
                    return
            self.on_pieces()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc) -> None:
        if self.state == ASKED or self.state == ANSWERING:
            if exc is None and self.has_head and self.ends_with_connection():
                self.is_whole = True
                self.is_reusable = False
                self.on_whole()
            else:
                self.break_off(errors.UpstreamBroken("The provider closed the connection before its answer was complete."))
        self.close()
        self.parser = self.transport = None
        on_lost = self.on_lost
        self.on_lost = None
        self.wake_writer()
        if on_lost is not None:
            on_lost(self)

    def pause_writing(self) -> None:
        self.is_write_paused = True

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self.wake_writer()

    # -- httptools' callbacks

    def on_message_begin(self) -> None:
        if self.is_whole:
            self.error = errors.UpstreamBroken("The provider sent more than one answer.")

    def on_header(self, bytes name, bytes value) -> None:
        if self.is_whole:
            return                   # of another answer: this one stays as it is
        self.headers.append((name.lower(), value))
        if len(self.headers) > HEADERS_MAX:
            self.error = errors.UpstreamBroken("The provider's answer has too many headers.")

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status >= 200 and not self.is_whole:
            self.read_headers(status)

    cdef int read_headers(self, int status) except -1:
        cdef bytes name, value
        self.status = status
        for name, value in self.headers:
            if name == b"content-type":
                self.content_type = value
            elif name == b"content-length":
                self.content_length = length_of(value)
        self.has_head = True
        self.is_events = begins(self.content_type, b"text/event-stream", 17)
        self.is_json = begins(self.content_type, b"application/json", 16)
        self.hold_bytes = HOLD_JSON_BYTES if self.is_json or self.status >= 400 else HOLD_OTHER_BYTES
        if not self.is_events or status >= 300:
            self.scanner = None
        return 0

    def on_body(self, bytes data) -> None:
        if not self.is_whole:
            self.fresh.append(data)

    def on_message_complete(self) -> None:
        if self.is_whole:
            return
        if not self.has_head:
            self.headers = []        # an interim answer (1xx); the real one follows
            return
        self.is_whole = True
        self.is_reusable = self.parser.should_keep_alive()

    # -- for a connection whose HTTP somebody else reads

    def take_head(self, int status, list headers) -> None:
        self.state = ANSWERING
        self.has_bytes = True
        self.headers = [(name.lower(), value) for name, value in headers]
        self.read_headers(status)

    def take_piece(self, bytes data) -> None:
        self.fresh.append(data)
        if self.state == ANSWERING:
            self.on_pieces()

    def take_end(self) -> None:
        self.is_whole = True
        if self.state == ANSWERING:
            self.on_pieces()

    def fail(self, error) -> None:
        if self.state == ASKED or self.state == ANSWERING:
            self.break_off(error)

    # -- asking

    cpdef Signal ask(self, bytes head, list body, EventScanner scanner, double first_byte_s, double idle_s, double total_at_s):
        """Sends a request; the signal comes with the answer's beginning, or raises an UpstreamError.

        `scanner` reads the answer where it is an event stream. Seconds; `total_at_s` on the monotonic clock.
        """
        if self.state == CLOSED:         # lost between the connect and now
            self.signal = Signal()
            self.signal.fail(errors.UpstreamBroken("The provider closed the connection at once."))
            return self.signal
        self.state = ASKED
        self.asked += 1
        self.scanner = scanner
        self.first_byte_s = first_byte_s
        self.idle_s = idle_s
        self.total_at_s = total_at_s
        self.status = 0
        self.headers = []
        self.content_type = b""
        self.content_length = -1
        self.answered_s = 0.0
        self.error = None
        self.held = []
        self.fresh = []
        self.held_size = 0
        self.head_size = 0
        self.tail = None
        self.relayed_bytes = 0
        self.is_unfinished = self.is_late = False
        self.has_bytes = self.has_head = self.is_whole = self.is_ready = self.is_reusable = self.is_events = False
        self.outlet = None
        self.is_feed_paused = False
        self.progress = NULL
        self.signal = Signal()
        self.arm(first_byte_s)
        self.send(head, body)
        return self.signal

    cpdef int send(self, bytes head, list body) except -1:
        cdef Py_ssize_t size = 0
        for piece in body:
            size += len(piece)
        self.is_long = size > SENT_AT_ONCE_BYTES
        if size <= 65536:
            self.transport.write(b"".join([head, *body]))
        else:
            self.transport.writelines([head, *body])
        return 0

    async def write_more(self, data) -> None:
        """A further piece of a request's body that is streamed; waits while the provider is slow."""
        if self.state == CLOSED:
            return
        self.is_long = True
        self.transport.write(data)
        self.arm(self.first_byte_s)
        if self.is_write_paused:
            self.drained = self.loop.create_future()
            await self.drained

    def must_close(self) -> None:
        """Not all of the request was sent, so no other one may follow it."""
        self.is_unfinished = True
        if self.state == ANSWERED:
            self.close()

    cdef bint is_unsent(self) except -1:
        """The answer came before all of the request went out: whoever came next would wait behind the rest."""
        return self.is_long and self.transport.get_write_buffer_size() > 0

    cdef int wake_writer(self) except -1:
        drained = self.drained
        self.drained = None
        if drained is not None and not drained.done():
            drained.set_result(None)
        return 0

    cpdef Signal relay(self, Outlet outlet):
        """From here on the answer flows into `outlet`, first what was held of it; the signal comes with its end,
        or raises."""
        cdef bytes held = self.take_held()
        self.outlet = outlet
        outlet.feeder = self
        self.signal = Signal()
        if held:
            self.relay_pieces(held)
        if self.error is not None:
            self.leave_outlet()
            self.signal.fail(self.error)
        elif self.is_whole:
            self.leave_outlet()
            self.signal.wake()
        elif outlet.is_slow:
            self.pause_feed()
        else:
            self.resume_feed()
        return self.signal

    def tell_progress(self, long long address):
        """Of a 64-bit number that is to hold how many bytes of text have gone on; 0: none any more."""
        self.progress = <long long*><size_t>address

    cpdef bytes take_held(self):
        """What came of the body so far and was not handed on."""
        held = self.held[0] if len(self.held) == 1 else b"".join(self.held)
        self.held = []
        self.held_size = 0
        return held

    def peek_held(self) -> bytes:
        """The same, which stays."""
        if len(self.held) > 1:
            self.held = [b"".join(self.held)]
        return self.held[0] if self.held else b""

    # -- answering

    cdef int on_pieces(self) except -1:
        cdef bytes data
        fresh = self.fresh
        if fresh:
            self.fresh = []
            data = fresh[0] if len(fresh) == 1 else b"".join(fresh)
            if self.scanner is not None:
                try:
                    data = self.scanner.feed(data)
                except ValueError:
                    return self.break_off(errors.UpstreamBroken("The provider's stream cannot be read."))
            if self.scanner is None or self.scanner.events or self.is_ready:
                # Comments are signs of life, but no beginning: `first_byte_s` runs on under them.
                if self.answered_s == 0.0:
                    self.answered_s = monotonic_s()
                if not self.is_feed_paused:
                    self.arm(self.idle_s)
            if self.outlet is not None:
                self.relay_pieces(data)
            else:
                self.hold(data)
        if self.is_whole:
            return self.on_whole()
        if self.scanner is not None and self.scanner.is_terminal:
            self.arm(AFTER_TERMINAL_S)
        return 0

    cdef int relay_pieces(self, bytes data) except -1:
        if self.scanner is None:
            self.relayed_bytes += PyBytes_GET_SIZE(data)
            self.tail = ((self.tail or b"") + data)[-TAIL_BYTES:]
        if self.progress != NULL:
            self.progress[0] = self.scanner.text_bytes if self.scanner is not None else self.relayed_bytes
        self.outlet.write(data)
        return 0

    cdef int hold(self, bytes data) except -1:
        if data:
            self.held.append(data)
            self.held_size += PyBytes_GET_SIZE(data)
        if self.scanner is not None:
            if self.scanner.events or self.held_size > HOLD_JSON_BYTES:
                return self.ready()
        elif self.is_events or self.held_size > self.hold_bytes:
            return self.ready()
        return 0

    cdef int ready(self) except -1:
        """Wakes the asker for the beginning. Until it relays, nothing more is read than came already."""
        if self.is_ready:
            return 0
        self.is_ready = True
        if self.is_whole:
            return 0                 # `on_whole` wakes
        self.signal.wake()
        if self.outlet is None and self.state == ANSWERING and not self.is_whole:
            self.pause_feed()
        return 0

    cdef int on_whole(self) except -1:
        """The exchange is over. The connection is at rest before the asker, who may use it again, goes on."""
        cdef Signal signal = self.signal
        if self.scanner is not None:
            data = self.scanner.finish()
            if data:
                if self.outlet is not None:
                    self.outlet.write(data)
                else:
                    self.held.append(data)
        self.leave_outlet()
        if self.is_feed_paused:
            self.is_feed_paused = False
            self.transport.resume_reading()
        self.deadline_s = 0.0
        if self.is_reusable and not self.is_unfinished and self.transport is not None and not self.is_unsent():
            self.state = ANSWERED
        else:
            self.close()
        self.is_ready = True
        self.wake_writer()
        return signal.wake()

    cdef int break_off(self, object error) except -1:
        cdef Signal signal = self.signal
        self.error = error
        # Behind the terminal event nothing is missing, however the connection ends.
        is_over = self.scanner is not None and self.scanner.is_terminal
        self.leave_outlet()
        self.close()
        self.wake_writer()
        if is_over:
            self.error = None
            self.is_whole = True
            return signal.wake()
        return signal.fail(error)

    cdef int leave_outlet(self) except -1:
        if self.outlet is not None:
            self.outlet.feeder = None
            self.outlet = None
        return 0

    cdef bint ends_with_connection(self) except -1:
        """An answer with neither a length nor chunks is complete when the connection ends (RFC 9112 6.3)."""
        if self.content_length >= 0:
            return False
        for name, _ in self.headers:
            if name == b"transfer-encoding":
                return False
        return True

    def rest(self) -> bool:
        """To be used again, after an exchange; False where it cannot, and is closed.

        What is to be charged for an answer that flowed through may be read until the next one is asked for.
        """
        if self.state != ANSWERED:
            self.close()
            return False
        self.state = IDLE
        self.scanner = None
        self.headers = []
        self.held = []
        return True

    def rest_until(self, double deadline_s) -> None:
        (<Wheel>self.wheel).watch(self, deadline_s)

    def close(self) -> None:
        """At once. What was being answered is broken off by whoever closes."""
        cdef LinkState before = self.state
        if before == CLOSED:
            return
        self.state = CLOSED
        (<Wheel>self.wheel).forget(self)
        if self.transport is not None:
            if before == ASKED or before == ANSWERING:
                self.hang_up()
            self.transport.abort()

    cdef int hang_up(self) except -1:
        """Tells the provider now: the loop closes the socket with its next turn, and by then the place of what
        was broken off may be another request's, so that the provider would count one too many."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            shutdown(sock.fileno(), SHUT_RDWR)
        return 0

    # -- deadlines and pace

    cdef int arm(self, double seconds) except -1:
        cdef double deadline_s = monotonic_s() + seconds
        if deadline_s > self.total_at_s:
            deadline_s = self.total_at_s
        (<Wheel>self.wheel).watch(self, deadline_s)
        return 0

    cdef int on_deadline(self) except -1:
        if self.state == ASKED or self.state == ANSWERING:
            self.is_late = True
            self.break_off(errors.UpstreamTimeout("The provider did not answer in time."))
        else:
            self.close()
        return 0

    cdef int pause_feed(self) except -1:
        """While the client is slow, the provider's silence is our doing: only `total` counts."""
        if not self.is_feed_paused and self.state == ANSWERING:
            self.is_feed_paused = True
            self.transport.pause_reading()
            (<Wheel>self.wheel).watch(self, self.total_at_s)
        return 0

    cdef int resume_feed(self) except -1:
        if self.is_feed_paused and self.state == ANSWERING:
            self.is_feed_paused = False
            self.transport.resume_reading()
            is_over = self.scanner is not None and self.scanner.is_terminal
            self.arm(AFTER_TERMINAL_S if is_over else self.idle_s)
        return 0
