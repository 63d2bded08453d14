"""From the command to the first answer, and what keeps a gateway from starting."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import pytest
from farend import FarEnd
from freeport import free_port
from gatewayrig import POLL_S, Gateway, default_config
from wireclient import chat

from llmgw.config import from_environment
from llmgw.serve import unspoken, welcome
from llmgw.supervisor import Addresses
from llmgw.worker import check_writable

START_S = 20.0  # promised is 1 s on a quiet machine


def test_from_nothing_to_the_first_answer_takes_no_longer_than_promised(tmp_path: Path) -> None:
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_PROXY"))}
    environ |= {"XDG_STATE_HOME": str(tmp_path), "NO_PROXY": "*"}
    command = [sys.executable, "-m", "llmgw", "serve", "--port", str(port), "--workers", "1"]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        data=chat(),
        headers={"Authorization": "Bearer sk-demo", "Content-Type": "application/json"},
    )
    began_s = monotonic()
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            while True:
                try:
                    with socket.create_connection(("127.0.0.1", port)):
                        break
                except ConnectionRefusedError:
                    assert monotonic() - began_s < START_S, "nobody listens"
                    sleep(POLL_S)
            with urllib.request.urlopen(request, timeout=START_S) as answer:
                assert answer.status == 200
            took_s = monotonic() - began_s
        finally:
            process.terminate()
            process.communicate(timeout=20)
    print(f"start to first answer: {took_s:.2f} s")
    assert took_s < START_S
    assert process.returncode == 0


def serve_once(tmp_path: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`llmgw serve` that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "llmgw", "serve", *words],
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path)} | environ,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize("path", ["missing/requests.log", "."])
def test_a_log_that_cannot_be_opened_ends_the_start_with_a_reason(tmp_path: Path, path: str) -> None:
    file = tmp_path / "gateway.yaml"
    config = default_config(1, server={"port": free_port()}, log={"path": path})
    file.write_text(json.dumps(config))
    ended = serve_once(tmp_path, "--config", str(file))
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"log.path: {(tmp_path / path).absolute()}: ")


def test_a_log_may_be_a_named_pipe_whose_reader_comes_later(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    check_writable(str(tmp_path / "pipe"))


ADDRESSES = Addresses(("127.0.0.1", 8080), ("127.0.0.1", 9090))


def snippet_of(text: str) -> str:
    return text[text.index("\n\n", text.index("curl")) :]


def test_the_welcome_shows_a_key_that_was_made(tmp_path: Path) -> None:
    text = welcome(from_environment({})[0], ADDRESSES, "sk-demo")
    assert 'Authorization: Bearer sk-demo"' in text
    assert 'api_key="sk-demo")' in snippet_of(text)
    compile(snippet_of(text), "snippet", "exec")


def test_the_welcome_takes_the_users_own_key_from_the_environment(monkeypatch) -> None:
    environ = {"OPENAI_API_KEY": "k", "LLMGW_API_KEY": "sk-mine"}
    text = welcome(from_environment(environ)[0], ADDRESSES, "")
    assert "sk-mine" not in text
    assert 'Authorization: Bearer $LLMGW_API_KEY"' in text
    monkeypatch.setenv("LLMGW_API_KEY", "sk-mine")
    client = {}
    exec(snippet_of(text).rpartition("print(")[0], client)
    assert client["client"].api_key == "sk-mine"


def test_keys_of_providers_that_are_not_spoken_to_are_named() -> None:
    assert unspoken({"OPENAI_API_KEY": "k", "GEMINI_API_KEY": ""}) == ""
    assert unspoken({"ANTHROPIC_API_KEY": "k", "GEMINI_API_KEY": "k"}).splitlines() == [
        "",
        "ANTHROPIC_API_KEY is not used: this version does not speak to that provider yet.",
        "GEMINI_API_KEY is not used: this version does not speak to that provider yet.",
    ]


def test_a_port_that_is_taken_ends_the_start_with_a_reason(
    start_gateway: Callable[..., Gateway], far: FarEnd, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = Gateway(tmp_path / "second", default_config(far.port, server={"port": port}))
        ended = subprocess.run(
            [sys.executable, "-m", "llmgw", "serve", "--config", str(gateway.directory / "gateway.yaml")],
            env=os.environ | {"XDG_STATE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert ended.returncode == 1
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr
