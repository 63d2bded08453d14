"""The listening sockets: one a worker slot for clients, one for all together for the admin.

Each slot has its own, with SO_REUSEPORT, and the supervisor keeps it open for life: connections
that wait in a dead worker's queue wait for its successor. (Closing one of two such sockets was
seen to reset 100 of 200 queued connections.) The admin socket is shared, since one worker is as
good as another to ask for the metrics.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from llmgw.config import Server

BACKLOG: Final = 4096  # connections; the kernel's net.core.somaxconn caps it


class Addresses(NamedTuple):
    """Where the gateway really listens: also where the configuration says port 0."""

    data: tuple[str, int]
    admin: tuple[str, int]


class Listening:
    """All listening sockets. OSError with the address in it where one cannot be had."""

    def __init__(self, server: Server) -> None:
        self.data: list[socket.socket] = []
        try:
            port = _free_port(server.host, server.port)
            for _ in range(server.workers):
                self.data.append(_listening_socket(server.host, port, shared=True))
            self.admin = _listening_socket(server.admin.host, server.admin.port, shared=False)
        except OSError:
            for data in self.data:
                data.close()
            raise
        self.addresses = Addresses(self.data[0].getsockname()[:2], self.admin.getsockname()[:2])

    def close(self) -> None:
        """Closes this process's copies; the workers' own stay open."""
        self.keep_only(-1)
        self.admin.close()

    def keep_only(self, slot: int) -> None:
        """For a worker: the others' sockets are not its own."""
        for index, data in enumerate(self.data):
            if index != slot:
                data.close()


def _free_port(host: str, port: int) -> int:
    """The port, a free one for 0. OSError where somebody listens on it.

    SO_REUSEPORT alone would let a second gateway of the same user share it, silently.
    """
    probe = _listening_socket(host, port, shared=False, listen=False)
    found: int = probe.getsockname()[1]
    probe.close()
    return found


def _listening_socket(host: str, port: int, *, shared: bool, listen: bool = True) -> socket.socket:
    found = None
    try:
        family, kind, protocol, _, address = _resolve(host, port)
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Accepted sockets inherit it (Linux): no 40 ms between a small write and the next.
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setblocking(False)
        found.bind(address)
        if listen:
            found.listen(BACKLOG)
    except OSError as error:
        if found is not None:
            found.close()
        reason = f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise OSError(error.errno, reason) from error
    return found


_Resolved = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]


def _resolve(host: str, port: int) -> _Resolved:
    """One address of the host; IPv4 where it has both, because a client may have no IPv6."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return min(found, key=lambda entry: entry[0] != socket.AF_INET)
