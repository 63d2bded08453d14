from typing_extensions import disjoint_base

from llmgw._core.limiter import Hold
from llmgw.access import Principal
from llmgw.dialects import Route
from llmgw.errors import GatewayError
from llmgw.server.form import Upload

@disjoint_base
class Call:
    request_id: str
    trace_id: str | None
    started_s: float
    received_s: float
    endpoint: str
    query: str
    method: str
    route: Route
    credential: bytes | None
    content_type: bytes
    accept: bytes
    idempotency_key: bytes | None
    traceparent: bytes | None
    beta: bytes | None
    max_wait: bytes | None
    priority: bytes | None
    tags: bytes | None
    timeout: bytes | None
    head: bytes | None
    body: bytes
    upload: Upload | None
    is_upload_begun: bool
    fault: GatewayError | None
    principal: Principal | None
    tenant_id: str
    key_name: str
    user: str | None
    model_requested: str
    stream: bool
    is_events: bool
    model_used: str
    provider_used: str
    status: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    usage_source: str | None
    cost_usd_micro: int
    queue_ms: float
    ttft_ms: float
    upstream_ms: float
    attempts: int
    fallback_used: bool
    cache: str
    error_code: str | None
    client_gone: bool
    hold: Hold
    limit_lines: bytes
    trail: str
