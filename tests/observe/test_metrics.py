"""What is counted, and the page that Prometheus reads, judged by its own parser."""

import math
import os
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmgw._core import meter
from llmgw._core.segment import Segment
from llmgw._core.series import OVERFLOW
from llmgw._wire.call import Call
from llmgw.metrics import FAMILIES, Metrics, render


@pytest.fixture
def segment(tmp_path):
    return Segment(str(tmp_path / "state" / "segment"), 2)


@pytest.fixture
def metrics(segment):
    return Metrics(segment, 0)


def call(**facts):
    made = Call()
    made.tenant_id, made.provider_used, made.status = "acme", "openai", 200
    made.started_s = 100.0
    for name, value in facts.items():
        setattr(made, name, value)
    return made


def page(segment):
    """{(sample name, *sorted label pairs): value} as Prometheus' parser reads it."""
    found = {}
    for family in text_string_to_metric_families(render(segment).decode()):
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in found, "no sample twice"
            found[key] = sample.value
    return found


def value(segment, name, **labels):
    return page(segment)[name, *sorted(labels.items())]


# Contract section 6, as far as there is something to fill it.
PROMISED = {
    "llm_requests_total": {"tenant", "model", "provider", "status"},
    "llm_request_duration_seconds": {"model", "provider"},
    "llm_time_to_first_token_seconds": {"model", "provider"},
    "llm_gateway_overhead_seconds": set(),
    "llm_tokens_used_total": {"tenant", "model", "direction"},
    "llm_cost_usd_total": {"tenant", "model"},
    "llm_upstream_attempts_total": {"provider", "outcome"},
    "llm_price_unknown_total": {"model"},
    "llm_log_lines_dropped_total": set(),
    "llm_rate_limit_exceeded_total": {"tenant", "limit"},
    "llm_rate_limit_shadow_exceeded_total": {"tenant", "limit"},
    "llm_queue_wait_seconds": set(),
    "llm_ledger_lines_lost_total": set(),
    "llm_redis_commands_total": {"result"},
    "llm_redis_degraded_seconds_total": set(),
    "llm_lease_stranded_total": {"unit"},
    "llm_alerts_sent_total": {"result"},
    "llm_overload_refused_total": {"reason"},
    "llm_health_checks_total": {"provider", "outcome"},
    "llm_mirror_requests_total": {"model", "outcome"},
    "llm_mirror_latency_seconds": {"model", "side"},
}


def test_the_promised_families_have_the_promised_labels():
    assert {family.name: set(family.labels) for family in FAMILIES} == PROMISED
    for family in FAMILIES:
        labels, values = meter.SHAPES[family.number]
        assert labels == len(family.labels) - bool(family.split)
        assert values == (len(family.bounds) + 2 if family.bounds else max(1, len(family.split)))
        assert list(family.bounds) == sorted(set(family.bounds))


def test_before_the_first_request_every_family_is_there_and_says_nothing(segment, metrics):
    text = render(segment).decode()
    for name in [
        *PROMISED,
        "llm_inflight_requests",
        "llm_event_loop_lag_seconds",
        "llm_worker_restarts_total",
        "llm_queue_depth",
        "llm_reservations_recovered_total",
    ]:
        assert f"# TYPE {name} " in text
    assert OVERFLOW not in text
    assert value(segment, "llm_inflight_requests") == 0


def test_a_request_is_in_flight_from_its_start_to_its_end(segment, metrics):
    for _ in range(3):
        metrics.started()
    metrics.finished(call(), "m", 0.0)
    assert value(segment, "llm_inflight_requests") == 2


def test_one_stream_is_counted_in_every_family_that_it_concerns(segment, metrics):
    stream = call(
        stream=True, ttft_ms=80.0, input_tokens=10, output_tokens=20, cached_tokens=4, cost_usd_micro=1234
    )
    metrics.finished(stream, "gpt-*", 0.00005, 100.2)
    labels = {"model": "gpt-*", "provider": "openai"}
    found = page(segment)

    def got(name, **names):
        return found[name, *sorted(names.items())]

    assert got("llm_requests_total", tenant="acme", status="200", **labels) == 1
    assert got("llm_request_duration_seconds_sum", **labels) == pytest.approx(0.2)
    assert got("llm_request_duration_seconds_bucket", le="0.1", **labels) == 0
    assert got("llm_request_duration_seconds_bucket", le="0.25", **labels) == 1
    assert got("llm_time_to_first_token_seconds_sum", **labels) == pytest.approx(0.08)
    assert got("llm_gateway_overhead_seconds_bucket", le="4e-05") == 0
    assert got("llm_gateway_overhead_seconds_bucket", le="5e-05") == 1
    assert got("llm_gateway_overhead_seconds_sum") == pytest.approx(0.00005)
    for direction, tokens in (("input", 10), ("output", 20), ("cached", 4)):
        assert got("llm_tokens_used_total", tenant="acme", model="gpt-*", direction=direction) == tokens
    assert got("llm_cost_usd_total", tenant="acme", model="gpt-*") == 0.001234
    assert not any(key[0] == "llm_price_unknown_total" for key in found)


def test_tokens_without_a_price_are_told_of_and_cost_nothing(segment, metrics):
    metrics.finished(call(input_tokens=1, cost_usd_micro=-1), "m", 0.0)
    metrics.finished(call(cost_usd_micro=-1, status=401), "", 0.0)  # used nothing: no price is missing
    found = page(segment)
    assert found["llm_price_unknown_total", ("model", "m")] == 1
    assert [key for key in found if key[0] == "llm_price_unknown_total"] == [
        ("llm_price_unknown_total", ("model", "m"))
    ]
    assert not any(key[0] == "llm_cost_usd_total" for key in found)


