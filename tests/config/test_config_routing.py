"""What the nodes of routing say to whoever asks them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw import config
from llmgw.config import routing_fields as fields
from llmgw.errors import ConfigError

MODEL = """
providers: {mock: {dialect: mock}}
models:
  a: {targets: [{provider: mock}, {provider: mock, model: other}], %s}
  b: {targets: [{provider: mock}]}
tenants: {demo: {keys: [{name: demo, key: sk-demo}]}}
"""


def model(words: str) -> config.Model:
    return config.load(MODEL % words, source="f", environ={}).models["a"]


@pytest.mark.parametrize(
    "words,served",
    [
        ("weight: 1", ""),
        ("fallbacks: [b]", "rate_limit timeout server_error"),
        ("fallbacks: {default: [b]}", "rate_limit timeout server_error"),
        ("fallbacks: {default: [b], timeout: []}", "rate_limit server_error"),
        ("fallbacks: {timeout: [b], context_length: [b]}", "timeout context_length"),
        ("fallbacks: {default: [b], content_policy: [b]}", "rate_limit timeout server_error content_policy"),
    ],
)
def test_a_list_alone_serves_what_another_model_would_have_answered(words: str, served: str) -> None:
    fallbacks = config.Fallbacks() if words.startswith("weight") else model(words).fallbacks
    assert [cause for cause in config.FALLBACK_CLASSES if fallbacks.of(cause) == ("b",)] == served.split()
    assert all(fallbacks.of(cause) in ((), ("b",)) for cause in config.FALLBACK_CLASSES)


@given(st.integers(500, 999))
def test_a_hedge_comes_after_the_quantile_that_is_named(thousandths: int) -> None:
    hedge = config.Hedge(after=f"p{thousandths // 10}.{thousandths % 10}")
    assert (hedge.after_share, hedge.after_s) == (thousandths / 1000, 0.0)


def test_a_hedge_after_a_duration_knows_no_quantile() -> None:
    hedge = model("fallbacks: [b], hedge: {after: 250ms}").hedge
    assert (hedge.after_share, hedge.after_s) == (0.0, 0.25)


@pytest.mark.parametrize("after", ["p", "p49.9", "p100", "p95.55", "P95", "95", "p9", "1ms ", "", 1.0, None])
def test_a_hedge_comes_after_a_quantile_or_a_duration_and_nothing_else(after: object) -> None:
    with pytest.raises(ValueError, match="p50 to p99.9, or a duration from 1ms to 1h"):
        config.Hedge(after=after)


@pytest.mark.parametrize("name", sorted(fields.CREDENTIAL_HEADERS))
def test_no_credential_decides_where_a_request_goes(name: str) -> None:
    for spelling in (name, name.title(), name.upper()):
        with pytest.raises(ValueError, match="carries no credential"):
            fields.hash_on(f"header:{spelling}")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "ä", "x" * 65, "a\n", "(a)"])
def test_what_is_no_header_cannot_be_hashed_on(name: str) -> None:
    with pytest.raises(ValueError, match="header:NAME"):
        fields.hash_on(f"header:{name}")


@pytest.mark.parametrize(
    "path", ["", "models", "/a b", "/a?b", "/a#b", "/..", "/a/../b", "/./a", "http://h/", "/é"]
)
def test_a_health_check_stays_below_its_base_url(path: str) -> None:
    with pytest.raises(ValueError, match="a path below base_url"):
        config.HealthCheck(path=path)


@pytest.mark.parametrize("path", ["/", "/models", "/v1/models/", "/a..b/.well-known", "/health;x=%20"])
def test_a_health_check_asks_for_any_plain_path(path: str) -> None:
    assert config.HealthCheck(path=path).path == path


def test_a_message_fits_into_its_bound_in_bytes_and_not_in_letters() -> None:
    fits = "é" * (fields.MESSAGE_MAX // 2)
    assert config.Degraded(message=fits).message == fits
    for text in (fits + "x", "", " \n", "\ud800"):
        with pytest.raises(ValueError, match="text of at most 64KB"):
            config.Degraded(message=text)


@pytest.mark.parametrize("words", ["enabled: false", '"": false'])
def test_a_breaker_is_switched_off_by_one_word_alone(words: str) -> None:
    text = MODEL.replace("dialect: mock", "dialect: mock, breaker: {%s}") % (words, "estimate: exact")
    with pytest.raises(ConfigError, match="unknown key|no word"):
        config.load(text, source="f", environ={})


def test_a_score_is_its_own_strategy_also_in_code() -> None:
    score = config.Score(cost=1)
    targets = (config.Target(provider="p"),)
    assert config.Model(name="m", targets=targets, score=score).strategy == "score"
    assert config.Model(name="m", targets=targets).strategy == "weighted"


def test_memory_is_left_to_the_worker_by_a_word() -> None:
    assert fields.memory_bytes("auto") == 0
    assert fields.memory_bytes("64MB") == 64 << 20
    for value in ("63MB", "0B", "all", True, None):
        with pytest.raises(ValueError, match="auto, or a size from 64MB"):
            fields.memory_bytes(value)


def test_a_side_target_is_a_target_like_any_other() -> None:
    canary = config.Canary(target=config.Upstream(provider="p", model="m"), share=0.5)
    assert canary.target == config.Target(provider="p", model="m")
