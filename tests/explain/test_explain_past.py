"""What `GET /admin/explain/{request_id}` tells of a request that is over, whichever worker had it."""

import asyncio
import json
import os
import signal
from urllib.parse import quote

import pytest
from explainrig import ask_admin, config_of, explained, send
from gatewayrig import CLIENT_KEY, OTHER_KEY, UPSTREAM_KEY, Gateway, secrets_in, wait_for
from wireclient import chat, exchange, get, post

from llmgw.explain.limits import PART, shown_limits
from llmgw.explain.past import steps

PROMPT = "prompts-are-nobodys-business"


async def test_of_a_served_request_its_line_its_way_its_limits_and_its_cost(gateway):
    answer = await send(gateway, chat(PROMPT, model="pair", user="anna"))
    told = await explained(gateway, answer)
    assert told["request"] == await gateway.log_line(answer.header("x-request-id"))
    assert told["route"] == [{"target": "a/pair", "result": "ok"}]
    assert f"{told['cost_usd']:.6f}" == answer.header("x-llmgw-cost-usd")
    limits = {limit["limit"]: limit for limit in told["limits"]}
    assert set(limits) == {"tenant:tpm", "user:rpm"}
    remaining = int(answer.header("x-ratelimit-remaining-tokens"))
    tokens = limits["tenant:tpm"]
    assert tokens["of"] - tokens["used"] - tokens["asked"] == remaining
    assert not tokens["refused"] and tokens["unit"] == "tokens"
    assert limits["user:rpm"] == {
        "limit": "user:rpm",
        "unit": "requests",
        "used": 0,
        "asked": 1,
        "of": 50,
        "refused": False,
        "wait_ms": None,
    }


async def test_each_target_that_was_tried_stands_there_with_what_it_did(gateway, ends):
    ends["a"].script({"status": 503})
    answer = await send(gateway, chat(model="pair"))
    assert answer.header("x-llmgw-route") == "a/pair:503,b/other-name:ok"
    told = await explained(gateway, answer)
    assert told["route"] == [
        {"target": "a/pair", "result": "503"},
        {"target": "b/other-name", "result": "ok"},
    ]
    assert told["request"]["attempts"] == 2


async def test_also_where_nobody_served_it(gateway, ends):
    ends["a"].script({"status": 500})
    ends["b"].script({"reset": "before-head"})
    answer = await send(gateway, chat(model="pair"))
    assert answer.status == 502
    told = await explained(gateway, answer)
    assert [step["target"] for step in told["route"]] == ["a/pair", "b/other-name"]
    assert [step["result"] for step in told["route"]][0] == "500"
    assert told["route"][1]["result"] in {"broken", "connect"}
    assert told["request"]["error_code"] == "upstream_error"


async def test_an_answer_that_broke_off_did_not_end_well(gateway, ends):
    ends["a"].script({"close": "bytes:300"})
    answer = await send(gateway, chat(model="pair", stream=True))
    assert answer.status == 200
    told = await explained(gateway, answer)
    assert told["route"][-1]["result"] in {"broken", "timeout"}


async def test_of_a_refused_request_the_limit_that_refused_and_when_it_has_room(gateway):
    for _ in range(3):
        answer = await send(gateway, chat(), key=OTHER_KEY)
    assert answer.status == 429
    told = await explained(gateway, answer)
    (rpm,) = (limit for limit in told["limits"] if limit["limit"] == "tenant:rpm")
    assert (rpm["used"], rpm["asked"], rpm["of"], rpm["refused"]) == (2, 1, 2, True)
    assert rpm["wait_ms"] == pytest.approx(int(answer.header("retry-after-ms")), abs=1)
    (budget,) = (limit for limit in told["limits"] if limit["limit"] == "tenant:budget:1d")
    assert budget["of"] == 1.0 and budget["unit"] == "usd" and not budget["refused"]
    assert told["route"] == [] and told["request"]["status"] == 429


async def test_a_request_that_never_got_as_far_as_limits_is_known_too(gateway):
    stranger = await send(gateway, chat(), key="sk-nobody")
    told = await explained(gateway, stranger)
    assert (told["request"]["status"], told["route"], told["limits"]) == (401, [], [])
    names = await exchange(gateway.port, get("/v1/models"))
    assert (await explained(gateway, names))["request"]["status"] == 200


async def test_nothing_of_prompts_or_credentials_is_told(gateway, ends):
    ends["a"].script({"status": 401})
    answer = await send(gateway, chat(PROMPT, model="pair"))
    text = json.dumps(await explained(gateway, answer)) + json.dumps(ask_admin(gateway)[1])
    assert (
        secrets_in(text) == [] and PROMPT not in text and CLIENT_KEY not in text and UPSTREAM_KEY not in text
    )


async def test_the_list_has_the_latest_of_all_workers_first(gateway):
    asked = []
    for number in range(12):
        asked.append(await send(gateway, chat(model="pair" if number % 2 else "mock")))
        await asyncio.sleep(0.002)  # the line's stamp has milliseconds
    status, found = await asyncio.to_thread(ask_admin, gateway)
    assert status == 200 and len(found) <= 100
    ids = [entry["request_id"] for entry in found]
    assert ids[:12] == [answer.header("x-request-id") for answer in reversed(asked)]
    assert found[0]["model_requested"] == "pair" and found[0]["status"] == 200


@pytest.mark.parametrize(
    "name", ["nobody", "req_" + "0" * 26, "x" * 4_000, "req/with/slashes", "../../etc", "\x00", "ü" * 40, "%"]
)
async def test_what_is_not_known_is_a_404_in_json(gateway, name):
    status, told = await asyncio.to_thread(ask_admin, gateway, f"/{quote(name, safe='')}")
    assert (status, told["error"]["code"]) == (404, "request_not_found")


async def test_it_stands_on_the_admin_listener_alone(gateway):
    for request in (get("/admin/explain"), post(b"{}", "/admin/explain"), get("/admin/explain/x")):
        assert (await exchange(gateway.port, request)).status == 404


def test_a_worker_that_died_is_still_explained(ends, tmp_path):
    ports = {name: end.port for name, end in ends.items()}
    gateway = Gateway(tmp_path / "dies", config_of(ports)).start()
    try:
        answer = asyncio.run(send(gateway, chat()))
        told = asyncio.run(explained(gateway, answer))
        (pid,) = gateway.worker_pids()
        os.kill(pid, signal.SIGKILL)

        def is_another():
            try:
                return [other for other in gateway.worker_pids() if other != pid] and gateway.metrics_text()
            except OSError:
                return None

        asyncio.run(wait_for("another worker", is_another))
        assert asyncio.run(explained(gateway, answer)) == told
    finally:
        gateway.kill()


def test_a_limit_that_is_gone_has_no_name():
    (shown,) = shown_limits(PART.pack(b"k" * 16, 1, 2, 3, -1) + b"rest", [])
    assert shown == {"limit": None, "used": 1, "asked": 3, "of": 2, "refused": True, "wait_ms": None}


def test_a_way_may_have_colons_in_it():
    assert steps("ollama/llama3:8b:open,b/m:ok", {"status": 200}) == [
        {"target": "ollama/llama3:8b", "result": "open"},
        {"target": "b/m", "result": "ok"},
    ]
    assert steps("a/m:ok", {"status": 200, "client_gone": True})[0]["result"] == "cancelled"
    assert steps("a/m:503", {"status": 502, "error_code": "upstream_error"})[0]["result"] == "503"