def test_a_cost_without_tokens_is_a_cost(segment, metrics):
    metrics.finished(call(cost_usd_micro=40_000), "image", 0.0)
    assert value(segment, "llm_cost_usd_total", tenant="acme", model="image") == 0.04


def test_only_streams_have_a_time_to_first_token(segment, metrics):
    metrics.finished(call(ttft_ms=50.0), "m", 0.0)
    metrics.finished(call(ttft_ms=-1.0, stream=True), "m", 0.0)
    assert not any(key[0].startswith("llm_time_to_first_token") for key in page(segment))


def test_attempts_and_dropped_lines_are_counted(segment, metrics):
    for outcome in ("ok", "ok", "timeout"):
        metrics.attempt("openai", outcome)
    metrics.dropped_lines(3)
    metrics.dropped_lines(-1)
    assert value(segment, "llm_upstream_attempts_total", provider="openai", outcome="ok") == 2
    assert value(segment, "llm_upstream_attempts_total", provider="openai", outcome="timeout") == 1
    assert value(segment, "llm_log_lines_dropped_total") == 3


@pytest.mark.parametrize(
    ("duration_s", "bucket"), [(0.0001, "0.0001"), (0.000101, "0.00025"), (300.0, "300.0"), (300.1, "+Inf")]
)
def test_a_bound_belongs_to_its_bucket(segment, metrics, duration_s, bucket):
    metrics.finished(call(started_s=0.0), "m", 0.0, duration_s)
    buckets = {
        dict(key[1:])["le"]: count
        for key, count in page(segment).items()
        if key[0] == "llm_request_duration_seconds_bucket"
    }
    first = next(name for name, count in buckets.items() if count)
    assert float(first) == float(bucket)


@pytest.mark.parametrize("strange", [-1.0, math.nan, math.inf, -math.inf, 1e300])
def test_a_time_that_is_none_is_counted_without_harm(segment, metrics, strange):
    metrics.finished(call(started_s=0.0, stream=True, ttft_ms=strange), "m", strange, 1.0)
    metrics.finished(call(started_s=strange), "m", 0.0, 1.0)
    assert value(segment, "llm_gateway_overhead_seconds_count") == 2
    assert value(segment, "llm_request_duration_seconds_count", model="m", provider="openai") == 2


def test_workers_are_merged_sample_by_sample(segment):
    for slot, times in ((0, 3), (1, 4)):
        metrics = Metrics(segment, slot)
        metrics.started()
        for _ in range(times):
            metrics.finished(call(input_tokens=5), "m", 0.001, 101.0)
        for _ in range(times):
            metrics.started()
    assert (
        value(segment, "llm_requests_total", tenant="acme", model="m", provider="openai", status="200") == 7
    )
    assert value(segment, "llm_tokens_used_total", tenant="acme", model="m", direction="input") == 35
    assert value(segment, "llm_gateway_overhead_seconds_count") == 7
    assert value(segment, "llm_inflight_requests") == 2


def test_labels_of_any_text_make_a_page_that_can_be_parsed(segment, metrics):
    names = ['quote " back \\ newline \n', "\u00e9\u4e2d\U0001f600", "", "x" * 1000, "a\0b", "\ud800"]
    for name in names:
        metrics.finished(call(tenant_id=name), name, 0.0)
    models = {dict(key[1:])["model"] for key in page(segment) if key[0] == "llm_requests_total"}
    assert names[0] in models
    assert names[1] in models
    assert "a b" in models
    assert "?" in models
    assert len(models) == len(names)


def test_labels_beyond_all_bounds_overflow_into_one_series_and_none_is_lost(segment, metrics):
    for number in range(30_000):
        metrics.finished(call(tenant_id=f"tenant-{number}", input_tokens=1, cost_usd_micro=1), "m", 0.0)
    found = page(segment)
    for name, per_request in (("llm_requests_total", 1), ("llm_cost_usd_total", 1e-6)):
        total = sum(count for key, count in found.items() if key[0] == name)
        assert total == pytest.approx(30_000 * per_request)
        assert any(("tenant", OVERFLOW) in key for key in found if key[0] == name)


def test_processes_are_shown_by_name_and_only_while_they_run(segment):
    segment.enlist(0, os.getpid())
    segment.enlist(1, 2**22 + 1)  # beyond any process id
    found = page(segment)
    assert found["process_open_fds", ("process", "worker-0")] > 3
    assert found["process_resident_memory_bytes", ("process", "supervisor")] > 1e6
    assert 0 < time.time() - found["process_start_time_seconds", ("process", "worker-0")] < 3600 * 24
    assert ("process_cpu_seconds_total", ("process", "worker-1")) not in found


def test_the_supervisors_counts_and_the_loops_lag_are_on_the_page(segment):
    segment.count_restart(1)
    segment.count_reload(True)
    segment.beat(1)
    assert value(segment, "llm_worker_restarts_total") == 1
    assert value(segment, "llm_config_reloads_total", result="applied") == 1
    assert value(segment, "llm_config_reloads_total", result="refused") == 0
    assert value(segment, "llm_event_loop_lag_seconds") >= 0


def test_the_end_of_a_request_takes_no_none(metrics):
    with pytest.raises(TypeError):
        metrics.finished(None, "m", 0.0)
    with pytest.raises(TypeError):
        metrics.finished(call(), None, 0.0)
