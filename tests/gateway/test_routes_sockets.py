"""TCP_NODELAY is on wherever the gateway speaks TCP: no 40 ms of Nagle and delayed acknowledgement."""

import ctypes
import os
import socket
from pathlib import Path

import pytest
from gatewayrig import Gateway, wait_for
from wireclient import chat, get, post, wire_to

PIDFD_GETFD = 438  # Linux 5.6; the number is the same on all architectures


def sockets_of(pid: int) -> list[socket.socket]:
    """Duplicates of the TCP sockets of a child process. Raises PermissionError where ptrace is forbidden."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    found = []
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if not entry.readlink().name.startswith("socket:"):
                continue
            copy = libc.syscall(PIDFD_GETFD, pidfd, int(entry.name), 0)
            if copy < 0:
                raise PermissionError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            found.append(socket.socket(fileno=copy))
    finally:
        os.close(pidfd)
    return found


def established(pid: int, port: int) -> list[bool]:
    """Whether Nagle is off, for each connection of the process that has this port at either end."""
    off = []
    for copy in sockets_of(pid):
        with copy:
            if copy.family != socket.AF_INET or copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                continue
            try:
                ports = {copy.getsockname()[1], copy.getpeername()[1]}
            except OSError:
                continue
            if port in ports:
                off.append(copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0)
    return off


@pytest.fixture
def worker(gateway: Gateway) -> int:
    (pid,) = gateway.worker_pids()
    try:
        for copy in sockets_of(pid):
            copy.close()
    except PermissionError as error:
        pytest.skip(f"the kernel does not let us look into a child process: {error}")
    return pid


@pytest.mark.parametrize("request_", [post(chat()), get("/v1/models")], ids=["fast", "general"])
async def test_on_accepted_connections_of_both_lanes(gateway, worker, request_):
    await wait_for("earlier connections are gone", lambda: not established(worker, gateway.port))
    async with wire_to(gateway.port) as wire:
        wire.send(request_)
        assert (await wire.answer()).status == 200
        assert established(worker, gateway.port) == [True]


async def test_on_connections_to_the_provider(gateway, far, worker):
    far.hang_up()
    async with wire_to(gateway.port) as wire:
        wire.send(post(chat()))
        assert (await wire.answer()).status == 200
        assert established(worker, far.port) == [True]
