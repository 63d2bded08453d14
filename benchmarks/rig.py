"""The machines of the ladder: upstreams, nginx and the gateway as pinned processes.

What is measured runs on the first core, everything else (upstreams, load generator) on the
second. nginx and the gateway get the same upstreams and the same keep-alive rules.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from llmgw.mock.certificate import self_signed

KEY = "sk-bench"
ANSWER_TEXT_BYTES = 290  # makes answers of 0.8 KB, the JSON around the text included
STREAM_EVENTS = 100
STREAM_INTERVAL = "5ms"
_READY_S = 15.0
_STOP_S = 10.0

# The core under test and the one for everything else; the same one where there is only one. Read
# once: later this process itself is pinned.
_AVAILABLE = sorted(os.sched_getaffinity(0))
TESTED_CORE, OTHER_CORE = _AVAILABLE[0], _AVAILABLE[min(1, len(_AVAILABLE) - 1)]

# What each route asks of its upstream: the models of the gateway, the ports of nginx.
ROUTES = ("plain", "tls", "stream", "large")


def nginx_binary() -> str | None:
    found = shutil.which("nginx") or "/usr/sbin/nginx"
    return found if os.access(found, os.X_OK) else None


def redis_binary() -> str | None:
    return shutil.which("redis-server") or shutil.which("redis-server", path=Path(sys.executable).parent)


class NotStarted(Exception):
    """A process of the rig ended or stayed silent; the text holds what it said."""


@dataclass(frozen=True)
class Upstreams:
    """Mock providers by route; `large` shares the plain one."""

    ports: dict[str, int]
    certificate: Path

    def url(self, route: str) -> str:
        return f"{'https' if route == 'tls' else 'http'}://127.0.0.1:{self.ports[route]}"

    def tls_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.certificate)


@dataclass(frozen=True)
class Candidate:
    """Something that requests can be sent to; `pid` is the root of its process tree."""

    name: str
    urls: dict[str, str]  # by route
    pid: int | None = None


@contextmanager
def upstreams(room: Path) -> Iterator[Upstreams]:
    certificate, key = self_signed(room)
    ports = {route: free_port() for route in ("plain", "tls", "stream")}
    plain = ["--keep=0", f"--text-bytes={ANSWER_TEXT_BYTES}"]
    flags = {
        "plain": plain,
        "tls": [*plain, f"--tls-cert={certificate}", f"--tls-key={key}"],
        "stream": ["--keep=0", f"--events={STREAM_EVENTS}", f"--interval={STREAM_INTERVAL}"],
    }
    with ExitStack() as stack:
        for route, port in ports.items():
            command = [sys.executable, "-m", "llmgw.mock", f"--port={port}", *flags[route]]
            process = stack.enter_context(_process(command, OTHER_CORE, room / f"mock-{route}.out"))
            _wait_for_port(port, process, room / f"mock-{route}.out")
        yield Upstreams({**ports, "large": ports["plain"]}, certificate)


@contextmanager
def nginx(room: Path, behind: Upstreams) -> Iterator[Candidate]:
    binary = nginx_binary()
    assert binary is not None
    ports = {route: free_port() for route in ROUTES}
    config, out = room / "nginx.conf", room / "nginx.out"
    config.write_text(_nginx_config(room, behind, ports))
    command = [binary, "-e", str(out), "-p", str(room), "-c", str(config)]
    with _process(command, TESTED_CORE, out) as process:
        _wait_for_port(ports["plain"], process, out)
        urls = {route: f"http://127.0.0.1:{port}" for route, port in ports.items()}
        yield Candidate("nginx", urls, process.pid)


@contextmanager
def gateway(room: Path, behind: Upstreams, redis_port: int | None = None) -> Iterator[Candidate]:
    """With `redis_port` its limits and budget are shared through that Redis."""
    name = "gateway" if redis_port is None else "shared"
    port, admin_port = free_port(), free_port()
    config, out = room / f"{name}.yaml", room / f"{name}.out"
    shared = f'redis: {{url: "redis://127.0.0.1:{redis_port}"}}\n' if redis_port is not None else ""
    config.write_text(_gateway_config(room / name, behind, port, admin_port) + shared)
    start = "import sys; from llmgw.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "serve", "--config", str(config), "--workers", "1"]
    with _process(command, TESTED_CORE, out) as process:
        _wait_until_ready(port, process, out)
        yield Candidate(name, dict.fromkeys(ROUTES, f"http://127.0.0.1:{port}"), process.pid)


@contextmanager
def redis(room: Path) -> Iterator[int]:
    """Its port."""
    binary = redis_binary()
    assert binary is not None
    port, out = free_port(), room / "redis.out"
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(room)]
    with _process([binary, "--port", str(port), *options], OTHER_CORE, out) as process:
        _wait_for_port(port, process, out)
        yield port


def redis_calls(port: int) -> int:
    """Commands that it has carried out, but those that ask for this."""
    with closing(Redis(port=port)) as client:
        stats = client.info("commandstats")
    own = ("cmdstat_info", "cmdstat_client")
    return sum(command["calls"] for name, command in stats.items() if not name.startswith(own))


def direct(behind: Upstreams) -> Candidate:
    return Candidate("direct", {route: behind.url(route) for route in ROUTES})


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as bound:
        return int(bound.getsockname()[1])


@contextmanager
def _process(command: list[str], core: int, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs on one core with its output in a file, and is ended, workers and all, however the caller ends."""
    with out.open("wb") as sink, _on_core(core):
        process = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)
    with process:
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _on_core(core: int) -> Iterator[None]:
    """What is started inside inherits the core."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _wait_for_port(port: int, process: subprocess.Popen[bytes], out: Path) -> None:
    def is_open() -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    _wait(is_open, process, out)


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], out: Path) -> None:
    def is_ready() -> bool:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=1)) as probe:
            try:
                probe.request("GET", "/health/ready")
                return probe.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False

    _wait(is_ready, process, out)


def _wait(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], out: Path) -> None:
    deadline_s = time.monotonic() + _READY_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline_s:
            said = out.read_text(errors="replace")[-4000:]
            raise NotStarted(f"{out.stem} did not start:\n{said}")
        time.sleep(0.02)


def _nginx_config(room: Path, behind: Upstreams, ports: dict[str, int]) -> str:
    """As one would set nginx up for this: one worker, keep-alive both ways, no log."""
    upstream_blocks = "\n".join(
        f"  upstream {route} {{ server 127.0.0.1:{port}; keepalive 4096; keepalive_requests 1000000000; }}"
        for route, port in behind.ports.items()
    )
    extra = {
        "tls": f"proxy_ssl_trusted_certificate {behind.certificate};"
        " proxy_ssl_verify on; proxy_ssl_name localhost;",
        "stream": "proxy_buffering off;",
        "large": "proxy_request_buffering on; client_body_buffer_size 1m;",
    }
    servers = "\n".join(
        f"""  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass {"https" if route == "tls" else "http"}://{route};
      {extra.get(route, "")}
    }}
  }}"""
        for route, port in ports.items()
    )
    temporary = "\n".join(
        f"  {kind}_temp_path {room}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
worker_rlimit_nofile 16384;
pid {room}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 64m;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_read_timeout 300s;
{temporary}
{upstream_blocks}
{servers}
}}
"""


