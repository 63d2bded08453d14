"""The words of the file and what they mean."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.config import units
from llmgw.config.expand import Unexpandable, expand

DURATION_UNITS = {"ms": Decimal("0.001"), "s": 1, "m": 60, "h": 3600, "d": 86400}
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)


@given(st.integers(0, 999_999_999), st.integers(0, 999_999), st.sampled_from(sorted(DURATION_UNITS)))
def test_a_duration_is_its_number_times_its_unit(whole: int, part: int, unit: str) -> None:
    text = f"{whole}.{part:06}"
    assert units.duration_s(text + unit) == float(Decimal(text) * DURATION_UNITS[unit])


@given(st.integers(0, 999_999_999), st.sampled_from([("B", 0), ("KB", 10), ("MB", 20), ("GB", 30)]))
def test_a_size_counts_in_steps_of_1024(number: int, unit: tuple[str, int]) -> None:
    assert units.size_bytes(f"{number}{unit[0]}") == number << unit[1]


@given(st.integers(0, 10**15 - 1))
def test_a_price_is_exact_to_the_pico_dollar(pusd: int) -> None:
    assert units.price_pusd(f"{pusd // 10**6}.{pusd % 10**6:06}") == pusd


@given(st.integers(0, 10**15 - 1))
def test_an_amount_of_money_is_exact_to_the_micro_dollar(usd_micro: int) -> None:
    text = f"{usd_micro // 10**6}.{usd_micro % 10**6:06}"
    assert units.usd_micro(text) == usd_micro
    assert units.request_pusd(text) == usd_micro * 10**6


@pytest.mark.parametrize(
    "text", ["0", "0.0", "1.1", "1.000001", "2", "-0.5", "80%", ".8", "0,8", "1e-1", "", "nan"]
)
def test_a_fraction_is_above_zero_and_at_most_one(text: str) -> None:
    with pytest.raises(ValueError, match="a fraction"):
        units.fraction(text)


@given(st.integers(1, 10**6))
def test_a_fraction_is_its_decimal_text(millionths: int) -> None:
    assert units.fraction(f"{millionths // 10**6}.{millionths % 10**6:06}") == millionths / 10**6


@pytest.mark.parametrize(
    "text", ["59.999999s", "0d", "366.000001d", "1w", "DAY", "days", "year", "", "3600", None, 3600]
)
def test_a_period_is_a_duration_within_a_year_or_a_word_of_the_calendar(text: object) -> None:
    with pytest.raises(ValueError, match="day, month, or a duration"):
        units.period(text)


@given(st.text(max_size=8))
def test_no_text_is_read_as_a_number_by_accident(text: str) -> None:
    for parse in (
        units.duration_s, units.size_bytes, units.price_pusd, units.usd_micro, units.request_pusd,
        units.fraction, units.boolean,
    ):  # fmt: skip
        try:
            value = parse(text)
        except ValueError:
            continue
        assert text.isascii()
        assert value >= 0


@pytest.mark.parametrize(
    "text", ["", "10", "s", "-1s", "+1s", "1 s", "1S", ".5s", "1.s", "1e3s", "1h30m", "infs", "١s", "1s\n"]
)
def test_a_duration_needs_a_plain_number_and_its_unit(text: str) -> None:
    with pytest.raises(ValueError, match="a duration"):
        units.duration_s(text)


@pytest.mark.parametrize("text", ["", "10", "KB", "-1KB", "1.5KB", "1kb", "1KiB", "1 KB", "1_0KB", "1TB"])
def test_a_size_needs_a_whole_number_and_its_unit(text: str) -> None:
    with pytest.raises(ValueError, match="a size"):
        units.size_bytes(text)


@pytest.mark.parametrize("text", ["", "1,5", "$1", "-1", "1e2", "0.1234567", ".5", "nan", "1_0"])
def test_money_is_plain_decimal_text(text: str) -> None:
    for parse, expected in (
        (units.price_pusd, "USD per million"),
        (units.request_pusd, "USD per request"),
        (units.usd_micro, "USD as decimal"),
    ):
        with pytest.raises(ValueError, match=expected):
            parse(text)


@pytest.mark.parametrize("value", ["01", "1.0", "0x1", "1_0", "", "-1", "9" * 30, True, None, [], 1.0, 11])
def test_an_integer_is_plain_digits_within_its_range(value: object) -> None:
    with pytest.raises(ValueError, match="an integer from 0 to 10"):
        units.integer_between(0, 10)(value)


@pytest.mark.parametrize(
    "value", ["1.0000001", "-1", "1e1", ".5", "0x1", "", "nan", "inf", "10.5", True, None, []]
)
def test_a_number_is_plain_decimal_text_within_its_range(value: object) -> None:
    with pytest.raises(ValueError, match="a number from 0 to 10"):
        units.number_between(0, 10)(value)


@given(st.integers(0, 10**7))
def test_a_number_is_its_decimal_text_and_both_ends_belong_to_it(millionths: int) -> None:
    assert units.number_between(0, 10)(f"{millionths // 10**6}.{millionths % 10**6:06}") == millionths / 10**6


@pytest.mark.parametrize("value", ["999ms", "3601s", "1.000001h", "1d", 0.5, 3600.5])
def test_a_bounded_duration_is_within_its_range(value: object) -> None:
    with pytest.raises(ValueError, match="a duration from 1s to 1h"):
        units.duration_between("1s", "1h")(value)
    assert units.duration_between("1s", "1h")("60m") == units.duration_between("1s", "1h")(3600) == 3600.0


@pytest.mark.parametrize("value", ["yes", "True", "on", "1", "", None, 1])
def test_a_switch_is_true_or_false_and_nothing_else(value: object) -> None:
    with pytest.raises(ValueError, match="true or false"):
        units.boolean(value)


def test_numbers_from_code_pass_as_they_are_but_not_below_zero() -> None:
    assert units.duration_s(0.25) == 0.25
    assert units.size_bytes(7) == 7
    assert units.price_pusd(7) == units.usd_micro(7) == units.request_pusd(7) == 7
    assert units.fraction(1) == 1.0
    for parse in (
        units.duration_s, units.size_bytes, units.price_pusd, units.usd_micro, units.request_pusd, units.fraction
    ):  # fmt: skip
        with pytest.raises(ValueError, match="a duration|a size|USD|a fraction"):
            parse(-1)


@given(
    NAMES,
    st.text(),
    st.text(alphabet=st.characters(exclude_characters="}"), max_size=10),
    st.text(),
    st.text(),
)
def test_a_variable_is_replaced_once_and_its_value_taken_as_it_is(
    name: str, value: str, default: str, left: str, right: str
) -> None:
    left, right = left.replace("$", ""), right.replace("$", "")
    assert expand(f"{left}${{{name}}}{right}", {name: value}) == left + value + right
    assert expand(f"{left}${{{name}:-{default}}}{right}", {name: value}) == left + (value or default) + right
    assert expand(f"{left}${{{name}:-{default}}}{right}", {}) == left + default + right
    assert expand(f"{left}$${{{name}}}{right}", {name: value}) == f"{left}${{{name}}}{right}"


@given(st.text(alphabet="ab {}:-"))
def test_text_without_a_reference_stays_as_it_is(text: str) -> None:
    assert expand(text, {}) == text
    assert expand(text + "$", {}) == text + "$"


@pytest.mark.parametrize("text", ["${A}", "${}", "${1}", "${A", "x${A:-", "${A:=b}", "${A-b}", "${ä}"])
def test_what_cannot_be_expanded_is_an_error_and_never_left_in(text: str) -> None:
    with pytest.raises(Unexpandable):
        expand(text, {})
