"""docs/http.md says of every error what llmgw/errors.py does."""

import re
from pathlib import Path

import pytest

from llmgw import errors

PAGE = (Path(__file__).parents[1] / "docs" / "http.md").read_text()
ROWS = re.findall(r"^\| .* \| (\d{3}[^|]*) \| ([^|]*) \| ([^|]*) \|$", PAGE, re.MULTILINE)


def kinds(base: type[errors.GatewayError]) -> list[type[errors.GatewayError]]:
    return [kind for below in base.__subclasses__() for kind in (below, *kinds(below))]


@pytest.mark.parametrize(
    "kind", [kind for kind in kinds(errors.GatewayError) if kind.code], ids=lambda kind: kind.__name__
)
def test_every_code_stands_beside_its_status(kind: type[errors.GatewayError]) -> None:
    told = {
        code for statuses, _, codes in ROWS if str(kind.status) in statuses for code in codes.split(" / ")
    }
    assert kind.code in told


def test_what_may_be_tried_again_is_named() -> None:
    sentence = PAGE.partition("`x-should-retry` is `true` for")[2].partition("; else `false`")[0]
    others = {kind.code for kind in kinds(errors.GatewayError) if kind.should_retry and kind.status != 429}
    others.add(errors.NoUpstream("", retry_after_s=1.0).code)
    assert set(re.findall(r"`(\w+)`", sentence)) == others
