"""The fast lane: one client connection, as long as it sends what SDKs send.

    READING_HEAD ─plain, body whole─> SERVING ─answered─> READING_HEAD
         │  └──plain, body to come──> READING_BODY ─whole─> SERVING
         │                                 └─too slow──> SERVING (a refusal)
         ├──not plain, between requests─> handed over to the general lane, for good
         └──too slow, too large─────────> SERVING (a refusal) ─answered─> LINGERING ─> CLOSED

It never guesses: `head.pyx` says what is plain. A request that comes while another one is served waits
in the buffer, and the client is not read from beyond that.
"""

import os
from time import time

from cpython.buffer cimport PyBUF_WRITE
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.string cimport memcpy

from http import HTTPStatus

from llmgw import errors
from llmgw._wire.call cimport Call
from llmgw._wire.deadline cimport Wheel, monotonic_s
from llmgw._wire.gate cimport Gate
from llmgw._wire.head cimport INCOMPLETE, NOT_PLAIN, Head, Span, Verdict, read_head
from llmgw._wire.serving cimport Serving
from llmgw._wire.text cimport put, put_unsigned

cdef double LINGER_S = 5.0
# One read of a socket; what is longer comes in several.
cdef Py_ssize_t SCRATCH_BYTES = 65536
# What a client may send ahead while its request is served; beyond that it is not read from.
cdef Py_ssize_t AHEAD_BYTES = 65536

cdef enum:
    ID_MAX_BYTES = 64
    KEY_MAX_BYTES = 256
    FRAMING_MAX_BYTES = 256        # of the lines that `write_head` adds

cdef dict STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}


cdef bytes status_line(int status):
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status


cdef inline bytes part(bytes data, Py_ssize_t start, Py_ssize_t size):
    """Slicing by Python's protocol costs five times as much."""
    return PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + start, size)


cdef bytes cut_out(bytes data, Span span):
    return None if span.length < 0 else part(data, span.start, span.length)


cdef bint is_same(bytes known, bytes given) noexcept:
    """In a time that does not tell how far they agree: behind a proxy, others may use our connection."""
    cdef unsigned char differs = 0
    cdef Py_ssize_t index
    if given is None or PyBytes_GET_SIZE(known) != PyBytes_GET_SIZE(given):
        return False
    for index in range(PyBytes_GET_SIZE(given)):
        differs |= <unsigned char>PyBytes_AS_STRING(known)[index] ^ <unsigned char>PyBytes_AS_STRING(given)[index]
    return differs == 0


cdef bytes joined(bytes line, bytes head, const char* framing, Py_ssize_t framing_size, bytes body):
    """An answer's pieces in one allocation."""
    cdef Py_ssize_t line_size = len(line), head_size = len(head), body_size = len(body)
    whole = PyBytes_FromStringAndSize(NULL, line_size + head_size + framing_size + body_size)
    cdef char* to = PyBytes_AS_STRING(whole)
    memcpy(to, PyBytes_AS_STRING(line), line_size)
    memcpy(to + line_size, PyBytes_AS_STRING(head), head_size)
    memcpy(to + line_size + head_size, framing, framing_size)
    memcpy(to + line_size + head_size + framing_size, PyBytes_AS_STRING(body), body_size)
    return whole


