"""Messages between the supervisor and a worker, over a socket pair that nobody else holds.

    | length, 4 bytes | kind, 1 byte | body of `length` bytes |

Both ends are non-blocking: what does not fit into the socket waits in memory, and there is never
more than one reload on the way, so that is bounded. Bodies are pickles: both ends are one program.
"""

from __future__ import annotations

import enum
import pickle
import socket
import struct
from typing import Final, NamedTuple

_HEAD = struct.Struct("<IB")
READ_BYTES: Final = 256 * 1024


class Kind(enum.IntEnum):
    # to a worker
    PREPARE = 1  # (generation, Config)
    COMMIT = 2  # generation
    ABORT = 3  # generation
    DRAIN = 4
    REOPEN = 5
    # to the supervisor
    READY = 16
    PREPARED = 17  # generation
    REFUSED = 18  # (generation, problems)


class Message(NamedTuple):
    kind: Kind
    body: object


class Channel:
    """One end. `send` and `receive` never block and never raise for a peer that is gone."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._out = bytearray()
        self._in = bytearray()
        self.is_open = True

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(one), cls(other)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self.is_open = False
        self._socket.close()

    @property
    def wants_write(self) -> bool:
        return bool(self._out) and self.is_open

    def send(self, kind: Kind, body: object = None) -> None:
        packed = pickle.dumps(body)
        self._out += _HEAD.pack(len(packed), kind) + packed
        self.flush()

    def flush(self) -> None:
        """Sends what the socket takes."""
        while self._out and self.is_open:
            try:
                sent = self._socket.send(self._out)
            except BlockingIOError:
                return
            except OSError:  # the peer is gone; its reader side tells so
                self._out.clear()
                return
            del self._out[:sent]

    def receive(self) -> list[Message]:
        """The messages that have come in; `is_open` is false after the peer's last one."""
        while self.is_open:
            try:
                read = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                break
            except OSError:
                read = b""
            if not read:
                self.is_open = False
            self._in += read
        return self._take_messages()

    def _take_messages(self) -> list[Message]:
        messages = []
        while len(self._in) >= _HEAD.size:
            size, kind = _HEAD.unpack_from(self._in)
            end = _HEAD.size + size
            if len(self._in) < end:
                break
            messages.append(Message(Kind(kind), pickle.loads(self._in[_HEAD.size : end])))
            del self._in[:end]
        return messages
