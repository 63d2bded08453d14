"""File pairs: a configuration above the line, below it what must come of it.

Below stands either an excerpt of the tree (`path/to/value = JSON`, "|" for a slash in a name) or,
for a file that must be refused, every problem, or for one that may surprise, every notice; both
without the file's name: `LINE: path: found ...`.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llmgw import config
from llmgw.errors import ConfigError

CASES = sorted((Path(__file__).parent / "cases").glob("*.case"))
SOURCE = "/etc/llmgw/gateway.yaml"


def parts(case: Path) -> tuple[str, str, dict[str, str]]:
    above, _, below = case.read_text(encoding="utf-8").partition("\n=====\n")
    environ = dict(re.findall(r"^# env: (\w+)=(.*)$", above, re.MULTILINE))
    return above, below.strip(), environ


def value_at(tree: Any, path: str) -> Any:
    for word in path.split("/"):
        step = word.replace("|", "/")
        if isinstance(tree, dict):
            tree = tree[step]
        else:
            tree = tree[int(step)] if isinstance(tree, tuple) else getattr(tree, step)
    return list(tree) if isinstance(tree, tuple) else tree


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name.startswith("good")], ids=lambda c: c.stem
)
def test_a_good_file_becomes_this_tree(case: Path) -> None:
    text, below, environ = parts(case)
    tree = config.load(text, source=SOURCE, environ=environ)
    wanted = dict(line.split(" = ", 1) for line in below.splitlines())
    assert {path: value_at(tree, path) for path in wanted} == {p: json.loads(v) for p, v in wanted.items()}


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name.startswith("bad")], ids=lambda c: c.stem
)
def test_a_bad_file_has_every_mistake_reported_at_once(case: Path) -> None:
    text, below, environ = parts(case)
    with pytest.raises(ConfigError) as refusal:
        config.load(text, source=SOURCE, environ=environ)
    assert [line.removeprefix(f"{SOURCE}:") for line in refusal.value.problems] == below.splitlines()


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name.startswith("notice")], ids=lambda c: c.stem
)
def test_a_legal_file_that_may_surprise_is_served_with_these_notices(case: Path, tmp_path: Path) -> None:
    text, below, environ = parts(case)
    path = tmp_path / "gateway.yaml"
    path.write_text(text, encoding="utf-8")
    problems, notices = config.check(path, environ)
    assert problems == []
    assert [line.removeprefix(f"{path}:") for line in notices] == below.splitlines()


def test_every_case_is_one_of_the_three_kinds() -> None:
    assert len(CASES) > 40
    assert all(case.name.startswith(("good-", "bad-", "notice-")) for case in CASES)
