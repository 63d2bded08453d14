"""What a worker does once a second beside serving: periods, alerts, and metrics of what no request counts."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from llmgw._core.limiter import USD, Gauge, Limiter
from llmgw.admission import Admission
from llmgw.limits.alerts import Alert, Alerts, Watch
from llmgw.limits.rules import Limit
from llmgw.metrics import Metrics
from llmgw.store.adapter import Store
from llmgw.store.leases import is_leased
from llmgw.webhook import AlertSender, read_memory, write_memory

logger = logging.getLogger("llmgw")

TURN_S: Final = 1.0
# Of one machine, one worker speaks: alerts and shadow limits are the machine's, not each worker's.
SPEAKER: Final = 0
# Turns: what other machines had on lease and did not use comes back meanwhile.
LOOKS: Final = 4
MEMORY: Final = "alerts.json"  # in the state directory


class Upkeep:
    def __init__(self, admission: Admission, limiter: Limiter, metrics: Metrics, store: Store | None) -> None:
        self.admission = admission
        self.limiter = limiter
        self.metrics = metrics
        self.store = store
        self.is_speaker = limiter.slot == SPEAKER
        self.memory_path = os.path.join(admission.config.server.state_dir, MEMORY)
        self.alerts = Alerts(read_memory(self.memory_path) if self.is_speaker else b"")
        self.sender = AlertSender(admission.config.alerts.webhook, metrics.alert)
        self.shadows: dict[bytes, int] = {}
        self.looks: dict[bytes, deque[int]] = {}
        self.is_redis_away = False
        self.claims: set[asyncio.Task[None]] = set()
        self.redis_before: dict[str, int] = {}
        self.redis_results: dict[str, int] = {}
        self.configure(admission)
        self.task = asyncio.get_running_loop().create_task(self.run())

    def configure(self, admission: Admission) -> None:
        """Another configuration is in force."""
        self.admission = admission
        self.sender.url = admission.config.alerts.webhook
        self.watches = [watch_of(gauge) for gauge in budgets_of(admission) if limit_of(gauge).alert_at]
        if self.is_speaker:
            for gauge in shadows_of(admission):  # what was counted before is counted
                self.shadows.setdefault(gauge.key, self.limiter.shadow_refusals(gauge))

    async def run(self) -> None:
        while True:
            try:
                self.turn(time.time())
                if self.alerts.is_changed:
                    await asyncio.to_thread(write_memory, self.memory_path, self.alerts.memory())
            except Exception:  # the next turn may do better; without turns no budget would begin anew
                logger.exception("upkeep failed")
            await asyncio.sleep(TURN_S)

    def turn(self, wall_s: float) -> None:
        self.admission.refresh(wall_s)
        if self.is_speaker:
            self.raise_alerts(wall_s)
            self.count_shadows()
        if self.store is not None:
            self.count_redis(self.store)
            self.note_outage(self.store)

    def raise_alerts(self, wall_s: float) -> None:
        now_us = self.limiter.now_us()
        readings = [
            (watch, spent)
            for watch, gauge in self.watches
            if (spent := self.maybe_spent(gauge, now_us)) is not None
        ]
        for alert in self.alerts.check(readings, wall_s):
            self.start(self.tell(alert))
        for word in self.alerts.take_rearmed():
            self.start(self.give_up(word))

    def maybe_spent(self, gauge: Gauge, now_us: int) -> int | None:
        """By the fleet where it shares. None: not looked at yet; too little would count as a fall."""
        used, reserved = self.limiter.read(gauge, now_us)
        spent = max(used - reserved, 0)
        leases = self.admission.resources.leases
        if leases is None or not is_leased(gauge):
            return spent
        fleet = leases.maybe_used(gauge)
        if fleet is None:
            self.looks.pop(gauge.key, None)
            return spent if leases.is_away else None
        looks = self.looks.setdefault(gauge.key, deque(maxlen=LOOKS))
        looks.append(fleet - reserved - self.limiter.lease_left(gauge, now_us))
        return max(min(looks), spent) if len(looks) == LOOKS else None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.claims.add(task)
        task.add_done_callback(self.claims.discard)

    async def tell(self, alert: Alert) -> None:
        """Of machines that share, the first tells; where Redis is away, each does."""
        leases = self.admission.resources.leases
        is_ours = None
        if leases is not None and not alert.is_shadow:
            is_ours = await leases.maybe_claim(alert.word, alert.stays_us)
        if is_ours is not False:
            self.sender.send(alert)

    async def give_up(self, word: str) -> None:
        leases = self.admission.resources.leases
        if leases is not None:
            await leases.maybe_claim(word, 0)

    def count_shadows(self) -> None:
        for gauge in shadows_of(self.admission):
            count = self.limiter.shadow_refusals(gauge)
            before = self.shadows.get(gauge.key, 0)
            if count > before:
                limit = limit_of(gauge)
                self.metrics.shadow_refused(limit.tenant, limit.label, count - before)
            self.shadows[gauge.key] = count

    def count_redis(self, store: Store) -> None:
        counters, before = store.counters, self.redis_before
        now = {"away_us": store.away_us, "stranded": counters.stranded, "losses": counters.losses}
        news = {word: count - before.get(word, 0) for word, count in now.items()}
        self.metrics.redis_up(not store.is_away)
        self.metrics.redis_degraded(news["away_us"] / 1e6)
        self.metrics.lease_stranded("all", news["stranded"])
        if news["losses"]:
            logger.warning("Redis had forgotten what was used: it is told anew")
        self.redis_before = now
        results = counters.results()
        for result, count in results.items():
            if count > self.redis_results.get(result, 0):
                self.metrics.redis_command(result, count - self.redis_results.get(result, 0))
        self.redis_results = results

    def note_outage(self, store: Store) -> None:
        if store.is_away == self.is_redis_away:
            return
        self.is_redis_away = store.is_away
        if store.is_away:
            logger.warning("Redis does not answer: each machine keeps to its part of the limits")
            return
        waited_ms = store.counters.longest_wait_us / 1e3
        logger.warning("Redis answers again; a request waited %.1f ms for it at most", waited_ms)
        store.counters.longest_wait_us = 0

    def budgets_left(self) -> Iterator[tuple[str, str, int]]:
        """(tenant, budget, micro-USD), for whoever looks at the metrics; of the fleet where it shares."""
        now_us, leases = self.limiter.now_us(), self.admission.resources.leases
        for gauge in budgets_of(self.admission):
            used, _ = self.limiter.read(gauge, now_us)
            fleet = leases.maybe_used(gauge) if leases is not None and is_leased(gauge) else None
            yield limit_of(gauge).tenant, limit_of(gauge).label, gauge.limit - max(used, fleet or 0)

    def limits_used(self) -> Iterator[tuple[str, str, float]]:
        """(tenant, limit, share of it that is used), of what the configuration names."""
        now_us = self.limiter.now_us()
        for gauge in self.admission.rules.configured():
            if gauge.limit and limit_of(gauge).scope != "user":
                used, _ = self.limiter.read(gauge, now_us)
                yield limit_of(gauge).tenant, limit_of(gauge).label, used / gauge.limit

    async def close(self) -> None:
        self.task.cancel()
        if self.claims:
            await asyncio.wait(self.claims)
        await self.sender.close()


def budgets_of(admission: Admission) -> list[Gauge]:
    """Without those of single users, whose number nobody knows."""
    return [
        gauge
        for gauge in admission.rules.configured()
        if gauge.unit == USD and limit_of(gauge).scope != "user"
    ]


def shadows_of(admission: Admission) -> list[Gauge]:
    return [gauge for gauge in admission.rules.configured() if gauge.is_shadow]


def limit_of(gauge: Gauge) -> Limit:
    limit = gauge.info
    assert isinstance(limit, Limit)
    return limit


def watch_of(gauge: Gauge) -> tuple[Watch, Gauge]:
    limit = limit_of(gauge)
    return Watch(gauge, limit.tenant, limit.label, limit.alert_at), gauge
