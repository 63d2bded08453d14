"""A toy gateway as a real process tree, and what a test does with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

TOY = Path(__file__).with_name("toy_gateway.py")
DEADLINE_S = 20.0  # of anything that takes milliseconds on a quiet machine
POLL_S = 0.01

Value = TypeVar("Value")


def wait_for(what: str, look: Callable[[], Value]) -> Value:
    """The first true answer of `look`; a failure that says `what` if there is none in time."""
    until_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < until_s:
        found = look()
        if found:
            return found
        time.sleep(POLL_S)
    pytest.fail(f"not in {DEADLINE_S:.0f} s: {what}")


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class ToyGateway:
    def __init__(self, directory: Path, workers: int, models: tuple[str, ...], **server: object) -> None:
        self.directory = directory
        self.server = {"port": 0, "workers": workers, "drain": "10s", "state_dir": str(directory / "state")}
        self.server |= {"admin": {"port": 0}} | server
        self.configure(*models)
        self.errors = directory / "stderr"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def configure(self, *models: str, **server: object) -> None:
        text = {
            "server": self.server | server,
            "providers": {"mock": {"dialect": "mock"}},
            "models": {model: {"targets": [{"provider": "mock"}]} for model in models},
            "tenants": {"demo": {"keys": [{"name": "demo", "key": "sk-demo"}]}},
        }
        (self.directory / "gateway.yaml").write_text(json.dumps(text))

    def start(self, **limits: float) -> ToyGateway:
        self.launch(**limits)
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended instead of getting ready: {self.errors.read_text()}"
        ready = json.loads(line)
        self.port, self.admin = ready["port"], ready["admin"]
        return self

    def launch(self, **limits: float) -> None:
        """Starts it, without waiting until it is ready."""
        self.end()
        with self.errors.open("ab") as errors:
            command = [sys.executable, str(TOY), str(self.directory), json.dumps(limits)]
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(DEADLINE_S)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE_S)

    def ask(self, command: str) -> Any:
        with self.connect() as connection:
            connection.sendall(command.encode() + b"\n")
            return json.loads(connection.makefile().readline())

    def who(self) -> dict[int, Any]:
        """Each slot's account of itself; the kernel chooses whom a connection meets."""
        found: dict[int, Any] = {}

        def all_met() -> bool:
            one = self.ask("who")
            found[one["slot"]] = one
            return len(found) == self.server["workers"]

        wait_for("every worker has answered", all_met)
        return found

    def pids(self) -> dict[int, int]:
        return {slot: one["pid"] for slot, one in self.who().items()}

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def log(self) -> list[dict[str, Any]]:
        lines = [line for line in self.errors.read_text().splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines]

    def has_said(self, text: str) -> bool:
        return any(text in line["message"] for line in self.log())

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
