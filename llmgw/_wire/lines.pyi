def reply_lines(
    origin: bytes,
    request_id: str,
    attempts: int,
    queue_ms: int,
    cost_usd_micro: int,
    limits: bytes = b"",
) -> bytes: ...
