"""The admin listener: metrics, health, and who may see them. aiohttp serves it alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from time import monotonic_ns

import orjson
from aiohttp import web

from llmgw._core.health import Health
from llmgw._core.segment import Segment
from llmgw.config import Config
from llmgw.metrics import CONTENT_TYPE, Budgets, Limits, Targets, render

SECURITY = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Server": "llmgw"}


class Admin:
    """`config` is replaced at a reload."""

    def __init__(
        self,
        config: Config,
        segment: Segment,
        is_ready: Callable[[], bool],
        budgets: Budgets | None = None,
        limits: Limits | None = None,
        targets: Targets | None = None,
    ) -> None:
        self.budgets, self.limits, self.targets = budgets, limits, targets
        self.config = config
        self.segment = segment
        self.is_ready = is_ready
        self.runner = web.ServerRunner(web.Server(self.handle, access_log=None, keepalive_timeout=75.0))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/health/live":
            return plain("ok")
        if request.path == "/health/ready":
            return plain("ok") if self.is_ready() else plain("not ready", 503)
        if not self.is_allowed(request):
            return plain("a key of the admin listener is needed", 401, {"WWW-Authenticate": "Bearer"})
        if request.path == "/admin/targets/reset":
            return self.reset(request)
        if request.method != "GET":
            return plain("method not allowed", 405, {"Allow": "GET"})
        if request.path == "/metrics":
            return await self.metrics()
        if request.path == "/admin/targets":
            return json_response([entry for entry, _ in self.healths({})])
        if request.path == "/":
            return plain(
                "llmgw\n\n/metrics                     Prometheus text, all workers\n/health/live\n/health/ready\n"
                "/admin/targets               health of every target\n"
                "POST /admin/targets/reset    forgets it: ?provider=NAME&target=MODEL, or all\n"
            )
        return plain("not found", 404)

    def is_allowed(self, request: web.BaseRequest) -> bool:
        """Without keys the listener is on loopback: the configuration allows nothing else."""
        keys = self.config.server.admin.keys
        if not keys:
            return True
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        digest = sha256(token.strip().encode("utf-8", "surrogateescape")).hexdigest()
        return scheme.lower() == "bearer" and any(digest == key.sha256 for key in keys)

    def healths(self, wanted: Mapping[str, str]) -> Iterator[tuple[dict[str, object], Health]]:
        """Of the targets of that `provider` and `target`, where they are named."""
        for provider, model, health in self.targets() if self.targets is not None else ():
            if wanted.get("provider", provider) == provider and wanted.get("target", model) == model:
                yield {"provider": provider, "target": model} | health.snapshot(monotonic_ns() // 1000), health

    def reset(self, request: web.BaseRequest) -> web.Response:
        """Closes breakers and ends pauses, of all workers: somebody knows that the provider is well again."""
        if request.method != "POST":
            return plain("method not allowed", 405, {"Allow": "POST"})
        found = list(self.healths(request.query))
        for _, health in found:
            health.reset()
        if not found:
            return plain("no such target", 404)
        return json_response([{"provider": entry["provider"], "target": entry["target"]} for entry, _ in found])

    async def metrics(self) -> web.Response:
        """Off the loop: many label sets take longer to write than any stream may stand still."""
        body = await asyncio.get_running_loop().run_in_executor(
            None, render, self.segment, self.budgets, self.limits, self.targets
        )
        response = web.Response(body=body, headers=SECURITY)
        response.headers["Content-Type"] = CONTENT_TYPE
        return response

    async def start(self, sock: socket.socket) -> None:
        await self.runner.setup()
        assert self.runner.server is not None
        await asyncio.get_running_loop().create_server(self.runner.server, sock=sock)

    async def close(self) -> None:
        await self.runner.cleanup()


def json_response(data: object) -> web.Response:
    return web.Response(body=orjson.dumps(data), content_type="application/json", headers=SECURITY)


def plain(text: str, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(text=text, status=status, headers={**SECURITY, **(headers or {})})
