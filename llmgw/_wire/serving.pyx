"""Runs `Gateway.serve` of one request without a Task.

A Task costs an eighth of what nginx spends on a whole request: the Task itself, and two trips through
the loop's queue for each wait. A Serving starts its coroutine at once and carries it on from the very
call that brought what it waited for. It knows two things to wait for: a Signal, which the connection
to a provider sets, and any asyncio Future (so a Task, too).

What is awaited under a Serving must not ask for `asyncio.current_task()`, because there is none. Code
that does (`asyncio.timeout`, aiohttp's client) is put into a Task, and that Task is awaited.
"""

import asyncio

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR = -1
        PYGEN_NEXT

    PySendResult PyIter_Send(object iterator, object value, PyObject** result) except PYGEN_ERROR


def set_unless_done(future) -> None:
    if not future.done():
        future.set_result(None)


cdef class Signal:
    """What one Serving waits for: set once per `rearm`, with an error or without."""

    cdef int wake(self) except -1:
        cdef Serving waiter = self.waiter
        self.is_set = True
        if waiter is not None:
            self.waiter = None
            waiter.waits_for = None
            waiter.step(None)
        return 0

    cdef int fail(self, object error) except -1:
        self.error = error
        return self.wake()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if not self.is_set:
            return self
        error = self.error
        self.is_set = False
        self.error = None
        if error is not None:
            raise error
        raise StopIteration


cdef class Serving:
    """`on_done(failure)` is called when the coroutine has ended: with None, or with what it raised."""

    def __cinit__(self, coroutine, on_done=None):
        self.coroutine = coroutine
        self.on_done = on_done

    def start(self) -> None:
        self.step(None)

    cpdef int cancel(self) except -1:
        """Raises CancelledError where the coroutine waits; what it awaits there is left alone."""
        if self.is_done:
            return 0
        if self.is_running:
            self.is_cancelled = True     # raised at the next wait
            return 0
        waits_for = self.waits_for
        self.waits_for = None
        if isinstance(waits_for, Signal):
            (<Signal>waits_for).waiter = None
        elif waits_for is not None:
            waits_for.remove_done_callback(self.on_future)
        return self.step(asyncio.CancelledError())

    def on_future(self, future) -> None:
        if self.waits_for is future:
            self.waits_for = None
            self.step(None)

    cdef int step(self, object error) except -1:
        cdef PyObject* given = NULL
        cdef bint is_over = False
        self.is_running = True
        try:
            if error is not None:
                awaited = self.coroutine.throw(error)
            else:                        # as `send`, which makes an exception of the end
                is_over = PyIter_Send(self.coroutine, None, &given) == PYGEN_RETURN
                awaited = <object>given
                Py_DECREF(awaited)
        except StopIteration:
            is_over = True
        except (Exception, asyncio.CancelledError) as failure:
            return self.finish(failure)
        if is_over:
            return self.finish(None)
        self.is_running = False
        return self.wait_for(awaited)

    cdef int wait_for(self, object awaited) except -1:
        if self.is_cancelled:
            self.is_cancelled = False
            return self.step(asyncio.CancelledError())
        if awaited is None:              # a bare yield: `asyncio.sleep(0)`
            awaited = asyncio.get_running_loop().create_future()
            awaited.get_loop().call_soon(set_unless_done, awaited)
        self.waits_for = awaited
        if isinstance(awaited, Signal):
            (<Signal>awaited).waiter = self
        else:
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(self.on_future)
        return 0

    cdef int finish(self, object failure) except -1:
        self.is_running = False
        self.is_done = True
        self.coroutine = None
        on_done = self.on_done
        self.on_done = None
        if on_done is not None:
            on_done(failure)
        return 0
