"""Without keys, the admin listener is for this machine's own tools and not for pages in its browser."""

from __future__ import annotations

import pytest

from llmgw.server.admin import is_of_this_machine


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
