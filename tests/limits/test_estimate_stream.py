"""The learned estimate against a real tokenizer: it errs upward, and not by much."""

from __future__ import annotations

import base64
import json
import random

import pytest

from llmgw._core.estimate import Estimator
from llmgw._core.segment import Segment
from llmgw._wire.skim import skim
from llmgw.limits.exact import count_prompt

TEXTS = {
    "english": "The gateway reserves what a request may use before it is sent, and settles the difference once the "
    "provider has told what it did use. Nobody waits for a number that's known; what isn't known is estimated. ",
    "german": "Das Gateway reserviert vor dem Absenden, was eine Anfrage höchstens verbrauchen kann, und rechnet danach "
    "genau ab. Überschätzungen werden zurückgegeben, Unterschätzungen nachgebucht; übrig bleibt nichts. ",
    "chinese": "网关在发送请求之前预留可能使用的额度，并在供应商报告实际用量之后结算差额。估计值总是偏高，因此任何限制都不会被突破。",
    "japanese": "ゲートウェイは送信前に使用量を見積もって予約し、プロバイダーが報告した実績で精算します。上限を超えることはありません。",
    "code": "def settle(self, hold: Hold, tokens: int) -> None:\n    if not hold.is_open:\n        return\n"
    "    for gauge in hold.gauges:\n        gauge.used += tokens - hold.tokens  # gives back\n",
}
SCRIPTS = [*TEXTS, "base64"]


@pytest.fixture
def estimator(tmp_path):
    return Estimator(Segment(str(tmp_path / "state" / "segment"), 1))


class Stream:
    """A repeatable run of chat requests, and how the estimate did on them."""

    def __init__(self, estimate):
        self.random = random.Random(7)
        self.estimate = estimate

    def text(self, script: str) -> str:
        chars = min(4 + int(self.random.lognormvariate(5.5, 1.3)), 60_000)
        if script == "base64":
            return base64.b64encode(self.random.randbytes(chars)).decode()
        text = TEXTS[script]
        start = self.random.randrange(len(text))
        return (text * (chars // len(text) + 2))[start : start + chars]

    def run(self, scripts: list[str], requests: int) -> tuple[float, float]:
        """The share of requests that were not underestimated, and estimated by real tokens of them all."""
        covered = estimated = real = 0
        for _ in range(requests):
            message = {"role": "user", "content": self.text(self.random.choice(scripts))}
            body = json.dumps({"model": "gpt-4o", "messages": [message]}, ensure_ascii=False).encode()
            tokens, guess = (
                count_prompt(body, "o200k_base"),
                self.estimate.input_tokens(skim(body).prompt_bytes),
            )
            covered += guess >= tokens
            estimated += guess
            real += tokens
            self.estimate.learn(skim(body).prompt_bytes, tokens, 100)
        return covered / requests, estimated / real


@pytest.mark.parametrize("script", SCRIPTS)
def test_of_one_script_at_least_98_in_100_are_not_underestimated_from_the_first_on(estimator, script):
    covered, excess = Stream(estimator.find("gpt-4o")).run([script], 1000)
    assert covered >= 0.98
    assert excess <= 1.6


def test_of_all_scripts_mixed_at_least_98_in_100_are_not_underestimated(estimator):
    covered, excess = Stream(estimator.find("gpt-4o")).run(SCRIPTS, 2000)
    assert covered >= 0.98
    assert excess <= 2.5


def test_a_mix_that_turns_denser_is_still_covered_and_one_that_turns_lighter_is_learned_again(estimator):
    stream = Stream(estimator.find("gpt-4o"))
    _, lean = stream.run(["english"], 1500)
    covered, _ = stream.run(["japanese"], 1500)
    assert covered >= 0.98
    covered, _ = stream.run(["english"], 6000)
    assert covered >= 0.98
    _, excess = stream.run(["english"], 300)
    assert excess <= lean + 0.05
