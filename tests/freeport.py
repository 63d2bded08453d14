"""A port for a process that is told which one, while others of the suite open and close thousands."""

from __future__ import annotations

import random
import socket

# Below those that any kernel gives to whoever asks for none: nobody else takes it before it is used.
PORTS = range(11_100, 16_000)
# Not the one that a test or a library may have seeded: workers of the suite would all draw the same ports.
chance = random.SystemRandom()


def free_port(above: int = 0) -> int:
    """A port with another free one so far `above` it; the higher of the two is one of `PORTS`."""
    while True:
        port = chance.choice(PORTS)
        if is_free(port) and is_free(port - above):
            return port - above


def is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
