"""Strategies side by side: what must hold of each, over targets that differ."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from llmgw.cli import main
from llmgw.routing.catalog import STRATEGIES
from llmgw.simulate.strategies import Book, Play, Traffic, play, poisson
from llmgw.simulate.strategies_report import document, to_table
from llmgw.simulate.strategies_targets import BUILT_IN, SimulatedTarget, built_in, parse_targets

DOCS = Path(__file__).parents[2] / "docs" / "simulate.md"
SECOND_US = 1_000_000
TWO_SOUND = "{name: a, first_token: 300ms, streaming: 1s}, {name: b, first_token: 300ms, streaming: 1s}"


def targets(*entries: str) -> tuple[SimulatedTarget, ...]:
    return parse_targets(f"targets: [{', '.join(entries)}]", "test.yaml")


def shares(book: Book) -> dict[str, float]:
    return {name: one.answered / book.ends["ok"] for name, one in book.targets.items()}


def p99_ms(book: Book) -> float:
    row = document(Traffic(), [book])["strategies"][0]
    return float(row["p99_ms"])


def asked(book: Book, target: int, from_s: float, until_s: float) -> int:
    return sum(
        number == target and from_s * SECOND_US <= at_us < until_s * SECOND_US
        for at_us, _, number in book.attempts
    )


# -- the simulation itself


def test_a_seed_is_one_outcome_and_another_seed_another() -> None:
    texts = [
        to_table(traffic, [play(strategy, built_in(), traffic) for strategy in STRATEGIES])
        for traffic in (Traffic(30, 25, 1), Traffic(30, 25, 1), Traffic(30, 25, 2))
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("when_full", ["refuse", "queue"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_request_ends_once_and_nothing_stays_in_flight(strategy: str, when_full: str) -> None:
    """Also where most of them are refused, break or wait for longer than anybody does."""
    found = targets(
        f"{{name: small, first_token: 2s, streaming: 3s, capacity: 4, errors: 0.2, when_full: {when_full}}}",
        "{name: flapping, first_token: {median: 1s, p99: 60s}, streaming: 1s, flapping: {up: 5s, down: 3s}}",
    )
    traffic = Traffic(20, 30, 5)
    one = Play(strategy, found, traffic.seed)
    book = one.run(poisson(traffic))
    assert book.ends.total() == book.offered == sum(1 for _ in poisson(traffic))
    assert book.ends["ok"] == sum(target.answered for target in book.targets.values()) > 0
    assert book.errors > 0 and set(book.ends) <= {
        *("ok", "upstream_error", "upstream_timeout", "no_available_upstream")
    }
    assert len(book.attempts) == sum(target.answered + target.failed for target in book.targets.values())
    assert [health.inflight for health in one.healths] == [0, 0] == [way.busy for way in one.upstreams]


def test_who_stays_silent_is_left_for_another() -> None:
    book = play(
        "ordered",
        targets(
            "{name: silent, first_token: 40s, streaming: 1s}", "{name: sound, first_token: 1s, streaming: 1s}"
        ),
        Traffic(2, 60, 1),
    )
    assert book.errors == 0 and book.targets["silent"].answered == 0
    assert max(book.first_tokens_us) == pytest.approx(31 * SECOND_US, abs=SECOND_US)


# -- strategies


def test_weighted_shares_follow_the_weights() -> None:
    book = play(
        "weighted",
        targets(*(f"{{name: w{n}, first_token: 1s, streaming: 1s, weight: {n}}}" for n in (5, 3, 2))),
        Traffic(50, 60, 3),
    )
    assert shares(book) == pytest.approx({"w5": 0.5, "w3": 0.3, "w2": 0.2}, abs=0.01)


def test_latency_beats_turns_where_one_target_is_slow() -> None:
    found = targets(TWO_SOUND, "{name: slow, first_token: 3s, streaming: 3s}")
    by_turn, by_latency = (play(name, found, Traffic(30, 60, 1)) for name in ("round_robin", "latency"))
    assert p99_ms(by_turn) == 3000
    assert shares(by_latency)["slow"] < 0.1 < 0.3 < shares(by_turn)["slow"]
    assert sum(by_latency.first_tokens_us) < sum(by_turn.first_tokens_us) / 2


def test_latency_has_a_lower_p99_than_turns_over_the_built_in_targets() -> None:
    by_turn, by_latency = (play(name, built_in(), Traffic(50, 90, 1)) for name in ("round_robin", "latency"))
    assert p99_ms(by_latency) < p99_ms(by_turn) / 2


@pytest.mark.parametrize("stream", ["1s", "10s"])
def test_latency_sees_a_target_that_has_recovered(stream: str) -> None:
    """Also while streams go on there that began when it was slow: here for up to 200 s."""
    found = targets(
        f"{{name: steady, first_token: 500ms, streaming: {stream}}}",
        f"{{name: ailing, first_token: 300ms, streaming: {stream}, slow: {{from: 20s, until: 60s, factor: 20}}}}",
    )
    book = play("latency", found, Traffic(20, 120, 1))
    assert asked(book, 1, 0, 20) > 200
    assert asked(book, 1, 30, 60) < 60
    assert asked(book, 1, 90, 120) > 100


@pytest.mark.parametrize("stream", ["1s", "30s"])
@pytest.mark.parametrize("strategy", ["round_robin", "latency", "least_busy", "hash"])
def test_an_open_breaker_bounds_what_a_target_that_is_down_is_asked(strategy: str, stream: str) -> None:
    """However long the streams are that it ends well meanwhile; and no client sees it."""
    sound, dying = (f"name: {name}, first_token: 300ms, streaming: {stream}" for name in ("sound", "dying"))
    found = targets(f"{{{sound}}}", f"{{{dying}, flapping: {{up: 60s, down: 60s}}}}")
    book = play(strategy, found, Traffic(100, 119, 3))
    assert asked(book, 1, 60, 61) <= 20
    assert asked(book, 1, 61, 119) <= 4, "probes"
    assert book.errors == 0


@pytest.mark.parametrize("stream", ["1s", "10s"])
def test_a_target_that_sometimes_fails_stays_in(stream: str) -> None:
    found = targets(TWO_SOUND, f"{{name: c, first_token: 300ms, streaming: {stream}, errors: 0.05}}")
    book = play("round_robin", found, Traffic(60, 120, 1))
    assert book.targets["c"].openings == 0
    assert shares(book)["c"] == pytest.approx(1 / 3 * 0.95, abs=0.01)


def test_hash_keeps_each_users_target_while_it_is_up() -> None:
    found = targets(TWO_SOUND, "{name: c, first_token: 300ms, streaming: 1s, flapping: {up: 40s, down: 20s}}")
    book = play("hash", found, Traffic(80, 60, 1))
    before, during = defaultdict(set), defaultdict(set)
    for at_us, user, target in book.attempts:
        (before if at_us < 40 * SECOND_US else during)[user].add(target)
    assert all(len(homes) == 1 for homes in before.values())
    stayed = [during[user] == homes for user, homes in before.items() if homes != {2} and during[user]]
    assert all(stayed) and len(stayed) > 200
    assert min(shares(book).values()) > 0.2


def test_cost_prefers_the_cheap_one_until_it_refuses() -> None:
    found = targets(
        '{name: dear, first_token: 300ms, streaming: 1s, price: {input: "3", output: "9"}}',
        '{name: cheap, first_token: 300ms, streaming: 1s, capacity: 20, price: {input: "1", output: "3"}}',
    )
    idle, full = (play("cost", found, Traffic(rate, 60, 1)) for rate in (4, 40))
    assert shares(idle) == {"dear": 0, "cheap": 1}
    assert full.errors == 0 and 0.2 < shares(full)["cheap"] < 0.4
    assert 0 < full.targets["cheap"].refused < 0.05 * full.targets["cheap"].attempts


# -- the command


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["simulate", "strategies", "--seconds", "5", *words]) == 0
    return capsys.readouterr().out


def test_it_prints_each_strategy_and_each_of_its_targets(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in printed([], capsys).splitlines()]
    names = [target.name for target in built_in()]
    begins = [tuple(line[:2]) for line in lines]
    assert all((strategy, name) in begins for strategy in STRATEGIES for name in names)


def test_it_prints_json_of_the_chosen_strategies(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "targets.yaml"
    path.write_text("targets: [{name: only, first_token: 1s, streaming: 1s}]")
    words = ["--strategy", "cost", "--strategy", "hash", "--json", "--targets", str(path), "--seed", "3"]
    found = json.loads(printed([*words, "--requests-per-second", "8"], capsys))
    assert [row["strategy"] for row in found["strategies"]] == ["cost", "hash"]
    assert found["scenario"] == {"requests_per_s": 8.0, "seconds": 5.0, "seed": 3}
    assert found["strategies"][0]["targets"][0]["share"] == 1 and found["strategies"][0]["codes"] == {}


@pytest.mark.parametrize(
    "words", [["--seconds", "0"], ["--requests-per-second", "many"], ["--strategy", "best"], ["--seed", "x"]]
)
def test_a_word_that_means_nothing_is_an_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["simulate", "strategies", *words])
    assert end.value.code == 2 and words[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("targets: []", ":1: targets: found a list, expected at least one entry"),
        ("targets: [{name: a, streaming: 1s}]", "targets[0].first_token"),
        ("targets: [{name: a, first_token: 1s, streaming: 1s, colour: red}]", 'colour: found "red"'),
        ("targets: [{name: a, first_token: 1s, streaming: 1s, when_full: sleep}]", "refuse or queue"),
        (f"targets: [{TWO_SOUND}, {TWO_SOUND}]", "targets of different names"),
        ("targets: {", ":1: "),
        (None, "a readable file"),
    ],
)
def test_a_mistake_in_a_file_of_targets_is_told_with_its_place(
    text: str | None, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "targets.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["simulate", "strategies", "--targets", str(path)]) == 1
    assert str(path) in (error := capsys.readouterr().err) and told in error


def test_the_page_shows_the_built_in_targets() -> None:
    assert BUILT_IN in DOCS.read_text()
