"""From the command to the first answer, and what keeps a gateway from starting."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

from farend import FarEnd
from freeport import free_port
from gatewayrig import POLL_S, Gateway, default_config
from wireclient import chat

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
