"""What a provider answered, judged before a byte of it goes to the client."""

from __future__ import annotations

import json

from llmgw._wire.call import Call
from llmgw._wire.skim import Answer, Skim, skim_answer
from llmgw._wire.sse import EventScanner
from llmgw._wire.upstream import Connection
from llmgw.dialects import OTHER, Usage, estimated_usage, reported_usage
from llmgw.errors import UpstreamBroken
from llmgw.upstream.provider import Upstream

# The provider's trouble, not the caller's: another target may do better. Its 401 and 403 speak of our key.
REFUSALS = frozenset({401, 403, 408, 409, 429})
# Refusals that concern the key rather than the provider.
KEY_REFUSALS = frozenset({401, 403, 429})


class Reply:
    """The beginning of an answer, or the whole of it: `body` is None where it is to be relayed."""

    __slots__ = ("answer", "body", "connection", "model", "upstream")

    def __init__(self, connection: Connection, upstream: Upstream, call: Call, model: str) -> None:
        """Raises UpstreamError where this answer must not reach the client."""
        self.connection = connection
        self.upstream = upstream
        self.model = model
        self.answer: Answer | None = None
        self.body: bytes | None = None
        if is_refusal(connection.status):
            call.may_be_billed = False
            raise UpstreamBroken(
                f"The provider answered with status {connection.status}.", upstream_status=connection.status
            )
        scanner = connection.events
        if scanner is not None:
            judge_events(scanner, connection.is_complete)
        elif connection.is_complete:
            self.body = connection.take_held()
            self.answer = skim_answer(self.body)
            if connection.status == 200 and call.route is not OTHER:
                judge_json(self.answer)
        elif connection.status == 200 and call.route is not OTHER and not connection.is_json:
            raise UpstreamBroken("The provider's answer is not JSON.")

    def usage(self, facts: Skim | None, call: Call) -> Usage | None:
        """What to charge for; None for an answer that costs no tokens."""
        connection = self.connection
        if connection.status >= 400 or call.method != "POST":
            return None  # what is fetched again was paid for when it was made
        scanner = connection.events
        if scanner is not None:
            reported, text_bytes = reported_usage(scanner.usage), scanner.text_bytes
        elif self.answer is not None:
            reported, text_bytes = reported_usage(self.answer.usage), self.answer.text_bytes
        else:
            tail = connection.relayed_tail if call.route.costs_tokens else b""
            reported, text_bytes = reported_usage(usage_in_tail(tail)), connection.relayed_bytes
        is_stream_of_a_model = scanner is not None and call.model_requested
        if reported is None and (call.route.costs_tokens or is_stream_of_a_model):
            prompt_bytes = facts.prompt_bytes if facts else len(call.body)
            return estimated_usage(prompt_bytes, text_bytes if call.route.is_text else 0)
        return reported


def is_refusal(status: int) -> bool:
    """A redirect is one, too: destinations come from the configuration alone."""
    return status in REFUSALS or status >= 500 or 300 <= status < 400


def judge_json(answer: Answer) -> None:
    if not answer.is_json:
        raise UpstreamBroken("The provider's answer is not JSON.")
    if answer.is_error:  # some say 200 and mean it not
        raise UpstreamBroken("The provider answered with an error.")


def judge_events(scanner: EventScanner, is_complete: bool) -> None:
    if scanner.error is not None:
        raise UpstreamBroken("The provider's stream began with an error.")
    if is_complete and not scanner.events:
        raise UpstreamBroken("The provider's stream ended before its first event.")


def usage_in_tail(tail: bytes) -> bytes | None:
    """The usage object near the end of a large JSON answer, whose beginning has gone by."""
    at = tail.rfind(b'"usage"')
    if at < 0:
        return None
    text = tail[at + len(b'"usage"') :].decode("utf-8", "replace").lstrip().removeprefix(":").lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return text[:end].encode()
