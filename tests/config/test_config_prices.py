"""What a request costs, to the micro-dollar, and when nobody knows."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.config import Bounds, Model, Price, Target, bounds_of, cost_usd_micro, price_of, prices

TARGETS = (Target(provider="p"),)
TOKENS = st.integers(0, 10**9)
PUSD = st.integers(0, 10**9)
PRICES = st.tuples(PUSD, PUSD, PUSD, PUSD).map(
    lambda each: Price(
        input_pusd=each[0], output_pusd=each[1], cached_input_pusd=each[2], request_pusd=each[3]
    )
)


def test_a_price_in_the_configuration_wins_over_the_table() -> None:
    own = Price(input_pusd=1, output_pusd=2)
    assert price_of(Model(name="gpt-4o", targets=TARGETS, price=own), TARGETS[0], "gpt-4o") is own
    assert price_of(Model(name="x", targets=TARGETS), TARGETS[0], "gpt-4o") == price_of(None, None, "gpt-4o")


def test_a_price_of_a_target_wins_over_its_models() -> None:
    own, models = Price(input_pusd=1, output_pusd=2), Price(input_pusd=3, output_pusd=4)
    priced, plain = Target(provider="p", price=own), Target(provider="q")
    model = Model(name="gpt-4o", targets=(priced, plain), price=models)
    assert price_of(model, priced, "gpt-4o") is own
    assert price_of(model, plain, "gpt-4o") is models


def test_known_models_cost_what_their_price_lists_say() -> None:
    assert price_of(None, None, "gpt-4o-mini") == Price(
        input_pusd=150_000, output_pusd=600_000, cached_input_pusd=75_000
    )
    assert price_of(None, None, "text-embedding-3-small") == Price(input_pusd=20_000, output_pusd=0)
    assert price_of(None, None, "claude-haiku-4-5") == Price(
        input_pusd=10**6, output_pusd=5 * 10**6, cached_input_pusd=10**5
    )


@pytest.mark.parametrize(
    ("snapshot", "model"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
    ],
)
def test_a_dated_snapshot_costs_what_its_model_does(snapshot: str, model: str) -> None:
    assert price_of(None, None, snapshot) == price_of(None, None, model) is not None


def test_a_snapshot_with_a_price_of_its_own_keeps_it() -> None:
    assert price_of(None, None, "gpt-4o-2024-05-13") == Price(input_pusd=5 * 10**6, output_pusd=15 * 10**6)


@pytest.mark.parametrize(
    "name",
    [
        "", "my-deployment", "gpt-4o-0806", "gpt-4o-2024", "gpt-4o-2024-13-01", "gpt-4o-2024-08-32",
        "gpt-4o-202408-06", "gpt-4o-2024-0806", "gpt-4o-20240806-preview", "gpt-4o-2024-08-06\n",
        "gpt-4o2024-08-06", "GPT-4o", "gpt-4o-", "gpt-4o-realtime", "ft:gpt-4o:org", "-2024-08-06",
        "gpt-4o-2024-08-06-2024-08-06", "gpt-4o" * 500,
    ],
)  # fmt: skip
def test_nothing_but_a_date_is_taken_off_and_an_unknown_price_is_unknown(name: str) -> None:
    assert price_of(None, None, name) is None


def test_the_memory_of_names_that_clients_send_has_a_bound() -> None:
    for number in range(3000):
        assert price_of(None, None, f"model-{number}") is None
    assert prices._listed.cache_info().currsize <= 1024


@given(PRICES, TOKENS, TOKENS, TOKENS)
def test_a_cost_is_the_exact_sum_rounded_up(price: Price, asked: int, cached: int, answered: int) -> None:
    cached = min(cached, asked)
    cost = cost_usd_micro(price, asked, cached, answered)
    exact = (
        (asked - cached) * price.input_pusd
        + cached * price.cached_input_pusd
        + answered * price.output_pusd
        + price.request_pusd
    )
    assert (cost - 1) * 10**6 < exact <= cost * 10**6


@given(PRICES, st.integers(-5, 100), st.integers(-5, 200), st.integers(-5, 100))
def test_no_report_of_usage_makes_a_cost_negative(
    price: Price, asked: int, cached: int, answered: int
) -> None:
    assert cost_usd_micro(price, asked, cached, answered) >= 0
    assert cost_usd_micro(price, asked, cached, answered) >= cost_usd_micro(price, 0, 0, answered)


def test_a_known_bill() -> None:
    price = Price(input_pusd=150_000, output_pusd=600_000, cached_input_pusd=75_000)
    assert cost_usd_micro(price, 1000, 400, 500) == 420  # 600 x 0.15 + 400 x 0.075 + 500 x 0.60 USD/M
    assert cost_usd_micro(price, 1, 0, 0) == 1
    assert cost_usd_micro(price, 0, 0, 0) == 0
    assert cost_usd_micro(price.model_copy(update={"request_pusd": 10**10}), 1, 0, 0) == 10_001
    assert cost_usd_micro(price, 1000, -7, -7) == cost_usd_micro(price, 1000, 0, 0) == 150


def test_a_model_takes_what_its_own_words_say_and_else_what_the_table_does() -> None:
    listed = Bounds(max_input_tokens=128_000, max_output_tokens=16_384)
    assert bounds_of(None, "gpt-4o") == bounds_of(None, "gpt-4o-2024-08-06") == listed
    assert bounds_of(Model(name="x", targets=TARGETS), "gpt-4o") == listed
    assert bounds_of(Model(name="x", targets=TARGETS, max_output=5), "gpt-4o") == Bounds(128_000, 5)
    assert bounds_of(Model(name="x", targets=TARGETS, max_input=7), "gpt-4o") == Bounds(7, 16_384)
    both = Model(name="x", targets=TARGETS, max_input=7, max_output=5)
    assert bounds_of(both, "gpt-4o") == bounds_of(both, "my-own") == Bounds(7, 5)


@pytest.mark.parametrize("name", ["", "my-own", "gpt-4o" * 500])
def test_what_a_model_takes_is_unknown_where_nobody_says(name: str) -> None:
    assert bounds_of(None, name) == Bounds(None, None)
    assert bounds_of(Model(name="x", targets=TARGETS, max_output=5), name) == Bounds(None, 5)


def test_the_table_names_its_source_and_holds_sound_entries() -> None:
    table = json.loads(prices.TABLE.read_text())
    assert {"repository", "licence", "version", "taken", "scope"} <= set(table["source"])
    assert len(table["models"]) >= 60
    for name, entry in table["models"].items():
        words = {"provider", "input", "output", "cached_input", "max_input", "max_output"}
        assert set(entry) <= words, name
        assert all(re.fullmatch(r"\d+(\.\d{1,6})?", entry[word]) for word in ("input", "output")), name
        price, bounds = prices.table()[name]
        assert all(bound is None or 0 < bound <= 10**8 for bound in bounds), name
        assert 0 < price.cached_input_pusd <= price.input_pusd, name
        assert price.output_pusd >= price.input_pusd or "embedding" in name, name
