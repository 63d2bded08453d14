"""`llmgw bench` from the command line: its exit code, its report, its progress."""

import argparse
import asyncio
import io
import json
import os

import pytest

from llmgw.bench.cli import _job, add_arguments, run
from llmgw.bench.job import Job, Target
from llmgw.bench.load import Load
from llmgw.bench.progress import Bar

QUICK = ["--duration=600ms", "--warmup=50ms", "--timeout=10s"]


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


async def bench(*arguments: str) -> int:
    """Runs beside the mock of this loop, with a loop of its own."""
    return await asyncio.to_thread(run, parsed(*arguments, *QUICK))


async def test_a_sound_run_is_exit_code_0_and_its_report_is_json(start_mock, tmp_path, capsys):
    mock = await start_mock()
    url, report = f"http://127.0.0.1:{mock.port}/v1", tmp_path / "out.json"
    code = await bench(
        url,
        f"--direct={url}",
        "--concurrency=2",
        f"--pid=self={os.getpid()}",
        f"--json={report}",
        "--answer-bytes=99",
    )
    assert code == 0
    found = json.loads(report.read_text())
    assert (found["void"], found["loop"], found["concurrency"]) == (False, "closed", 2)
    assert found["ways"].keys() == {"gateway", "direct"}
    assert found["trees"]["self"]["cpu_us_per_request"] > 0
    said = capsys.readouterr().out
    assert "every body checked" in said
    assert "gateway added to direct" in said
    assert b'"text_bytes":99' in mock.seen[0].body


async def test_a_void_run_is_exit_code_1_and_says_so(start_mock, capsys):
    mock = await start_mock(no_done=True)
    code = await bench(f"http://127.0.0.1:{mock.port}/v1", "--stream", "--concurrency=1")
    assert code == 1
    assert "VOID" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        ["--events=3"],
        ["--rate=0"],
        ["--pid=me"],
        ["--pid=4194305"],
        ["--ca-file=/nowhere", "--direct=https://x"],
    ],
)
def test_what_cannot_be_run_is_exit_code_2_and_says_why(wrong, capsys):
    assert run(parsed("http://127.0.0.1:1", *QUICK, *wrong)) == 2
    assert capsys.readouterr().err.startswith("llmgw bench: ")


def test_arguments_become_the_job():
    args = parsed(
        "http://a", "--direct=http://b", "--stream", "--events=5", "--interval=10ms", "--rate=50",
        "--arrivals=constant", "--usage", "--model=m", "--body-bytes=9", "--seed=1", "--pid=7",
    )  # fmt: skip
    assert _job(args) == Job(
        targets=(Target("gateway", "http://a", "sk-demo"), Target("direct", "http://b", "sk-direct")),
        model="m",
        body_bytes=9,
        is_stream=True,
        wants_usage=True,
        wishes={"events": 5, "interval_s": 0.01},
        events=5,
        concurrency=1000,
        rate=50.0,
        arrivals="constant",
        pids={"pid 7": 7},
        seed=1,
    )


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_progress_moves_on_a_terminal_and_is_silent_elsewhere(job_for):
    load = Load(job_for(targets=(Target("gateway", "http://127.0.0.1:1"),)))
    terminal, file = _Terminal(), io.StringIO()
    for out in (terminal, file):
        bar = Bar(out)
        bar.tick(load, 0.5)
        bar.clear()
    assert " 50%" in terminal.getvalue()
    assert file.getvalue() == ""


async def test_a_run_without_an_answer_is_exit_code_1_and_says_so(start_mock, capsys):
    mock = await start_mock(delay_s=3.0)
    assert await bench(f"http://127.0.0.1:{mock.port}/v1", "--concurrency=1") == 1
    assert "NO ANSWER" in capsys.readouterr().out
