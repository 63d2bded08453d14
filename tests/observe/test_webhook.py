"""Alerts on their way out, against a real server that takes them, fails, dawdles or is not there."""

import asyncio
import json
import logging
import os
import socket
import time

import pytest
from aiohttp import web

from llmgw.limits.alerts import Alert
from llmgw.webhook import QUEUED, AlertSender, read_memory, write_memory


def alert(number=0, **facts):
    made = {
        "id": f"alert-{number}",
        "at_s": 1000.0,
        "tenant": "acme",
        "budget": "tenant:budget:1d",
        "fraction": 0.8,
        "used_usd_micro": 40_000_000,
        "limit_usd_micro": 50_000_000,
        "is_shadow": False,
        "period_us": None,
    }
    return Alert(**(made | facts))


class Hook:
    """A server whose answers are statuses one after another (the last for good), or functions."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.runner = web.ServerRunner(web.Server(self.handle, access_log=None), shutdown_timeout=0.1)

    async def __aenter__(self):
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}/services/s3cret-path?token=s3cret"
        return self

    async def __aexit__(self, *_):
        await self.runner.cleanup()

    async def handle(self, request):
        self.requests.append((request, await request.read()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(status=answer) if isinstance(answer, int) else await answer(request)


@pytest.fixture
async def sender():
    made = []

    def make(url, **options):
        counted = []
        made.append(AlertSender(url, counted.append, **{"deadline_s": 5.0, "first_delay_s": 0.001} | options))
        return made[-1], counted

    yield make
    for each in made:
        await each.close()


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to be")


async def test_an_alert_is_posted_as_json_once(sender):
    async with Hook(200) as hook:
        out, counted = sender(hook.url)
        out.send(alert())
        await until(lambda: counted)
        [(request, body)] = hook.requests
        assert counted == ["sent"]
        assert request.method == "POST" and request.headers["Content-Type"] == "application/json"
        assert request.path_qs == "/services/s3cret-path?token=s3cret"
        assert json.loads(body) == alert().payload()


async def test_alerts_are_delivered_in_order(sender):
    async with Hook(204) as hook:
        out, counted = sender(hook.url)
        for number in range(5):
            out.send(alert(number))
        await until(lambda: len(counted) == 5)
        out.send(alert(5))  # after all was delivered
        await until(lambda: len(counted) == 6)
        assert [json.loads(body)["id"] for _, body in hook.requests] == [
            f"alert-{number}" for number in range(6)
        ]


@pytest.mark.parametrize("status", [500, 503, 429, 408])
async def test_a_failure_that_may_pass_is_tried_again(sender, status):
    async with Hook(status, status, 200) as hook:
        out, counted = sender(hook.url)
        out.send(alert())
        await until(lambda: counted)
        assert counted == ["sent"] and len(hook.requests) == 3


async def test_three_attempts_are_all(sender, caplog):
    async with Hook(500) as hook:
        out, counted = sender(hook.url)
        out.send(alert())
        await until(lambda: counted)
        assert counted == ["failed"] and len(hook.requests) == 3
        assert "status 500" in caplog.text


@pytest.mark.parametrize("status", [400, 401, 404, 410])
async def test_what_the_receiver_will_never_take_is_not_tried_again(sender, status):
    async with Hook(status) as hook:
        out, counted = sender(hook.url)
        out.send(alert())
        await until(lambda: counted)
        assert counted == ["failed"] and len(hook.requests) == 1


async def test_a_redirect_is_not_followed(sender):
    async with Hook(200) as elsewhere:

        async def redirect(request):
            return web.Response(status=307, headers={"Location": elsewhere.url})

        async with Hook(redirect) as hook:
            out, counted = sender(hook.url)
            out.send(alert())
            await until(lambda: counted)
            assert counted == ["failed"] and len(hook.requests) == 1 and not elsewhere.requests


async def test_a_proxy_of_the_environment_is_not_used(sender, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with Hook(200) as hook:
        out, counted = sender(hook.url)
        out.send(alert())
        await until(lambda: counted)
        assert counted == ["sent"]


async def test_a_receiver_that_never_answers_is_left_at_the_deadline_of_each_attempt(sender):
    async def never(request):
        await asyncio.sleep(3600)

    async with Hook(never, never, 200) as hook:
        out, counted = sender(hook.url, deadline_s=0.05)
        out.send(alert())
        await until(lambda: counted)
        assert counted == ["sent"] and len(hook.requests) == 3


async def test_an_answer_without_end_holds_nobody(sender):
    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    async with Hook(endless) as hook:
        out, counted = sender(hook.url)
        out.send(alert())
        await until(lambda: counted)
        assert counted == ["sent"]


async def test_where_nobody_listens_it_fails(sender, caplog):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    out, counted = sender(f"http://127.0.0.1:{port}/")
    out.send(alert())
    await until(lambda: counted)
    assert counted == ["failed"]
    assert "ClientConnectorError" in caplog.text


@pytest.mark.parametrize("url", ["http://[", "nonsense", "ftp://127.0.0.1/", "http://" + "a" * 300 + "/"])
async def test_an_address_that_is_none_fails_and_the_next_alert_too(sender, url):
    out, counted = sender(url)
    out.send(alert())
    out.send(alert())
    await until(lambda: len(counted) == 2)
    assert counted == ["failed", "failed"]


async def test_no_log_line_has_the_address_beyond_its_host(sender, caplog):
    caplog.set_level(logging.DEBUG)
    async with Hook(500) as hook:
        for url in (
            hook.url,
            hook.url.replace("http://", "http://s3cret-user:s3cret-word@"),
            "http://127.0.0.1:1/s3cret",
            "http://[s3cret",
        ):
            out, counted = sender(url)
            out.send(alert())
            await until(lambda counted=counted: counted)
            assert counted == ["failed"]
    assert "s3cret" not in caplog.text
    assert "http://127.0.0.1" in caplog.text


async def test_user_information_of_the_address_authenticates(sender):
    async with Hook(200) as hook:
        out, counted = sender(hook.url.replace("http://", "http://user:word@"))
        out.send(alert())
        await until(lambda: counted)
        assert hook.requests[0][0].headers["Authorization"].startswith("Basic ")


async def test_every_alert_is_a_warning_in_the_log_and_without_a_webhook_that_is_all(sender, caplog):
    out, counted = sender(None)
    out.send(alert())
    assert counted == ["logged"]
    [record] = caplog.records
    assert (record.name, record.levelname, record.getMessage()) == ("llmgw", "WARNING", alert().text)


async def test_what_is_beyond_the_queue_is_dropped_and_counted(sender):
    hold = asyncio.Event()

    async def wait(request):
        await hold.wait()
        return web.Response()

    async with Hook(wait) as hook:
        out, counted = sender(hook.url)
        for number in range(QUEUED + 3):
            out.send(alert(number))
        assert counted == ["dropped"] * 3
        hold.set()
        await until(lambda: len(counted) == QUEUED + 3)
        assert counted[3:] == ["sent"] * QUEUED
        assert len(hook.requests) == QUEUED


async def test_names_of_any_text_are_sent(sender):
    async with Hook(200) as hook:
        out, counted = sender(hook.url)
        out.send(alert(tenant='é "\n\0 中'))
        await until(lambda: counted)
        assert json.loads(hook.requests[0][1])["tenant"] == 'é "\n\0 中'


async def test_sending_returns_before_anything_is_connected(sender):
    async with Hook(200) as hook:
        out, counted = sender(hook.url)
        out.send(alert())
        assert counted == [] and hook.requests == []


async def test_closing_delivers_what_is_queued(sender):
    async with Hook(200) as hook:
        out, counted = sender(hook.url)
        for number in range(3):
            out.send(alert(number))
        await out.close()
        assert counted == ["sent"] * 3
        out.send(alert())
        assert counted == ["sent"] * 3 + ["dropped"]


async def test_closing_waits_a_deadline_at_most_and_accounts_for_every_alert(sender):
    async def never(request):
        await asyncio.sleep(3600)

    async with Hook(never) as hook:
        out, counted = sender(hook.url, deadline_s=0.1)
        for number in range(3):
            out.send(alert(number))
        began_s = time.monotonic()
        await out.close()
        assert time.monotonic() - began_s < 5
        assert counted == ["dropped"] * 3
        await out.close()
        assert counted == ["dropped"] * 3


def test_a_memory_is_read_as_it_was_written(tmp_path):
    path = str(tmp_path / "alerts")
    assert read_memory(path) == b""
    write_memory(path, b"first, a longer one")
    write_memory(path, b"second")
    assert read_memory(path) == b"second"
    assert os.listdir(tmp_path) == ["alerts"]
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["alerts", "alerts.new"])
def test_a_link_in_place_of_the_memory_is_not_followed(tmp_path, name):
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (tmp_path / name).symlink_to(target)
    path = str(tmp_path / "alerts")
    assert read_memory(path) == b""
    if name == "alerts":
        write_memory(path, b"new")
    else:
        with pytest.raises(OSError):
            write_memory(path, b"new")
    assert target.read_bytes() == b"precious"
