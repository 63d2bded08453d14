"""What limits, queues, budgets, the ledger and Redis show on the page."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmgw._core.segment import Segment
from llmgw.metrics import Metrics, render


@pytest.fixture
def segment(tmp_path):
    return Segment(str(tmp_path / "state" / "segment"), 2)


@pytest.fixture
def workers(segment):
    return [Metrics(segment, slot) for slot in range(2)]


def page(segment, **hooks):
    """{(sample name, *sorted label pairs): value} as Prometheus' parser reads it."""
    found = {}
    for family in text_string_to_metric_families(render(segment, **hooks).decode()):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, "no sample twice"
            found[key] = sample.value
    return found


def value(found, name, **labels):
    return found[name, *sorted(labels.items())]


def has(found, name):
    return any(key[0] == name for key in found)


def test_refusals_of_all_workers_are_counted_by_tenant_and_limit(segment, workers):
    for worker in workers:
        worker.refused("acme", "tenant:tpm")
        worker.refused("acme", "tenant:tpm")
        worker.refused("acme", "provider:openai:rpm")
    workers[0].refused("zebra", "tenant:tpm")
    found = page(segment)
    name = "llm_rate_limit_exceeded_total"
    assert value(found, name, tenant="acme", limit="tenant:tpm") == 4
    assert value(found, name, tenant="acme", limit="provider:openai:rpm") == 2
    assert value(found, name, tenant="zebra", limit="tenant:tpm") == 1


def test_what_a_shadow_limit_would_have_refused_is_no_refusal(segment, workers):
    workers[0].shadow_refused("acme", "key:rpm", 3)
    workers[1].shadow_refused("acme", "key:rpm")
    workers[1].shadow_refused("acme", "key:rpm", -5)
    found = page(segment)
    assert value(found, "llm_rate_limit_shadow_exceeded_total", tenant="acme", limit="key:rpm") == 4
    assert not has(found, "llm_rate_limit_exceeded_total")


def test_the_queues_depth_is_the_sum_of_what_workers_said_last(segment, workers):
    workers[0].queue_depth(7, 1)
    workers[0].queue_depth(3, 0)
    workers[1].queue_depth(1, 5)
    found = page(segment)
    assert value(found, "llm_queue_depth", priority="interactive") == 4
    assert value(found, "llm_queue_depth", priority="batch") == 5


@pytest.mark.parametrize("end", ["released by the supervisor", "taken over by a successor"])
def test_nobody_waits_in_a_dead_workers_queue_nor_has_it_a_word_on_redis(segment, workers, end):
    workers[0].queue_depth(3, 4)
    workers[0].redis_up(False)
    if end == "released by the supervisor":
        segment.release(0)
    else:
        Metrics(segment, 0)
    found = page(segment)
    assert value(found, "llm_queue_depth", priority="interactive") == 0
    assert value(found, "llm_queue_depth", priority="batch") == 0
    assert not has(found, "llm_redis_up")


def test_waiting_is_a_histogram_in_seconds(segment, workers):
    for seconds in (0.0005, 0.2, 90.0, 3600.0):
        workers[0].queue_waited(seconds)
    workers[1].queue_waited(math.nan)
    found = page(segment)
    name = "llm_queue_wait_seconds"
    assert value(found, f"{name}_count") == 5
    assert value(found, f"{name}_sum") == pytest.approx(3690.2005)
    assert value(found, f"{name}_bucket", le="0.001") == 2
    assert value(found, f"{name}_bucket", le="0.25") == 3
    assert value(found, f"{name}_bucket", le="600.0") == 4


def test_the_ledgers_losses_and_failures_are_there_before_the_first(segment, workers):
    found = page(segment)
    assert value(found, "llm_ledger_lines_lost_total") == 0
    workers[0].ledger_lost(3)
    workers[1].ledger_lost(2)
    workers[0].ledger_lost(-1)
    found = page(segment)
    assert value(found, "llm_ledger_lines_lost_total") == 5


def test_redis_is_up_only_where_it_answers_every_worker_that_uses_it(segment, workers):
    assert not has(page(segment), "llm_redis_up")
    workers[0].redis_up(True)
    assert value(page(segment), "llm_redis_up") == 1
    workers[1].redis_up(False)
    assert value(page(segment), "llm_redis_up") == 0
    workers[1].redis_up(True)
    assert value(page(segment), "llm_redis_up") == 1
    workers[0].redis_up(None)
    workers[1].redis_up(None)
    assert not has(page(segment), "llm_redis_up")


