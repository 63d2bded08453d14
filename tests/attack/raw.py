"""An attacker's socket: any bytes out, and what came back until the connection ended or fell silent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import httptools

PATIENCE_S = 20.0  # with anything that takes milliseconds on a quiet machine
RECEIVE_BYTES = 4096  # the smallest receive buffer: a client that takes little


@dataclass
class Answer:
    """One answer as llhttp reads it."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    is_whole: bool = False
    keeps_alive: bool = False

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return error


@dataclass
class Outcome:
    """`ended`: eof, reset, or open where the gateway fell silent. `told_s`: when its last byte came."""

    raw: bytes = b""
    ended: str = "open"
    told_s: float = 0.0
    took_s: float = 0.0

    @property
    def answers(self) -> list[Answer]:
        return Answers(self.raw).all

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    def patience_s(self, answers: int, quiet_s: float) -> float | None:
        """How long a silence is to be by now; None for ever."""
        return quiet_s if quiet_s and sum(answer.is_whole for answer in self.answers) >= answers else None


class Answers:
    """All answers in a run of bytes, as llhttp reads them."""

    def __init__(self, raw: bytes) -> None:
        self.all: list[Answer] = []
        self.parser = httptools.HttpResponseParser(self)
        self.parser.feed_data(raw)

    def on_message_begin(self) -> None:
        self.all.append(Answer())

    def on_header(self, name: bytes, value: bytes) -> None:
        self.all[-1].headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.all[-1].status = self.parser.get_status_code()
        self.all[-1].keeps_alive = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.all[-1].body += body

    def on_message_complete(self) -> None:
        self.all[-1].is_whole = True


async def attack(
    port: int,
    *pieces: bytes,
    pause_s: float = 0.0,
    wait_s: float = PATIENCE_S,
    quiet_s: float = 0.0,
    answers: int = 1,
) -> Outcome:
    """Sends the pieces with that pause between them, and reads until the end, `wait_s`, or a silence of `quiet_s`.

    Silence counts behind so many whole answers only: whoever is slow to answer is not silent. Times
    count from before the connection, so that none is shorter than the gateway's own.
    """
    outcome = Outcome()
    began_s = monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sending = asyncio.ensure_future(_send(writer, pieces, pause_s))
    try:
        async with asyncio.timeout(wait_s):
            while data := await asyncio.wait_for(reader.read(65536), outcome.patience_s(answers, quiet_s)):
                outcome.raw += data
                outcome.told_s = monotonic() - began_s
            outcome.ended = "eof"
    except (ConnectionResetError, BrokenPipeError):
        outcome.ended = "reset"
    except TimeoutError:
        pass
    finally:
        outcome.took_s = monotonic() - began_s
        sending.cancel()
        writer.transport.abort()
    return outcome


async def _send(writer: asyncio.StreamWriter, pieces: Sequence[bytes], pause_s: float) -> None:
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(pause_s)


@contextlib.contextmanager
def silent_client(port: int, data: bytes = b"") -> Iterator[socket.socket]:
    """Sends, and takes nothing: what the kernel's smallest buffer holds is all that fits."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        client.connect(("127.0.0.1", port))
        client.sendall(data)
        client.setblocking(False)
        yield client


async def send_what_it_takes(client: socket.socket, data: bytes) -> None:
    """Until all is sent or the other side has ended the connection."""
    sent = 0
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while sent < len(data):
            try:
                sent += client.send(data[sent:])
            except BlockingIOError:
                await asyncio.sleep(0.01)


def reset(client: socket.socket) -> None:
    """RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def served_ports(port: int) -> set[int]:
    """The clients' ports of all connections that a process still holds open at this port of a gateway.

    A socket that was closed before its client took everything is the kernel's alone; it has no inode.
    """
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    ends = [(line.split()[1], line.split()[2], line.split()[9]) for line in lines]
    return {number(remote) for local, remote, inode in ends if number(local) == port and inode != "0"} - {0}


def number(address: str) -> int:
    return int(address.partition(":")[2], 16)


def unsent_bytes(port: int, client: socket.socket) -> int:
    """What the kernel holds at the gateway's end for this client."""
    mine = client.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if (number(local), number(remote)) == (port, mine):
            return int(queues.partition(":")[0], 16)
    return 0
