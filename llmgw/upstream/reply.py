"""What a provider answered, judged before a byte of it goes to the client."""

from __future__ import annotations

import json
from collections.abc import Container
from time import time
from typing import Final

from llmgw._core.ask import FREE, Ask, Attempt
from llmgw._wire.call import Call
from llmgw._wire.skim import Answer, Skim, skim_answer
from llmgw._wire.sse import EventScanner
from llmgw._wire.upstream import Connection
from llmgw._wire.usage import Usage, completed_usage, estimated_usage, reported_usage
from llmgw.dialects import OTHER
from llmgw.errors import UpstreamBroken
from llmgw.routing.causes import Cause, cause_of_status, is_of_dead_key, is_too_large
from llmgw.routing.hints import hints_of, stated_wait_s
from llmgw.upstream.provider import Upstream

# Their `Retry-After` is about when to come back (RFC 9110 10.2.3), or commonly meant so.
SAY_WHEN: Final = frozenset({429, 503, 529, 500, 502, 504, 408, 409})

NOTHING: frozenset[str] = frozenset()


class Reply:
    """The beginning of an answer, or the whole of it: `body` is None where it is to be relayed.

    `attempt` is the one that it answers.
    """

    def __init__(
        self,
        connection: Connection,
        upstream: Upstream,
        call: Call,
        attempt: Attempt,
        served_elsewhere: Container[str] = NOTHING,
    ) -> None:
        """Raises UpstreamError where this answer must not reach the client.

        What the provider says of the request itself is the client's to know, unless other models are there
        for it: `served_elsewhere` has those causes.
        """
        self.connection = connection
        self.scanner = connection.events  # which the connection, once it rests, has no more
        self.upstream = upstream
        self.attempt = attempt
        self.answer: Answer | None = None
        self.body: bytes | None = None
        if connection.status >= 300:
            judge_status(connection, attempt, served_elsewhere)
        if self.scanner is not None:
            judge_events(self.scanner, connection.is_complete)
        elif connection.is_complete:
            self.body = connection.take_held()
            self.answer = skim_answer(self.body)
            if connection.status < 300 and call.route is not OTHER:
                judge_json(self.answer)
        elif connection.status < 300 and call.route is not OTHER and not connection.is_json:
            raise UpstreamBroken("The provider's answer is not JSON.")

    def usage(self, facts: Skim | None, call: Call) -> Usage | None:
        """What to charge for; None for an answer that costs no tokens."""
        connection = self.connection
        if connection.status >= 400 or call.method in FREE:
            return None  # what is fetched again was paid for when it was made
        scanner = self.scanner
        if scanner is not None:
            reported, text_bytes = reported_usage(scanner.usage, scanner.first_usage), scanner.text_bytes
        elif self.answer is not None:
            reported, text_bytes = reported_usage(self.answer.usage), self.answer.text_bytes
        else:
            tail = connection.relayed_tail if connection.is_json else b""
            reported, text_bytes = reported_usage(usage_in_tail(tail)), connection.relayed_bytes
        if reported is not None and reported.input_tokens and reported.output_tokens:
            return reported
        if not self.costs_tokens(call):
            return reported
        prompt_bytes = facts.prompt_bytes if facts else len(call.body)
        return completed_usage(reported, prompt_bytes, text_bytes if call.route.is_text else 0)

    def costs_tokens(self, call: Call) -> bool:
        return call.route.costs_tokens or (self.scanner is not None and bool(call.model_requested))

    def is_charged_by_text(self, call: Call) -> bool:
        """Whether a crash is charged by the bytes relayed: only where they are text that a model wrote."""
        if self.connection.status >= 400 or call.method in FREE:
            return False
        return call.route.is_text and self.costs_tokens(call)


def judge_status(connection: Connection, attempt: Attempt, served_elsewhere: Container[str]) -> None:
    """A redirect is a failure, too: destinations come from the configuration alone."""
    status, body = connection.status, connection.peek_held()
    cause = cause_of_status(status, body)
    attempt.may_be_billed = False
    if cause is None or (cause.is_of_request and cause not in served_elsewhere):
        return
    is_dead_key = is_of_dead_key(status, body)
    if is_dead_key and cause is Cause.RATE_LIMIT:
        cause = Cause.AUTH  # no wait helps
    stated_s = None
    if status in SAY_WHEN:
        hints = hints_of(connection.headers, status, time())
        stated_s = stated_wait_s(hints, body if cause is Cause.RATE_LIMIT else b"")
    raise UpstreamBroken(
        f"The provider answered with status {status}.",
        upstream_status=status,
        cause=cause,
        stated_s=stated_s,
        is_too_large=is_too_large(status, body),
        is_dead_key=is_dead_key and cause is Cause.AUTH,
    )


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


def judge_end(scanner: EventScanner) -> None:
    if scanner.error is not None:
        raise UpstreamBroken("The provider's stream ended with an error.")
    if not scanner.is_terminal:
        raise UpstreamBroken("The provider's stream ended before its end was marked.")


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


def unfinished_usage(call: Call, facts: Skim | None, ask: Ask | None, reply: Reply | None) -> Usage | None:
    """Of a request that ended early: what was relayed counts; what was sent and not answered, its prompt."""
    if reply is not None:
        return reply.usage(facts, call)
    return unanswered_usage(call, facts, ask.attempt) if ask is not None and ask.attempt is not None else None


def unanswered_usage(call: Call, facts: Skim | None, attempt: Attempt) -> Usage | None:
    """Of an attempt without an answer: what was sent may be billed, and counts as its prompt."""
    if attempt.may_be_billed and call.route.costs_tokens:
        return estimated_usage(facts.prompt_bytes if facts else 0, 0)
    return None
