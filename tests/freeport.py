"""A port for a process that is told which one, while others of the suite open and close thousands."""

from __future__ import annotations

import contextlib
import random
import socket

# Below those that the kernel gives to whoever asks for any: nobody else takes it before it is used.
PORTS = range(15_000, 30_000)


def free_port() -> int:
    while True:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", random.choice(PORTS))) as taken:
            return int(taken.getsockname()[1])
