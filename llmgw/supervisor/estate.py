"""What outlives a worker: limits in the segment, the ledger on disk, and what was left open in both."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING, Final

from llmgw._core.health import Board
from llmgw._core.limiter import Limiter
from llmgw._core.record import call_to_record
from llmgw._wire.call import Call
from llmgw.config import Config
from llmgw.ledger import append_crashed, expire, recover
from llmgw.supervisor.rebuild import rebuild

if TYPE_CHECKING:
    from llmgw._core.segment import Segment

logger = logging.getLogger(__name__)

EXPIRE_S: Final = 3600.0  # between two looks for ledger files that are past their time


class Estate:
    """To be made before the first worker is, while nobody else has the segment."""

    def __init__(self, config: Config, segment: Segment) -> None:
        self._segment = segment
        self._limiter = Limiter(segment)
        self._directory = config.ledger.path
        self._expire_at_s = time.monotonic()
        is_lost = self._limiter.is_new
        self._limiter.prepare()
        self._board = Board(segment)
        self._board.prepare()
        self._recover()
        for slot in range(segment.slots):
            self.on_death(slot)
        if is_lost:
            rebuild(config, self._limiter)
        # Elsewhere than on Linux there is one worker, which needs no call from another.
        self.machine_id = secrets.token_hex(8)  # in the fleet
        count = config.server.workers if sys.platform == "linux" else 0
        self.wake_fds = tuple(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count))

    def _recover(self) -> None:
        try:
            found = recover(self._directory)
        except OSError as error:
            logger.error("ledger: %s: %s", error.filename, error.strerror)
            return
        if found.files:
            logger.warning(
                "ledger: %d files were left unfinished, %d lines torn", found.files, found.torn_lines
            )

    def on_death(self, slot: int) -> None:
        """Settles what the slot's worker left open, and writes the records that it could not."""
        self._board.release(slot)
        if unwritten := self._segment.unwritten(slot):  # the next worker of the slot counts them
            logger.error("ledger: %d records of worker %d waited for disk and are lost", unwritten, slot)
        lost = self._limiter.give_back(slot, self._limiter.now_us())
        if not lost:
            return
        self._segment.count_recovered(len(lost))
        lines = [record_of(*attempt) for attempt in lost if attempt[0]]
        logger.warning("worker %d left %d requests open; they are settled", slot, len(lost))
        try:
            append_crashed(self._directory, *lines)
        except OSError as error:
            logger.error("ledger: %d records are lost: %s: %s", len(lines), error.filename, error.strerror)

    def on_time(self, retention_s: float) -> None:
        if time.monotonic() < self._expire_at_s:
            return
        self._expire_at_s = time.monotonic() + EXPIRE_S
        try:
            expire(self._directory, retention_s, time.time())
        except OSError as error:
            logger.error("ledger: %s: %s", error.filename, error.strerror)

    def close(self) -> None:
        for fd in self.wake_fds:
            os.close(fd)


def record_of(
    names: bytes,
    attempt_id: int,
    is_billed: bool,
    input_tokens: int,
    output_tokens: int,
    usd_micro: int,
    admitted_us: int,
) -> bytes:
    """The ledger's line for an attempt whose worker died. `names` is what `Books` wrote into its hold."""
    parts = names.decode("utf-8", "replace").split("\0")
    beside, tenant, key, provider, label, model, endpoint, requested, request_id, tags, user = (
        parts + [""] * 11
    )[:11]
    call = Call()
    call.request_id, call.tenant_id, call.key_name, call.user = request_id, tenant, key, user or None
    call.provider_used, call.model_used, call.model_requested, call.endpoint = (
        provider,
        model,
        requested,
        endpoint,
    )
    return call_to_record(
        call,
        f"{attempt_id:016x}",
        "crashed",
        not beside,
        recovered=True,
        tags=tuple(filter(None, tags.split(","))),
        model_label=label,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        usage_source="estimated" if is_billed else None,
        cost_usd_micro=usd_micro if is_billed else 0,
        at_s=admitted_us / 1e6 if admitted_us else time.time(),
    )
