"""YAML is read safely and within bounds."""

import time

import pytest

from llmgw import config
from llmgw.config import reader
from llmgw.errors import ConfigError


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        config.load(text, source="f", environ={})
    return refusal.value.problems


def test_a_bomb_of_nested_aliases_is_cut_off_early() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    before = time.process_time()
    problems = problems_of("\n".join(lines))
    assert any("aliases counted at each use" in line for line in problems)
    assert time.process_time() - before < 30  # seconds; unfolded it has 3e11 values


def test_a_text_beyond_the_bound_is_not_parsed() -> None:
    assert problems_of("#" * (reader.TEXT_MAX + 1)) == [
        f"f:1: (file): found {reader.TEXT_MAX + 1} characters, expected at most {reader.TEXT_MAX} characters"
    ]


def test_depth_is_bounded_before_the_stack_is() -> None:
    for text in ("[" * 100_000, "{a: " * 100_000, "- " * 100_000):
        assert problems_of(text) == [
            "f:1: (file): found more than 32 levels, expected well-formed YAML, one document"
        ]


def test_a_byte_order_mark_is_no_mistake() -> None:
    text = "\ufeffproviders: {m: {dialect: mock}}\nmodels: {m: {targets: [{provider: m}]}}\n"
    tree = config.load(text + "tenants: {t: {keys: [{name: k, key: sk-demo}]}}", source="f", environ={})
    assert list(tree.providers) == ["m"]


def test_nothing_in_a_file_is_executed() -> None:
    text = "log: !!python/object/apply:os.system ['exit 1']"
    assert "f:1: log: found a tag, expected a value without a tag" in problems_of(text)


def test_the_line_is_that_of_the_key_also_where_the_value_begins_further_down() -> None:
    text = "log:\n  level:\n\n    >-\n    loud\n  path: ''\n"
    lines = [line for line in problems_of(text) if "log." in line]
    assert [line.split(" ")[0:2] for line in lines] == [["f:2:", "log.level:"], ["f:6:", "log.path:"]]
