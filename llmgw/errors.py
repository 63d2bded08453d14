"""The one error tree. An error says whose fault it is and what a client may see of it.

    GatewayError
    ├── ClientError                  the caller's fault; nothing went upstream
    │   ├── BadRequest         400   malformed JSON, a bad field, a key twice
    │   ├── Unauthenticated    401   no key, or one that is not ours
    │   ├── Forbidden          403   the key may not use this model or route
    │   │   └── PriceUnknown         its price is not known, and a budget applies
    │   ├── NotFound           404   unknown model
    │   ├── UnknownRoute       404   unknown URL
    │   ├── WrongMethod        405   a known URL, another method
    │   ├── BodyTimeout        408   the body did not arrive in time
    │   ├── BodyTooLarge       413
    │   ├── HeadTooLarge       431
    │   └── ClientGone         499   left before its request was whole; nobody is told
    ├── LimitError             429   more than may be; nothing went upstream
    │   ├── RateLimited              requests, tokens or slots
    │   ├── QuotaExceeded            money
    │   ├── QueueTimeout             it was ready to wait, but not for so long
    │   └── QueueFull                it was ready to wait, but as many wait as may
    ├── UpstreamError                the provider's fault, after our own attempts
    │   ├── UpstreamBroken     502   refused, reset, garbage, cut off
    │   ├── NoUpstream         503   no target is left that could be asked
    │   └── UpstreamTimeout    504   a deadline passed
    ├── Overloaded             503   more in flight than this worker can hold
    └── InternalError          500   ours: a bug
    ConfigError                      the operator's fault; never becomes HTTP

It becomes HTTP in `server.failures` and nowhere else.
"""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """A request's end that the gateway itself decided.

    `message` goes to the client as it is, so it never holds a credential, a host of ours or a
    foreign byte that was not checked. `retry_after_s` is set where waiting helps.
    """

    status: ClassVar[int] = 500
    type: str = "api_error"
    code: str | None = None
    should_retry: bool = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code


class ClientError(GatewayError):
    type = "invalid_request_error"


class BadRequest(ClientError):
    status = 400


class Unauthenticated(ClientError):
    status = 401
    code = "invalid_api_key"


class Forbidden(ClientError):
    status = 403
    type = "permission_error"
    code = "model_access_denied"


class PriceUnknown(Forbidden):
    code = "price_unknown"


class NotFound(ClientError):
    status = 404
    code = "model_not_found"


class UnknownRoute(ClientError):
    status = 404
    code = "unknown_url"


class WrongMethod(ClientError):
    status = 405
    code = "method_not_allowed"


class BodyTimeout(ClientError):
    status = 408
    code = "request_timeout"


class BodyTooLarge(ClientError):
    status = 413
    code = "request_too_large"


class HeadTooLarge(ClientError):
    status = 431
    code = "request_too_large"


class ClientGone(ClientError):
    status = 499
    code = "client_gone"


class LimitError(GatewayError):
    """`retry_after_s` is the honest wait, however long: a client that finds it too long gives up."""

    status = 429


class RateLimited(LimitError):
    """`kind` is what was limited: `requests` or `tokens`. Retrying is of no use to what never fits."""

    code = "rate_limit_exceeded"

    def __init__(
        self, message: str, *, kind: str, should_retry: bool = True, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.type = kind
        self.should_retry = should_retry


class QuotaExceeded(LimitError):
    type = "insufficient_quota"
    code = "insufficient_quota"


class QueueTimeout(LimitError):
    type = "requests"
    code = "queue_timeout"
    should_retry = True


class QueueFull(LimitError):
    type = "requests"
    code = "queue_full"
    should_retry = True


class UpstreamError(GatewayError):
    """What our own attempts ended in. The SDKs would multiply them by three, hence no retry."""

    status = 502
    code = "upstream_error"
    outcome: ClassVar[str] = "broken"  # in the metric of attempts
    cause: str = "broken"  # of `routing.causes`

    def __init__(
        self,
        message: str,
        *,
        upstream_status: int = 0,
        cause: str | None = None,
        stated_s: float | None = None,
        retry_after_s: float | None = None,
        is_too_large: bool = False,
        is_dead_key: bool = False,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.upstream_status = upstream_status
        self.stated_s = stated_s
        self.is_too_large = is_too_large
        self.is_dead_key = is_dead_key
        if cause is not None:
            self.cause = cause


class UpstreamBroken(UpstreamError):
    """`upstream_status`: what it answered, 0 if it did not; `stated_s`: the wait it asked for.

    `is_too_large`: a 429 that speaks of this one request, which will never fit there. `is_dead_key`: our key
    is not known there, or its account is used up, whatever is asked for with it.
    """


class NoUpstream(UpstreamError):
    """With `retry_after_s` set, nobody was asked in vain: waiting helps."""

    status = 503
    code = "no_available_upstream"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.should_retry = retry_after_s is not None


class UpstreamTimeout(UpstreamError):
    status = 504
    code = "upstream_timeout"
    outcome = "timeout"
    cause = "timeout"


class Overloaded(GatewayError):
    status = 503
    code = "overloaded"
    should_retry = True


class InternalError(GatewayError):
    code = "internal_error"


class ConfigError(Exception):
    """A configuration that must not be served. `problems` holds one line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
