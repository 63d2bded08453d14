"""A ledger replayed against another configuration."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from simkit import CONFIG

from llmgw.cli import main

BEGIN = datetime(2026, 11, 1, 12, tzinfo=UTC)


def record(at_s: float, number: int, **given: Any) -> dict[str, Any]:
    stamp = (BEGIN + timedelta(seconds=at_s)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "ts": stamp, "attempt_id": f"{number:016x}", "request_id": f"r{number}", "tenant_id": "acme", "key_name": "web",
        "user": None, "tags": [], "model_requested": "gpt-4o-mini", "model": "gpt-4o-mini", "model_used": "gpt-4o-mini",
        "provider_used": "openai", "endpoint": "/v1/chat/completions", "outcome": "answered", "status": 200,
        "input_tokens": 100, "output_tokens": 50, "cached_tokens": 0, "usage_source": "reported",
        "cost_usd_micro": 300, "charged": True,
    } | given  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Two workers' files: 4 requests in the first minute, 1 after it; a failed attempt; another tenant's."""
    files = {
        "2026-11-01T11-00-00.000-s0.jsonl": [
            record(0, 1),
            record(20, 3),
            record(20, 9, charged=False),
            record(63, 5),
        ],
        "2026-11-01T11-00-00.000-s1.jsonl": [
            record(10, 2),
            record(30, 4),
            record(5, 6, tenant_id="globex", key_name="app"),
        ],
    }
    directory = tmp_path / "ledger"
    directory.mkdir()
    for name, records in files.items():
        (directory / name).write_text("".join(json.dumps(one) + "\n" for one in records))
    return directory


def replay(ledger: Path, capsys: pytest.CaptureFixture[str], limits: str, *words: str) -> dict[str, Any]:
    path = ledger.parent / "gateway.yaml"
    path.write_text(CONFIG.replace("LIMITS", limits).replace("REDIS", ""))
    assert main(["simulate", "--config", str(path), "--ledger", str(ledger), "--format", "json", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_request_that_was_paid_for_comes_again_at_its_time(
    ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = replay(ledger, capsys, "limits: {rpm: 100}")
    assert found["scenario"]["seconds"] == 63
    assert {(row["tenant"], row["key"]): row["admitted"] for row in found["keys"]} == {
        ("acme", "web"): 5,
        ("globex", "app"): 1,
    }
    assert found["keys"][0]["cost_usd"] == f"0.{5 * (100 + 4 * 50):06}"


def test_a_lower_limit_refuses_what_is_beyond_it_in_each_minute(
    ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = replay(ledger, capsys, "limits: {rpm: 2}")
    acme = found["keys"][0]
    # 0 s and 10 s are admitted, 20 s and 30 s are not; by 63 s the first one has left.
    assert (acme["offered"], acme["admitted"], acme["refused_by"]) == (5, 3, {"tenant:rpm": 2})
    assert found["keys"][1]["admitted"] == 1


def test_a_lower_budget_refuses_what_it_cannot_hold(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The prompt is taken for 208 tokens and the answer for 1024: 4304 of 5000 at first, and 300 when it is known.
    found = replay(ledger, capsys, 'budgets: [{amount: "0.005", period: 1d}]')
    acme = found["keys"][0]
    assert (acme["admitted"], acme["refused_by"]) == (3, {"tenant:budget:1d": 2})
    assert found["limits"][0]["left_usd"] == "0.004100"


def test_since_leaves_out_what_was_before(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = replay(ledger, capsys, "limits: {rpm: 100}", "--since", "2026-11-01T12:00:15")
    assert found["total"]["offered"] == 3


def test_duration_cuts_the_rest_off(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = replay(ledger, capsys, "limits: {rpm: 100}", "--duration", "15s")
    assert found["total"]["offered"] == 3


def test_a_ledger_without_requests_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG.replace("LIMITS", "limits: {rpm: 1}").replace("REDIS", ""))
    assert main(["simulate", "--config", str(path), "--ledger", str(tmp_path)]) == 1
    assert "no requests" in capsys.readouterr().err
    assert main(["simulate", "--config", str(path), "--ledger", str(tmp_path / "gone")]) == 1
    assert "gone" in capsys.readouterr().err