def _gateway_config(room: Path, behind: Upstreams, port: int, admin_port: int) -> str:
    """What production has on: keys, allow-list, three limits and a budget, prices, metrics, log, ledger."""
    price = '{input: "0.15", output: "0.60", cached_input: "0.075"}'
    models = "\n".join(f"  {route}: {{targets: [{{provider: {route}}}], price: {price}}}" for route in ROUTES)
    providers = "\n".join(
        f"  {route}:\n"
        "    dialect: openai\n"
        f"    base_url: {behind.url(route)}/v1\n"
        "    api_keys: [sk-upstream]"
        + (f"\n    tls: {{ca_file: {behind.certificate}}}" if route == "tls" else "")
        for route in ROUTES
    )
    return f"""server:
  host: 127.0.0.1
  port: {port}
  admin: {{host: 127.0.0.1, port: {admin_port}}}
  state_dir: {room}-state
providers:
{providers}
models:
{models}
tenants:
  bench:
    models: ["plain", "t*", "stream", "large"]
    limits: {{rpm: 100000000, tpm: 1000000000000, concurrent: 10000}}
    budgets: [{{amount: "100000000", period: 30d}}]
    keys:
      - {{name: ladder, key: {KEY}}}
log: {{path: {room}-requests.log, level: info}}
"""
