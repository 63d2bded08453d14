"""Sums are what their records say: each record once in the total, once in each of its groups."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgerkit import DAY_S, NOVEMBER_S, record

from llmgw.ledger import BY, Sum, Totals
from llmgw.ledger.show import usd_text


def totals_of(by, *lines):
    totals = Totals(by)
    for line in lines:
        totals.add(orjson.loads(line))
    return totals


@pytest.mark.parametrize(
    ("word", "facts", "group"),
    [
        ("tenant", {"tenant_id": "acme"}, "acme"),
        ("key", {"tenant_id": "acme", "key_name": "web"}, "acme/web"),
        (
            "model",
            {"model_label": "gpt-4o", "model_requested": "gpt-4o", "model_used": "deployment-7"},
            "gpt-4o",
        ),
        ("model", {"model_label": "gpt-*", "model_requested": "gpt-4o", "model_used": "gpt-4o"}, "gpt-4o"),
        ("provider", {"provider_used": "azure"}, "azure"),
        ("user", {"user": "u1"}, "u1"),
        ("user", {"user": None}, ""),
        ("tag", {"tags": ("blue",)}, "blue"),
        ("tag", {"tags": ()}, ""),
        ("day", {"at_s": NOVEMBER_S + DAY_S - 0.001}, "2026-11-01"),
        ("day", {"at_s": NOVEMBER_S + DAY_S}, "2026-11-02"),
    ],
)
def test_each_word_groups_by_its_fact(word, facts, group):
    assert list(totals_of([word], record(**facts)).rows) == [(group,)]


def test_the_client_pays_for_one_attempt_and_the_others_stand_beside_it():
    first = record("a-1", charged=False, input_tokens=100, output_tokens=3, cost_usd_micro=50)
    second = record("a-2", input_tokens=100, output_tokens=20, cached_tokens=64, cost_usd_micro=70)
    assert totals_of([], first, second).total == Sum(
        requests=1,
        attempts=2,
        input_tokens=100,
        output_tokens=20,
        cached_tokens=64,
        cost_usd_micro=70,
        uncharged_usd_micro=50,
    )


def test_an_unknown_price_is_counted_and_is_not_zero_silently():
    with_tokens = record("a1", input_tokens=1, cost_usd_micro=-1)
    without = record("a2", cost_usd_micro=-1)
    total = totals_of([], with_tokens, without).total
    assert (total.unpriced, total.cost_usd_micro, total.requests) == (1, 0, 2)


def test_a_record_with_two_tags_is_in_both_rows_and_once_in_the_total():
    totals = totals_of(
        ["tag"], record(tags=("a", "b"), cost_usd_micro=5), record(tags=("b",), cost_usd_micro=7)
    )
    assert {group: row.cost_usd_micro for group, row in totals.rows.items()} == {("a",): 5, ("b",): 12}
    assert totals.total.cost_usd_micro == 12


def test_several_words_group_by_all_of_them():
    lines = [record(tenant_id=tenant, tags=("a", "b"), at_s=NOVEMBER_S) for tenant in ("x", "y")]
    totals = totals_of(["tenant", "tag", "day"], *lines)
    assert sorted(totals.rows) == [(tenant, tag, "2026-11-01") for tenant in ("x", "y") for tag in ("a", "b")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["x", "y", "z"]), st.booleans(), st.integers(-1, 10**12), st.integers(0, 10**6)
        ),
        max_size=30,
    )
)
def test_rows_add_up_to_the_total_for_every_word_but_tag(entries):
    lines = [
        record(
            tenant_id=name, key_name=name, model_label=name, provider_used=name, user=name, charged=charged
        )
        if cost < 0
        else record(tenant_id=name, charged=charged, cost_usd_micro=cost, input_tokens=tokens)
        for name, charged, cost, tokens in entries
    ]
    for word in set(BY) - {"tag"}:
        totals = totals_of([word], *lines)
        for field in Sum.__slots__:
            assert sum(getattr(row, field) for row in totals.rows.values()) == getattr(totals.total, field)


@given(st.integers(-(10**18), 10**18))
def test_money_is_exact_as_text(micro):
    sign, text = (-1, usd_text(micro)[1:]) if micro < 0 else (1, usd_text(micro))
    dollars, decimals = text.split(".")
    assert len(decimals) == 6
    assert sign * (int(dollars) * 1_000_000 + int(decimals)) == micro
