"""A gateway as it is run by users: a process tree, its log and its metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

# Known to the tests' configurations. No text of them may stand in a log, a metric, an answer or upstream.
CLIENT_KEY = "sk-gateway-acme-web-4711deadbeef"
OTHER_KEY = "sk-gateway-other-0815cafebabe"
UPSTREAM_KEY = "sk-upstream-secret-a1b2c3d4e5f6"

DEADLINE_S = 20.0  # of anything that takes milliseconds on a quiet machine
POLL_S = 0.01

# Of a model whose tests count what arrives.
ONCE = {"retry": {"max_attempts": 1}}

Value = TypeVar("Value")
Config = dict[str, Any]


def up(port: int, *keys: str, **more: Any) -> Config:
    """A provider: the mock that listens on this port. One test's faults must not be the next one's concern."""
    return {
        "breaker": "off",
        "retry_budget": {"ratio": 1, "per_second": 1000},
        "dialect": "openai",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "api_keys": list(keys or (UPSTREAM_KEY,)),
        **more,
    }


def default_config(port: int, **sections: Any) -> Config:
    """One provider `up`, any model, nothing tried twice, two tenants. `sections` replace whole sections."""
    return {
        "providers": {"up": up(port)},
        "models": {
            "mock": ONCE
            | {
                "targets": [{"provider": "up"}],
                "price": {"input": "1.00", "output": "2.00", "cached_input": "0.50"},
            },
            "renamed": ONCE | {"targets": [{"provider": "up", "model": "its-real-name"}]},
            "gpt-*": ONCE | {"targets": [{"provider": "up"}]},
            "*": ONCE | {"targets": [{"provider": "up"}]},
        },
        "tenants": {
            "acme": {"keys": [{"name": "web", "key": CLIENT_KEY}]},
            "narrow": {"models": ["mock", "gpt-4*"], "keys": [{"name": "one", "key": OTHER_KEY}]},
        },
        **sections,
    }


class Gateway:
    """`llmgw serve` as a process tree of its own."""

    def __init__(self, directory: Path, config: Config, workers: int = 1, **environ: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.workers = workers
        self.log_path = directory / "requests.log"
        self.own_lines: list[str] = []  # what it says about itself, JSON
        self.port = self.admin_port = 0
        self._skipped = 0
        self._is_ready = threading.Event()
        self.configure(config)
        kept = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
        self._environ = kept | {"XDG_STATE_HOME": str(directory / "state")} | environ

    def configure(self, config: Config) -> None:
        """Writes the file; JSON is YAML. Ports and log are ours, the rest of `server` may be given."""
        server = {"port": 0, "admin": {"port": 0}, "workers": self.workers, **config.get("server", {})}
        whole = {**config, "server": server, "log": {"path": str(self.log_path), "level": "info"}}
        (self.directory / "gateway.yaml").write_text(json.dumps(whole, indent=1))

    def start(self) -> Gateway:
        command = [sys.executable, "-m", "llmgw", "serve", "--config", str(self.directory / "gateway.yaml")]
        self.process = subprocess.Popen(
            command,
            env=self._environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_own_lines, daemon=True)
        self._reader.start()
        if not self._is_ready.wait(DEADLINE_S) or not self.port:
            self.kill()
            raise AssertionError("not ready: " + "".join(self.own_lines))
        assert self.fetch(f"{self.url}/health/ready")[0] == 200
        return self

    def _read_own_lines(self) -> None:
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            line = raw.decode()
            self.own_lines.append(line)
            if '"ready: ' in line:
                data, admin = json.loads(line)["message"].removeprefix("ready: ").split(", admin ")
                self.port, self.admin_port = int(data.split(":")[1]), int(admin.split(":")[1])
                self._is_ready.set()
        self._is_ready.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def forget_health(self) -> None:
        """What a test's faults made the gateway think of its providers must not be the next one's concern."""
        url = f"{self.admin_url}/admin/targets/reset"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, method="POST"), timeout=DEADLINE_S) as answer:
            assert answer.status == 200

    def stop(self) -> int:
        """Drains and ends it; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._reader.join(DEADLINE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return self.process.returncode

    def kill(self) -> None:
        """At once, the workers too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.stop()

    def worker_pids(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    # -- what it tells

    def fetch(self, url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        request = urllib.request.Request(url, headers=headers or {})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=DEADLINE_S) as answer:
            return answer.status, answer.read()

    def metrics_text(self) -> str:
        return self.fetch(f"{self.admin_url}/metrics")[1].decode()

    def metrics(self) -> Metrics:
        return Metrics(self.metrics_text())

    def all_log_lines(self) -> list[dict[str, Any]]:
        """Every whole line since the start."""
        text = self.log_path.read_bytes() if self.log_path.exists() else b""
        return [json.loads(line) for line in text.split(b"\n")[:-1]]

    async def log_lines(self, count: int) -> list[dict[str, Any]]:
        """The lines since `forget_log`, once there are `count` of them; more fail the test."""
        lines = await wait_for(f"{count} log lines", lambda: self._at_least(count))
        assert len(lines) == count, lines
        return lines

    async def log_line(self, request_id: str | None = None) -> dict[str, Any]:
        """The only line, or the one of that request."""
        if request_id is None:
            return (await self.log_lines(1))[0]

        def look() -> list[dict[str, Any]]:
            return [line for line in self.all_log_lines() if line["request_id"] == request_id]

        (found,) = await wait_for(f"the log line of {request_id}", look)
        return found

    async def forget_log(self) -> None:
        """Lines that are on their way come first; as many are due as requests were counted."""
        await asyncio.to_thread(self.forget_health)

        def look() -> bool:
            metrics = self.metrics()
            due = metrics.total("llm_requests_total") - metrics.total("llm_log_lines_dropped_total")
            self._skipped = len(self.all_log_lines())
            return metrics.total("llm_inflight_requests") == 0 and self._skipped == due

        await wait_for("all requests are over and logged", look)

    def _at_least(self, count: int) -> list[dict[str, Any]]:
        lines = self.all_log_lines()[self._skipped :]
        return lines if len(lines) >= count else []


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels, 0 where there are none."""
        wanted = labels.items()
        return sum(s.value for s in self.samples if s.name == name and wanted <= s.labels.items())

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums of a metric by one label's value."""
        values = {s.labels[label] for s in self.samples if s.name == name}
        return {value: self.total(name, **{label: value}) for value in sorted(values)}


async def wait_for(what: str, look: Callable[[], Value], deadline_s: float = DEADLINE_S) -> Value:
    """The first true value of `look`; an AssertionError that says `what` if there is none in time."""
    until_s = time.monotonic() + deadline_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < until_s, f"not in {deadline_s:.0f} s: {what}"
        await asyncio.sleep(POLL_S)


def secrets_in(text: bytes | str) -> list[str]:
    """Which of the known credentials stand in it, in whole or with their telling part."""
    haystack = text if isinstance(text, str) else text.decode("latin-1")
    parts = {key: key.rpartition("-")[2] for key in (CLIENT_KEY, OTHER_KEY, UPSTREAM_KEY)}
    return [key for key, part in parts.items() if part in haystack]
