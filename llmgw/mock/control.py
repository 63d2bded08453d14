"""The mock's own routes: /mock/script, /mock/seen, /mock/reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from llmgw.mock.answer import Answer, Refusal, json_answer, refusal_answer
from llmgw.mock.fault import FaultError
from llmgw.mock.seen import Arrival

if TYPE_CHECKING:
    from llmgw.mock.server import Mock

_SEEN_AT_ONCE = 1000  # arrivals in one answer of /mock/seen, the newest


def control(mock: Mock, arrival: Arrival, body: bytes) -> Answer:
    try:
        match (arrival.method, arrival.path):
            case ("POST", "/mock/script"):
                return _script(mock, body)
            case ("GET", "/mock/seen"):
                return _seen(mock)
            case ("POST", "/mock/reset"):
                mock.reset()
                return json_answer({"reset": True})
    except Refusal as refusal:
        return refusal_answer("openai", refusal)
    return refusal_answer("openai", Refusal(404, f"Invalid URL ({arrival.method} {arrival.path})"))


def _script(mock: Mock, body: bytes) -> Answer:
    try:
        steps = orjson.loads(body)
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise Refusal(400, "A script is a JSON list of objects.")
        mock.script(*steps)
    except (orjson.JSONDecodeError, FaultError) as wrong:
        raise Refusal(400, str(wrong), code="bad_fault") from None
    return json_answer({"added": len(steps)})


def _seen(mock: Mock) -> Answer:
    arrivals = [arrival.to_json() for arrival in mock.seen][-_SEEN_AT_ONCE:]
    return json_answer(
        {
            **mock.seen.counters(),
            "open_connections": mock.open_connections,
            "in_flight": mock.in_flight,
            "arrivals": arrivals,
        }
    )
