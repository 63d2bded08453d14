"""The admin listener: metrics, health, and who may see them. aiohttp serves it alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from ipaddress import ip_address
from time import monotonic_ns
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from llmgw._core.health import Health
from llmgw._core.segment import Segment
from llmgw.config import Config
from llmgw.errors import BodyTooLarge, GatewayError, NotFound
from llmgw.explain import listed, question_of, remembered, suppose
from llmgw.explain.question import QUESTION_MAX_BYTES
from llmgw.gateway import Gateway
from llmgw.metrics import CONTENT_TYPE, Budgets, Limits, Targets, render
from llmgw.server.failures import openai_body

EXPLAIN = "/admin/explain"
RESET_BY = ("provider", "target")
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
        gateway: Callable[[], Gateway] | None = None,
    ) -> None:
        self.gateway = gateway
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
        if request.path == EXPLAIN or request.path.startswith(EXPLAIN + "/"):
            return await self.explain(request)
        if request.method != "GET":
            return plain("method not allowed", 405, {"Allow": "GET"})
        if request.path == "/metrics":
            return await self.metrics()
        if request.path == "/admin/targets":
            return json_response([entry for entry, _ in self.healths({})])
        if request.path == "/":
            return plain(
                "llmgw\n\n/metrics                     Prometheus text, all workers\n"
                "/health/live\n/health/ready\n"
                "/admin/targets               health of every target\n"
                "POST /admin/targets/reset    forgets it: ?provider=NAME&target=MODEL, or all\n"
                "/admin/explain               the latest requests; /admin/explain/ID: what became of one\n"
                "POST /admin/explain          what would become of one, without asking anybody\n"
            )
        return plain("not found", 404)

    def is_allowed(self, request: web.BaseRequest) -> bool:
        """Without keys the listener is on loopback: the configuration allows nothing else."""
        keys = self.config.server.admin.keys
        if not keys:
            return is_of_this_machine(request.headers)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        digest = sha256(token.strip().encode("utf-8", "surrogateescape")).hexdigest()
        return scheme.lower() == "bearer" and any(digest == key.sha256 for key in keys)

    def healths(self, wanted: Mapping[str, str]) -> Iterator[tuple[dict[str, object], Health]]:
        """Of the targets of that `provider` and `target`, where they are named."""
        for provider, model, health in self.targets() if self.targets is not None else ():
            if wanted.get("provider", provider) == provider and wanted.get("target", model) == model:
                yield (
                    {"provider": provider, "target": model} | health.snapshot(monotonic_ns() // 1000),
                    health,
                )

    def reset(self, request: web.BaseRequest) -> web.Response:
        """Closes breakers and ends pauses, of all workers: somebody knows that the provider is well again."""
        if request.method != "POST":
            return plain("method not allowed", 405, {"Allow": "POST"})
        unknown = request.query.keys() - RESET_BY
        if unknown:
            return plain(f"only {' and '.join(RESET_BY)} may be named", 400)
        found = list(self.healths(request.query))
        for _, health in found:
            health.reset()
        if not found:
            return plain("no such target", 404)
        return json_response(
            [{"provider": entry["provider"], "target": entry["target"]} for entry, _ in found]
        )

    async def explain(self, request: web.BaseRequest) -> web.Response:
        request_id = request.path.removeprefix(EXPLAIN).removeprefix("/")
        if self.gateway is None:
            return plain("not found", 404)
        if request.method == "POST" and not request_id:
            return await self.supposed(request, self.gateway())
        if request.method != "GET":
            return plain("method not allowed", 405, {"Allow": "GET" if request_id else "GET, POST"})
        if not request_id:
            return json_response(listed(self.segment))
        found = remembered(self.segment, request_id, self.gateway().admission.rules)
        if found is None:
            return failed(NotFound("This request is not known, or not any more.", code="request_not_found"))
        return json_response(found)

    async def supposed(self, request: web.BaseRequest, gateway: Gateway) -> web.Response:
        try:
            return json_response(await suppose(gateway, question_of(await self.question(request))))
        except GatewayError as error:
            return failed(error)

    async def question(self, request: web.BaseRequest) -> bytes:
        """The body, up to QUESTION_MAX_BYTES. Raises BodyTooLarge."""
        body = bytearray()
        async for piece in request.content.iter_any():
            body += piece
            if len(body) > QUESTION_MAX_BYTES:
                raise BodyTooLarge(f"A question has up to {QUESTION_MAX_BYTES} bytes.")
        return bytes(body)

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


def is_of_this_machine(headers: Mapping[str, str]) -> bool:
    """Not from a page of another site in a browser of this machine, by its own name or by one that it lets
    point here (DNS rebinding): those say a foreign Origin, or a Host that is no address."""
    try:
        host = urlsplit("//" + headers.get("Host", "")).hostname or ""
        is_plain = host == "localhost" or bool(ip_address(host))
    except ValueError:
        is_plain = False
    origin = headers.get("Origin")
    return is_plain and (origin is None or urlsplit(origin).netloc == headers.get("Host"))


def json_response(data: object) -> web.Response:
    return web.Response(body=orjson.dumps(data), content_type="application/json", headers=SECURITY)


def failed(error: GatewayError) -> web.Response:
    return web.Response(
        body=openai_body(error), status=error.status, content_type="application/json", headers=SECURITY
    )


def plain(text: str, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(text=text, status=status, headers={**SECURITY, **(headers or {})})
