"""`llmgw usage` against golden files: the command in the first line, its output below."""

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ledgerkit import DAY_S, NOVEMBER_S, record

from llmgw.cli import main
from llmgw.ledger import append_crashed, cli
from llmgw.ledger.names import name_of

GOLDEN = sorted(Path(__file__).parent.glob("golden/*.txt"))
NOW_S = NOVEMBER_S + 10 * DAY_S + 3600
CONFIG = """
server: {{state_dir: {state_dir}}}
providers: {{mock: {{dialect: mock}}}}
models: {{mock: {{targets: [{{provider: mock}}]}}}}
tenants: {{demo: {{keys: [{{name: demo, key: sk-demo}}]}}}}
"""
GPT = {"model_label": "gpt-4o", "model_requested": "gpt-4o"}
CLAUDE = {"model_label": "claude-*", "model_requested": "claude-haiku-4-5", "provider_used": "anthropic"}
BETA = {"tenant_id": "beta", "key_name": "nightly"}
RECORDS = [
    record(
        "a1-1", input_tokens=1200, output_tokens=300, cost_usd_micro=6_000, tags=("red",), user="u1", **GPT
    ),
    record("a2-1", charged=False, outcome="server_error", input_tokens=900, cost_usd_micro=2_250, **GPT),
    record(
        "a2-2",
        input_tokens=900,
        output_tokens=45,
        cached_tokens=512,
        cost_usd_micro=2_700,
        tags=("red", "blue"),
        user="u2",
        **{**GPT, "provider_used": "azure"},
    ),
    record("a3-1", NOVEMBER_S + 5 * DAY_S, input_tokens=10, output_tokens=1, user="a\x1b[31m\tb", **CLAUDE),
    record(
        "b1-1",
        NOVEMBER_S + 9 * DAY_S,
        input_tokens=2_000_000_000,
        cost_usd_micro=5_000_000_001,
        **GPT,
        **BETA,
    ),
]


@pytest.fixture
def ledger(directory):
    os.mkdir(directory, 0o700)
    path = Path(directory) / name_of(NOVEMBER_S, "s0")
    path.write_bytes(b"".join(RECORDS) + bytes(1000))
    crashed = {"outcome": "crashed", "recovered": True}
    append_crashed(
        directory,
        record("a1-1", cost_usd_micro=99, **crashed, **GPT),
        record("b2-1", NOVEMBER_S + 9 * DAY_S, cost_usd_micro=7, input_tokens=3, **crashed, **CLAUDE, **BETA),
    )
    return directory


@pytest.fixture
def usage(ledger, capsys, monkeypatch):
    """Runs the command's words; what it printed."""
    monkeypatch.setattr(cli.time, "time", lambda: NOW_S)

    def run(*words):
        assert main(["usage", "--ledger", ledger, *words]) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_output_is_the_golden_one(path, usage):
    command, _, expected = path.read_text().partition("\n")
    found = usage(*shlex.split(command.removeprefix("$ llmgw usage")))
    if os.environ.get("LLMGW_GOLDEN") == "write":
        path.write_text(f"{command}\n{found}")
    assert found == expected


def test_there_are_golden_files():
    assert len(GOLDEN) >= 6


def test_every_format_has_the_same_figures(usage):
    words = ("--by", "tenant,model")
    from_json = json.loads(usage(*words, "--format", "json"))
    from_csv = list(csv.DictReader(io.StringIO(usage(*words, "--format", "csv"))))
    assert [{name: str(value) for name, value in row.items()} for row in from_json["rows"]] == from_csv
    table = usage(*words).replace(",", "")
    assert all(str(value) in table for row in from_json["rows"] for value in row.values())


def test_words_may_be_repeated_or_listed(usage):
    assert usage("--by", "tenant", "--by", "day") == usage("--by", "tenant,day")


@pytest.mark.parametrize(
    ("since", "requests"),
    [
        ("7d", 3),
        ("1h", 0),
        ("240h", 3),
        ("2026-11-01", 5),
        ("2026-11-02", 3),
        ("2026-11-10T00:00", 2),
        ("2026-11-10T00:00:00.001Z", 0),
        ("2026-11-10T01:00+01:00", 2),
    ],
)
def test_since_is_a_time_ago_or_a_moment_in_utc(usage, since, requests):
    assert json.loads(usage("--since", since, "--format", "json"))["total"]["requests"] == requests


def test_until_does_not_count_its_own_moment(usage):
    found = usage("--until", "2026-11-06", "--format", "json")
    assert json.loads(found)["total"]["requests"] == 2


def test_nothing_in_a_users_name_steers_the_terminal(usage):
    assert "\x1b" not in usage("--by", "user")


def test_no_users_name_is_a_formula_in_a_spreadsheet(usage, ledger):
    names = ['=HYPERLINK("x")', "+1", "-1", "@a", "\t=1", "plain=1"]
    path = Path(ledger) / name_of(NOVEMBER_S + 2, "s1")
    path.write_bytes(b"".join(record(f"f{index}", user=name) for index, name in enumerate(names)))
    found = {row["user"] for row in csv.DictReader(io.StringIO(usage("--by", "user", "--format", "csv")))}
    assert {f"'{name}" for name in names[:-1]} | {"plain=1"} <= found


@pytest.mark.parametrize(
    "words",
    [
        ("--by", "colour"),
        ("--by", "tenant,"),
        ("--since", "yesterday"),
        ("--until", "7"),
        ("--format", "xml"),
    ],
)
def test_a_word_that_is_not_understood_is_an_error(ledger, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["usage", "--ledger", ledger, *words])
    assert ended.value.code == 2
    assert words[1].split(",")[-1] in capsys.readouterr().err


def test_what_the_sums_lack_is_said_on_standard_error(ledger, capsys):
    with open(Path(ledger) / name_of(NOVEMBER_S + 1, "s1"), "wb") as file:
        file.write(record("torn")[:20])
    assert main(["usage", "--ledger", ledger]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "attempts that used tokens at an unknown price: 1",
        "lines that are not whole and were left out: 1",
    ]


def test_no_ledger_is_an_error(tmp_path, capsys):
    assert main(["usage", "--ledger", str(tmp_path / "none")]) == 1
    assert "none: No such file or directory" in capsys.readouterr().err


def test_the_ledger_is_found_by_the_configuration(tmp_path, capsys):
    config = tmp_path / "gateway.yaml"
    config.write_text(CONFIG.format(state_dir=tmp_path / "state"))
    (tmp_path / "state").mkdir(0o700)
    append_crashed(str(tmp_path / "state" / "ledger"), record("a1", tenant_id="from-file"))
    assert main(["usage", "--config", str(config)]) == 0
    assert "from-file" in capsys.readouterr().out


def test_without_a_configuration_it_is_where_serve_without_one_keeps_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "llmgw").mkdir(0o700)
    append_crashed(str(tmp_path / "llmgw" / "ledger"), record("a1", tenant_id="from-home"))
    assert main(["usage"]) == 0
    assert "from-home" in capsys.readouterr().out


def test_what_cannot_be_printed_is_told_in_one_line(tmp_path):
    words = [sys.executable, "-m", "llmgw", "usage", "--ledger", str(tmp_path)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (1, "standard output: No space left on device\n")
