"""The ladder measures what it says, and the README's table comes from its result file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from freeport import free_port

from llmgw import config
from llmgw.mock.certificate import self_signed

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import ladder
import render
import rig
import rungs

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
needs_redis = pytest.mark.skipif(rig.redis_binary() is None, reason="shares limits through Redis")
needs_nginx = pytest.mark.skipif(rig.nginx_binary() is None, reason="compares with nginx")


@pytest.fixture(autouse=True)
def ports_of_nobody_else(monkeypatch):
    monkeypatch.setattr(rig, "free_port", free_port)


@pytest.fixture
def behind(tmp_path):
    certificate, _ = self_signed(tmp_path)
    return rig.Upstreams({route: rig.free_port() for route in rig.ROUTES}, certificate)


@needs_openssl
def test_the_gateways_configuration_is_valid_and_serves_each_route(tmp_path, behind):
    path = tmp_path / "gateway.yaml"
    path.write_text(rig._gateway_config(tmp_path, behind, 8001, 9001))
    loaded = config.load_file(path, {})
    assert loaded.models.keys() == loaded.providers.keys() == set(rig.ROUTES)


@needs_openssl
@needs_nginx
def test_nginx_accepts_its_configuration(tmp_path, behind):
    path = tmp_path / "nginx.conf"
    path.write_text(rig._nginx_config(tmp_path, behind, {route: rig.free_port() for route in rig.ROUTES}))
    command = [rig.nginx_binary(), "-t", "-e", str(tmp_path / "out"), "-p", str(tmp_path), "-c", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_openssl
@needs_nginx
@needs_redis
def test_a_small_ladder_has_every_row_and_nginx_is_as_dear_as_itself(tmp_path, monkeypatch):
    """With a second nginx in the gateway's place: figures in every row, ratios of one order of magnitude."""

    def second_nginx(room, behind, redis_port=None):
        name = "gateway" if redis_port is None else "shared"
        other = room / name
        other.mkdir(exist_ok=True)
        return _renamed(rig.nginx(other, behind), name)

    monkeypatch.setattr(rig, "gateway", second_nginx)
    monkeypatch.setattr(rungs, "SILENT_STREAMS", 200)
    args = ladder._arguments(["--rounds=1", "--seconds=0.5"])
    made = ladder.Ladder(args, tmp_path)
    made.run()
    assert [row["rung"] for row in made.rows] == ["P1", "P2", "P3", "P5", "P6", "P7", "P7", "P8"]
    assert all({"nginx", "gateway"} <= row.keys() for row in made.rows if row["rung"] != "P6")
    assert all(0.1 < row["ratio"] < 10 for row in made.rows if "ratio" in row)
    assert made.raw.keys() == ladder.RUNGS


@needs_openssl
def test_without_nginx_its_columns_are_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rig, "nginx_binary", lambda: None)
    args = ladder._arguments(["--rounds=1", "--seconds=0.3", "--only=P1", "--candidates=nginx,direct"])
    made = ladder.Ladder(args, tmp_path)
    made.run()
    assert "not installed" in capsys.readouterr().err
    assert "nginx" not in made.rows[0]
    assert "| –" in render.table({"rows": made.rows})


@needs_openssl
def test_a_wrong_answer_voids_the_ladder(tmp_path, monkeypatch):
    monkeypatch.setattr(rungs, "STREAM_EVENTS", rig.STREAM_EVENTS + 1)
    args = ladder._arguments(["--rounds=1", "--seconds=0.3", "--only=P3", "--candidates=direct"])
    made = ladder.Ladder(args, tmp_path)
    with pytest.raises(rungs.Void, match="content events"):
        made.run()
    assert made.at == "P3 round 1/1 direct"


def test_a_ratio_is_the_median_of_the_rounds_ratios(tmp_path):
    made = ladder.Ladder(ladder._arguments([]), tmp_path)
    made._row("P1", "cpu", "", {"nginx": [10.0, 20.0, 30.0], "gateway": [11.0, 30.0, 36.0]}, note="")
    made._row("P7", "added", "", {"nginx": [10.0, 20.0], "gateway": [15.0, 35.0]}, note="", is_ratio=False)
    assert (made.rows[0]["nginx"], made.rows[0]["gateway"], made.rows[0]["ratio"]) == (20.0, 30.0, 1.2)
    assert made.rows[0]["nginx_range"] == [10.0, 30.0]
    assert made.rows[1]["difference"] == 10.0


def result(date: str) -> dict:
    row = {
        "rung": "P1",
        "measure": "cpu",
        "promise": "≤ 1.5",
        "note": "n",
        "nginx": 14.0,
        "gateway": 15.0,
        "ratio": 1.07,
    }
    return {
        "date": date,
        "commit": "abc",
        "machine": {"cpu": "C", "cores": 2, "kernel": "6"},
        "versions": {"nginx": "1.2", "python": "3.11"},
        "rounds": 5,
        "seconds": 3.0,
        "quick": False,
        "rows": [row],
    }


def test_the_table_is_rendered_between_the_marks_from_the_newest_whole_result(tmp_path, monkeypatch):
    for name, date in (("a", "2026-11-02"), ("b", "2026-11-03"), ("c-partial", "2026-11-04")):
        (tmp_path / f"{name}.json").write_text(json.dumps(result(date)))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{render.BEGIN}\nold\n{render.END}\nafter\n")
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["render.py", str(readme)])
    assert render.main() == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "old" not in text
    assert "| 14.0  | 15.0  | 1.07 ×" in text
    assert "2026-11-03" in text and "benchmarks/results/b.json" in text
    assert render.main() == 0
    assert readme.read_text() == text


def test_a_readme_without_marks_is_left_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.json").write_text(json.dumps(result("2026-11-02")))
    readme = tmp_path / "README.md"
    readme.write_text("nothing")
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["render.py", str(readme)])
    assert render.main() == 1
    assert readme.read_text() == "nothing"
    assert "bench:begin" in capsys.readouterr().err


class _renamed:
    """A candidate under another name."""

    def __init__(self, starting, name: str) -> None:
        self._starting, self._name = starting, name

    def __enter__(self):
        found = self._starting.__enter__()
        return rig.Candidate(self._name, found.urls, found.pid)

    def __exit__(self, *error):
        return self._starting.__exit__(*error)