def test_redis_commands_time_without_it_and_stranded_leases_add_up(segment, workers):
    assert not has(page(segment), "llm_redis_degraded_seconds_total")
    for worker in workers:
        worker.redis_command("ok")
        worker.redis_command("ok", 4)
        worker.redis_command("timeout")
        worker.redis_degraded(1.25)
        worker.lease_stranded("tokens", 1000)
    found = page(segment)
    assert value(found, "llm_redis_commands_total", result="ok") == 10
    assert value(found, "llm_redis_commands_total", result="timeout") == 2
    assert value(found, "llm_redis_degraded_seconds_total") == 2.5
    assert value(found, "llm_lease_stranded_total", unit="tokens") == 2000


def test_alerts_and_recovered_reservations_are_counted(segment, workers):
    workers[0].alert("sent")
    workers[0].alert("failed")
    workers[0].alert("sent")
    segment.count_recovered(3)
    segment.count_recovered(1)
    found = page(segment)
    assert value(found, "llm_alerts_sent_total", result="sent") == 2
    assert value(found, "llm_alerts_sent_total", result="failed") == 1
    assert value(found, "llm_reservations_recovered_total") == 4


def test_counts_of_limits_outlive_the_worker_and_the_gateway(tmp_path):
    path = str(tmp_path / "state" / "segment")
    before = Segment(path, 2)
    worker = Metrics(before, 1)
    worker.refused("acme", "tenant:rpm")
    worker.queue_waited(1.0)
    before.count_recovered(2)
    del worker, before
    after = Segment(path, 2)
    Metrics(after, 1).refused("acme", "tenant:rpm")
    found = page(after)
    assert value(found, "llm_rate_limit_exceeded_total", tenant="acme", limit="tenant:rpm") == 2
    assert value(found, "llm_queue_wait_seconds_count") == 1
    assert value(found, "llm_reservations_recovered_total") == 2


def test_what_is_left_of_budgets_is_asked_for_at_each_scrape(segment):
    left = {"1d": 12_345_678}

    def budgets():
        return [("acme", f"tenant:budget:{period}", usd_micro) for period, usd_micro in left.items()]

    labels = {"tenant": "acme", "budget": "tenant:budget:1d"}
    assert value(page(segment, budgets=budgets), "llm_budget_remaining_usd", **labels) == 12.345678
    left["1d"] = 0
    assert value(page(segment, budgets=budgets), "llm_budget_remaining_usd", **labels) == 0
    assert not has(page(segment), "llm_budget_remaining_usd")


def test_of_budgets_and_limits_with_the_same_labels_the_scarcest_is_shown(segment):
    found = page(
        segment,
        budgets=lambda: [("acme", "key:budget:1d", 5_000_000), ("acme", "key:budget:1d", 2_000_000)],
        limits=lambda: [
            ("acme", "key:rpm", 0.25),
            ("acme", "key:rpm", 0.75),
            ("", "provider:openai:tpm", 1.0),
        ],
    )
    assert value(found, "llm_budget_remaining_usd", tenant="acme", budget="key:budget:1d") == 2
    assert value(found, "llm_limit_used_ratio", tenant="acme", limit="key:rpm") == 0.75
    assert value(found, "llm_limit_used_ratio", tenant="", limit="provider:openai:tpm") == 1


@pytest.mark.parametrize("method", ["refused", "shadow_refused"])
def test_labels_are_texts(workers, method):
    with pytest.raises(TypeError):
        getattr(workers[0], method)(None, "tenant:rpm")
    with pytest.raises(TypeError):
        getattr(workers[0], method)("acme", None)


def test_limits_beyond_all_bounds_overflow_and_none_is_lost(segment, workers):
    for number in range(20_000):
        workers[0].refused(f"tenant-{number}", "tenant:tokens-per-minute-of-a-long-name")
        workers[0].alert("sent")
    found = page(segment)
    refused = sum(count for key, count in found.items() if key[0] == "llm_rate_limit_exceeded_total")
    assert refused == 20_000
    assert value(found, "llm_alerts_sent_total", result="sent") == 20_000
