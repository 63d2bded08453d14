"""`llmgw simulate` as it is typed, and the file of a mix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import yaml
from simkit import CONFIG

from llmgw.cli import main
from llmgw.simulate.mix import Spread, Stream

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
MIX = """
streams:
  - {key: acme/web, model: gpt-4o-mini, rate: 5, prompt_tokens: {median: 60, p99: 600}, users: 3}
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    config, mix = tmp_path / "gateway.yaml", tmp_path / "mix.yaml"
    config.write_text(CONFIG.replace("LIMITS", "limits: {rpm: 60}").replace("REDIS", ""))
    mix.write_text(MIX)
    return ["--config", str(config), "--mix", str(mix)]


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["simulate", *words]) == 0
    return capsys.readouterr().out


def test_a_small_scenario_comes_to_what_it_came_to_before(capsys: pytest.CaptureFixture[str]) -> None:
    """After a change that is meant, write the golden file anew: the assertion's right side is what was printed."""
    words = [
        "--config", str(GOLDEN / "gateway.yaml"), "--mix", str(GOLDEN / "mix.yaml"), "--machines", "2",
        "--duration", "20s", "--seed", "7", "--format", "json",
    ]  # fmt: skip
    assert json.loads((GOLDEN / "outcome.json").read_text()) == json.loads(printed(words, capsys))


def test_the_same_seed_prints_the_same_in_every_process(files: list[str]) -> None:
    config = Path(files[1])
    config.write_text(config.read_text() + 'redis: {url: "redis://localhost"}\n')
    texts = set()
    for hash_seed in ("1", "2"):
        words = [sys.executable, "-m", "llmgw", "simulate", *files, "--machines", "4", "--duration", "6s"]
        words += ["--redis-loss", "0.02", "--seed", "4"]
        environ = os.environ | {"PYTHONHASHSEED": hash_seed}
        texts.add(
            subprocess.run(words, env=environ, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        )
    assert len(texts) == 1 and "redis_commands" in texts.pop()


def test_the_table_tells_who_was_refused_by_what(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    table = printed([*files, "--duration", "30s"], capsys)
    lines = [line.split() for line in table.splitlines()]
    assert ["acme", "web", "tenant:rpm"] in [line[:3] for line in lines]
    assert any(line[:1] == ["total"] for line in lines)


def test_the_table_names_outages_of_some_machines(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(files[1])
    config.write_text(config.read_text() + 'redis: {url: "redis://localhost"}\n')
    words = ["--machines", "2", "--duration", "3s", "--outage", "1s+1s:1", "--outage", "2s+500ms"]
    assert "1s+1s:1, 2s+0.5s" in printed([*files, *words], capsys)


def test_machines_without_redis_are_told_of(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *files, "--duration", "1s", "--machines", "2"]) == 0
    assert "no redis" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--machines", "0"], ["--machines", "many"], ["--duration", "0s"], ["--duration", "10"], ["--rtt", "fast"],
        ["--redis-loss", "1.5"], ["--redis-loss", "some"], ["--outage", "60s"], ["--outage", "60s+0s"], ["--outage", "60s+30s:0"],
        ["--ledger", "."], ["--format", "csv"], ["--since", "soon"],
    ],
)  # fmt: skip
def test_a_word_that_means_nothing_is_an_error(
    files: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["simulate", *files, *words])
    assert end.value.code == 2
    assert words[0].lstrip("-") in capsys.readouterr().err


def test_traffic_has_to_come_from_somewhere(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["simulate", *files[:2]])
    assert "--ledger" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("rate: 0", "streams[0].rate: found \"0\", expected requests per second, above 0"),
        ("rate: nan", "streams[0].rate: found \"nan\", expected requests per second, above 0"),
        ("rate: 1, colour: red", "streams[0].colour: found \"red\", expected no such key"),
        ("rate: 1, prompt_tokens: {median: 5}", "expected median and p99, or low and high, the smaller one first"),
        ("rate: 1, prompt_tokens: {low: 9, high: 3}", "expected median and p99, or low and high, the smaller one first"),
        ("rate: 1, cancel: 2", "streams[0].cancel: found \"2\", expected a fraction"),
        ("rate: 1, arrivals: often", "expected poisson, constant or bursts"),
        ("rate: 1, key: acme/nobody", "expected a key of the configuration as tenant/key"),
        ("rate: 1, endpoint: /v1/audio", "streams[0].endpoint"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_mix_is_told_with_its_place(
    files: list[str], mistake: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "" if "key:" in mistake else "key: acme/web, "
    Path(files[3]).write_text(f"streams:\n  - {{{key}model: gpt-4o-mini, {mistake}}}\n")
    assert main(["simulate", *files]) == 1
    assert f"{files[3]}:2: " in (error := capsys.readouterr().err) and told in error
    assert "at least one entry" not in error


@pytest.mark.parametrize("text", ["", "streams: []", "- 1", "streams: {", None])
def test_a_mix_that_is_none_is_an_error(
    files: list[str], text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(files[3]).unlink() if text is None else Path(files[3]).write_text(text)
    assert main(["simulate", *files]) == 1
    assert capsys.readouterr().err.startswith(f"{files[3]}:1: ")


def test_the_documented_example_has_every_key_and_runs(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "config" / "simulate.yaml"
    shown = {word for stream in yaml.safe_load(path.read_text())["streams"] for word in stream}
    assert shown == {field.alias or name for name, field in Stream.model_fields.items()}
    config = ROOT / "config" / "simulate-fleet.yaml"
    for mix in (path, path.with_name("simulate-thousand.yaml")):
        printed(["--config", str(config), "--mix", str(mix), "--duration", "1s"], capsys)


@pytest.mark.parametrize("words", [{"median": "400", "p99": "4000"}, {"low": "100", "high": "700"}, "400"])
def test_half_of_a_spread_is_below_its_median_and_one_in_a_hundred_above_its_p99(words: object) -> None:
    spread, random = Spread.model_validate(words), Random(1)
    drawn = sorted(spread.draw(random) for _ in range(20_000))
    assert drawn[10_000] == pytest.approx(400, rel=0.05)
    assert drawn[19_800] == pytest.approx({"median": 4000, "low": 694}.get(next(iter(words)), 400), rel=0.1)