cdef bytes frame_chunk(bytes data):
    """One chunk of RFC 9112 7.1, in one allocation."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef char digits[16]
    cdef int used = 0
    cdef Py_ssize_t rest = size
    while rest:
        digits[15 - used] = b"0123456789abcdef"[rest & 15]
        used += 1
        rest >>= 4
    chunk = PyBytes_FromStringAndSize(NULL, used + size + 4)
    cdef char* out = PyBytes_AS_STRING(chunk)
    memcpy(out, &digits[16 - used], used)
    memcpy(out + used, b"\r\n", 2)
    memcpy(out + used + 2, PyBytes_AS_STRING(data), size)
    memcpy(out + used + 2 + size, b"\r\n", 2)
    return chunk


cdef class Edge:
    """What all connections of a listener share.

    serve: coroutine function (Call, Outlet); fail: (Call, exception, Outlet), tells the client; identify: (Call), sets `principal` or `fault`;
    general: makes the protocol that takes over what is not plain; routes: {path: Route}; overloaded: (reason), makes
    the error of what the gate turns away.
    """

    def __init__(self, serve, fail, identify, general, routes, wheel, gate=None, overloaded=None):
        self.serve = serve
        self.fail = fail
        self.identify = identify
        self.general = general
        self.routes = {path.encode(): (route, path) for path, route in routes.items()}
        self.wheel = wheel
        self.gate = gate if gate is not None else Gate()
        self.overloaded = overloaded
        self.lanes = set()
        self.scratch = bytearray(SCRATCH_BYTES)
        self.id_prefix = b"req_" + os.urandom(8).hex().encode()

    def configure(self, server) -> None:
        """Another configuration, with these limits (`config.Server`); requests that are being read keep theirs."""
        self.generation += 1
        self.max_body_bytes = server.max_body
        self.max_head_bytes = server.max_head
        self.header_s = server.timeouts.header
        self.body_s = server.timeouts.body
        self.send_s = server.timeouts.send
        self.keep_alive_s = server.timeouts.keep_alive

    def __call__(self) -> FastLane:
        return FastLane(self)

    cdef Call new_call(self):
        cdef Call call = Call()
        call.request_id = self.next_id()
        return call

    cpdef str next_id(self):
        """`req_`, 16 hex digits of this process, 10 or more of the request."""
        cdef char text[ID_MAX_BYTES]
        cdef char* end = text
        cdef int digits = 10
        self.id_count += 1
        while digits < 16 and self.id_count >> 4 * digits:
            digits += 1
        memcpy(end, PyBytes_AS_STRING(self.id_prefix), PyBytes_GET_SIZE(self.id_prefix))
        end += PyBytes_GET_SIZE(self.id_prefix)
        while digits:
            digits -= 1
            end[0] = b"0123456789abcdef"[self.id_count >> 4 * digits & 15]
            end += 1
        return PyUnicode_DecodeASCII(text, end - text, NULL)

    def close_resting(self) -> None:
        """Connections between two requests. While `is_draining`, each answer closes its own."""
        cdef FastLane lane
        for lane in list(self.lanes):
            if lane.state == READING_HEAD and lane.pending is None:
                lane.transport.close()


    def close_all(self) -> None:
        cdef FastLane lane
        for lane in list(self.lanes):
            lane.transport.abort()


cdef class FastLane(Outlet):
    def __cinit__(self, Edge edge):
        self.edge = edge
        self.state = READING_HEAD

    # -- asyncio.BufferedProtocol

    def get_buffer(self, Py_ssize_t size_hint):
        """A long body is read into its place; all else by way of the scratch buffer."""
        if self.state == READING_BODY:
            self.is_direct = True
            at = PyBytes_AS_STRING(self.body) + PyBytes_GET_SIZE(self.body) - self.body_missing_bytes
            return PyMemoryView_FromMemory(at, self.body_missing_bytes, PyBUF_WRITE)
        self.is_direct = False
        return self.edge.scratch

    def buffer_updated(self, Py_ssize_t size) -> None:
        if not self.is_direct:
            self.data_received((<const unsigned char*>PyByteArray_AS_STRING(self.edge.scratch))[:size])
        elif self.state == READING_BODY:
            self.body_missing_bytes -= size
            self.edge.gate.unread_bytes -= size
            if self.body_missing_bytes == 0:
                self.start_serving_body()

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.edge.lanes.add(self)
        self.edge.wheel.watch(self, monotonic_s() + self.edge.header_s)

    def data_received(self, bytes data) -> None:
        if self.state == LINGERING or self.state == CLOSED:
            return
        self.pending = data if self.pending is None else self.pending + data
        if self.state == SERVING or self.is_slow:
            if len(self.pending) > AHEAD_BYTES and not self.is_paused:
                self.is_paused = True
                self.transport.pause_reading()
            return
        self.advance()

    def eof_received(self) -> bool:
        """A client that closes its half is gone, as nginx sees it: the other half cannot be told apart."""
        return False

    def connection_lost(self, exc) -> None:
        self.is_gone = True
        self.state = CLOSED
        self.pending = None
        self.drop_body()
        self.edge.wheel.forget(self)
        self.edge.lanes.discard(self)
        if self.serving is not None:
            self.serving.cancel()
        else:
            self.let_go()
        self.transport = None

    def pause_writing(self) -> None:
        """It gets `send_s` to take what is queued."""
        self.slow_down()
        self.edge.wheel.watch(self, monotonic_s() + self.edge.send_s)

    def resume_writing(self) -> None:
        self.speed_up()
        if self.state == SERVING:
            self.deadline_s = 0.0
        elif self.state == READING_HEAD:
            self.rest()

    # -- reading

    cdef int advance(self) except -1:
        """Goes on with what is in the buffer until it is used up or a request is being served."""
        if self.is_advancing:
            return 0
        self.is_advancing = True
        try:
            # Nothing is begun for a client that does not take what it has been sent already.
            while self.pending is not None and not self.is_slow:
                before = self.pending
                if self.state == READING_HEAD:
                    self.read_request_head()
                elif self.state == READING_BODY:
                    self.read_request_body()
                else:
                    break
                if self.pending is before and self.state != READING_BODY:
                    break
        finally:
            self.is_advancing = False
        return 0

    cdef int read_request_head(self) except -1:
        cdef Head head
        cdef bytes data = self.pending
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t end
        cdef Verdict verdict = read_head(<const unsigned char*>PyBytes_AS_STRING(data), size, &head)
        if verdict == INCOMPLETE:
            if size > self.edge.max_head_bytes:
                self.call = self.edge.new_call()
                return self.refuse(errors.HeadTooLarge("The request's headers are too large."))
            if self.head_since_s == 0.0:
                self.head_since_s = monotonic_s()
                self.edge.wheel.watch(self, self.head_since_s + self.edge.header_s)
            return 0
        route = None if verdict == NOT_PLAIN else self.edge.routes.get(cut_out(data, head.path))
        if route is None:
            return self.hand_over()
        self.head_since_s = 0.0
        self.call = self.fill_call(data, &head, <tuple>route)
        if head.size > self.edge.max_head_bytes:
            return self.refuse(errors.HeadTooLarge("The request's headers are too large."))
        if head.content_length > self.edge.max_body_bytes:
            self.edge.identify(self.call)
            if self.call.fault is not None:
                return self.refuse(self.call.fault)
            limit = self.edge.max_body_bytes
            return self.refuse(errors.BodyTooLarge(f"The request's body is larger than {limit} bytes."))
        if size - head.size >= head.content_length:
            self.take_on(head.content_length)
            if self.is_taken_on:
                self.call.body = part(data, head.size, head.content_length)
            end = head.size + head.content_length
            self.pending = None if size == end else part(data, end, size - end)
            return self.start_serving()
        return self.expect_body(data, &head)

    cdef Call fill_call(self, bytes data, Head* head, tuple route):
        cdef Call call = self.edge.new_call()
        call.route = route[0]
        call.endpoint = route[1]
        call.method = "POST"
        if head.bearer.length >= 0:
            call.credential = cut_out(data, head.bearer)
        elif head.x_api_key.length >= 0:
            call.credential = cut_out(data, head.x_api_key)
        elif head.api_key.length >= 0:
            call.credential = cut_out(data, head.api_key)
        elif head.x_goog_api_key.length >= 0:
            call.credential = cut_out(data, head.x_goog_api_key)
        self.recognise(call)
        call.content_type = cut_out(data, head.content_type) or b""
        call.accept = cut_out(data, head.accept) or b""
        call.idempotency_key = cut_out(data, head.idempotency_key)
        call.traceparent = cut_out(data, head.traceparent)
        call.beta = cut_out(data, head.openai_beta)
        call.max_wait = cut_out(data, head.max_wait)
        call.priority = cut_out(data, head.priority)
        call.tags = cut_out(data, head.tags)
        call.timeout = cut_out(data, head.timeout)
        if self.edge.keeps_head:
            call.head = data[:head.size]
        return call

    cdef int recognise(self, Call call) except -1:
        """The key that this connection's last request was let in with need not be looked up again: that costs as
        much as admitting a request."""
        if self.principal is not None and self.generation == self.edge.generation and is_same(self.credential, call.credential):
            call.principal, call.tenant_id, call.key_name = self.principal, self.tenant_id, self.key_name
            call.credential = None
            return 0
        self.principal = None
        self.credential, self.generation = call.credential, self.edge.generation
        return 0

    cdef int remember(self, Call call) except -1:
        """Only what was let in, and is of a key's size: nobody else is to be kept anything of."""
        if call.principal is None or self.credential is None or len(self.credential) > KEY_MAX_BYTES:
            self.credential = None
        else:
            self.principal, self.tenant_id, self.key_name = call.principal, call.tenant_id, call.key_name
        return 0

    cdef int expect_body(self, bytes data, Head* head) except -1:
        """Whoever is not known to us need not send the rest."""
        self.edge.identify(self.call)
        if self.call.fault is None:
            self.take_on(head.content_length)
        if self.call.fault is not None:
            return self.refuse(self.call.fault)
        cdef Py_ssize_t here = PyBytes_GET_SIZE(data) - head.size
        self.state = READING_BODY
        self.body = PyBytes_FromStringAndSize(NULL, head.content_length)
        memcpy(PyBytes_AS_STRING(self.body), PyBytes_AS_STRING(data) + head.size, here)
        self.body_missing_bytes = head.content_length - here
        self.edge.gate.unread_bytes += self.body_missing_bytes
        self.pending = None
        self.edge.wheel.watch(self, monotonic_s() + self.edge.body_s)
        return 0

    cdef int take_on(self, long long body_bytes) except -1:
        """Before the body is read. One too many gets its fault; whoever is not known to us gets that one."""
        cdef int reason = self.edge.gate.enter(body_bytes)
        self.is_taken_on = reason == 0
        if reason:
            self.edge.identify(self.call)
            if self.call.fault is None:
                self.call.fault = self.edge.overloaded(reason)
        return 0

    cdef void let_go(self) noexcept:
        if self.is_taken_on:
            self.is_taken_on = False
            self.edge.gate.leave()

    cdef void drop_body(self) noexcept:
        self.edge.gate.unread_bytes -= self.body_missing_bytes
        self.body_missing_bytes = 0
        self.body = None

    cdef int read_request_body(self) except -1:
        """For a transport that does not read into our buffer."""
        cdef bytes data = self.pending
        cdef Py_ssize_t size = min(PyBytes_GET_SIZE(data), self.body_missing_bytes)
        cdef char* end = PyBytes_AS_STRING(self.body) + PyBytes_GET_SIZE(self.body)
        memcpy(end - self.body_missing_bytes, PyBytes_AS_STRING(data), size)
        self.pending = None if size == PyBytes_GET_SIZE(data) else data[size:]
        self.body_missing_bytes -= size
        self.edge.gate.unread_bytes -= size
        return 0 if self.body_missing_bytes else self.start_serving_body()

    cdef int start_serving_body(self) except -1:
        self.call.body = self.body
        self.body = None
        return self.start_serving()

    cdef int on_deadline(self) except -1:
        if self.state == READING_BODY:
            return self.refuse(errors.BodyTimeout("The request's body did not arrive in time."))
        if self.state == READING_HEAD and self.head_since_s != 0.0 and not self.is_slow:
            self.call = self.edge.new_call()
            return self.refuse(errors.BodyTimeout("The request's headers did not arrive in time."))
        if self.state != CLOSED:
            self.transport.abort()
        return 0

    # -- serving

    cdef int refuse(self, object fault) except -1:
        """Answers without the rest of the request, which cannot be told from the next one: so it is the last."""
        self.call.fault = fault
        self.is_closing = True
        self.is_unread = True
        self.pending = None
        self.drop_body()
        return self.start_serving()

    cdef int start_serving(self) except -1:
        cdef Call call = self.call
        self.state = SERVING
        self.deadline_s = 0.0
        self.is_answered = self.is_begun = False
        call.started_s = monotonic_s()
        call.received_s = time()
        self.serving = Serving(self.edge.serve(call, self), self.on_served)
        self.serving.step(None)
        return 0

    def on_served(self, failure) -> None:
        cdef Call call = self.call
        self.serving = None
        self.feeder = None
        self.call = None
        if self.principal is None:
            self.remember(call)
        self.let_go()
        if self.state != SERVING:
            return
        if failure is not None:
            self.edge.fail(call, failure, self)
            call.fault = None        # a failure knows its frames, and they know the call
        if not self.is_answered:
            self.transport.abort()
        elif self.is_closing:
            self.close_after_answer()
        else:
            self.rest()

    cdef int rest(self) except -1:
        self.state = READING_HEAD
        self.head_since_s = 0.0
        if self.is_slow:
            return 0                 # `resume_writing` comes back here
        self.edge.wheel.watch(self, monotonic_s() + self.edge.keep_alive_s)
        if self.is_paused:
            self.is_paused = False
            self.transport.resume_reading()
        return self.advance()

    cdef int close_after_answer(self) except -1:
        """Closing with bytes unread would reset the connection, and the client might lose the answer."""
        self.state = LINGERING
        if not self.is_unread:
            self.edge.wheel.watch(self, monotonic_s() + self.edge.send_s)
            self.transport.close()
            return 0
        self.transport.write_eof()
        self.edge.wheel.watch(self, monotonic_s() + LINGER_S)
        return 0

    cdef int hand_over(self) except -1:
        cdef bytes data = self.pending
        transport = self.transport
        self.state = CLOSED
        self.pending = None
        self.edge.wheel.forget(self)
        self.edge.lanes.discard(self)
        general = self.edge.general()
        transport.set_protocol(general)
        general.connection_made(transport)
        general.data_received(data)
        return 0

    # -- Outlet

    cpdef int answer(self, int status, bytes head, bytes body) except -1:
        if self.state != SERVING:
            return 0
        self.is_begun = self.is_answered = True
        return self.write_head(status, head, PyBytes_GET_SIZE(body), body)

    cpdef int begin(self, int status, bytes head, long long length) except -1:
        if self.state != SERVING:
            return 0
        self.is_begun = True
        self.is_chunked = length < 0
        return self.write_head(status, head, length, b"")

    cdef int write_head(self, int status, bytes head, long long length, bytes body) except -1:
        """`length` of the body that comes; -1: in chunks. `body` is what is there of it now."""
        cdef char framing[FRAMING_MAX_BYTES]
        cdef char* end = framing
        if self.edge.is_draining:
            self.is_closing = True
        if length < 0:
            end = put(end, b"transfer-encoding: chunked\r\ndate: ")
        else:
            end = put(put_unsigned(put(end, b"content-length: "), <unsigned long long>length), b"\r\ndate: ")
        date = self.edge.wheel.date
        memcpy(end, PyBytes_AS_STRING(date), PyBytes_GET_SIZE(date))
        end += PyBytes_GET_SIZE(date)
        end = put(end, b"\r\nconnection: close\r\n\r\n") if self.is_closing else put(end, b"\r\n\r\n")
        self.transport.write(joined(status_line(status), head, framing, end - framing, body))
        return 0

    cpdef int write(self, bytes data) except -1:
        if self.state != SERVING or not data:
            return 0
        self.transport.write(frame_chunk(data) if self.is_chunked else data)
        return 0

    cpdef int end(self) except -1:
        if self.state != SERVING:
            return 0
        self.is_answered = True
        if self.is_chunked:
            self.transport.write(b"0\r\n\r\n")
        return 0

    cpdef int cut(self) except -1:
        if self.state != SERVING:
            return 0
        self.is_answered = self.is_closing = True
        return 0
