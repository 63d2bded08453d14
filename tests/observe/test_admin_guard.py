"""Without keys, the admin listener is for this machine's own tools and not for pages in its browser."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from aiohttp.test_utils import make_mocked_request

from llmgw.config import from_environment
from llmgw.server.admin import Admin, is_of_this_machine


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "127.0.0.1:9090"},
        {"Host": "localhost:9090"},
        {"Host": "LOCALHOST"},
        {"Host": "[::1]:9090"},
        {"Host": "10.0.0.7:9090"},
        {"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1:9090"},
    ],
)
def test_tools_of_this_machine_are_let_in(headers: dict[str, str]) -> None:
    assert is_of_this_machine(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": ""},
        {"Host": "rebound.example:9090"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "[::1"},
        {"Host": "127.0.0.1:9090", "Origin": "http://evil.example"},
        {"Host": "127.0.0.1:9090", "Origin": "null"},
        {"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1:3000"},
        {"Host": "rebound.example:9090", "Origin": "http://rebound.example:9090"},
    ],
)
def test_pages_of_other_sites_are_not(headers: dict[str, str]) -> None:
    assert not is_of_this_machine(headers)


@pytest.mark.parametrize(
    ("query", "status", "is_reset"),
    [
        ("", 200, True),
        ("?provider=up&target=m", 200, True),
        ("?provider=other", 404, False),
        ("?providr=up", 400, False),
        ("?provider=up&model=m", 400, False),
    ],
)
async def test_a_reset_does_only_what_its_words_say(query: str, status: int, is_reset: bool) -> None:
    told = []
    health = SimpleNamespace(snapshot=lambda now_us: {}, reset=lambda: told.append("reset"))
    admin = Admin(from_environment({})[0], None, lambda: True, targets=lambda: [("up", "m", health)])
    request = make_mocked_request("POST", f"/admin/targets/reset{query}", {"Host": "127.0.0.1:9090"})
    assert (await admin.handle(request)).status == status
    assert bool(told) == is_reset
