"""`llmgw mock` from the command line, and TLS."""

import argparse
import asyncio
import shutil
import socket
import ssl
import sys
from dataclasses import fields

import pytest
from mock_raw import chat_request

from llmgw.mock import Fault, Options, Point, start
from llmgw.mock.certificate import self_signed
from llmgw.mock.cli import _HELP, _options, add_arguments, run

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_every_fault_has_its_flag_and_its_help():
    assert list(_HELP) == [field.name for field in fields(Fault)]


def test_flags_become_the_default_fault():
    args = parsed(
        "--delay=250ms", "--stall=events:3", "--headers=a=b", "--headers=c=d=e", "--split-at=3,9",
        "--sse=crlf,bom", "--no-usage", "--events=7", "--error-event=0", "--key=k", "--model=m",
    )  # fmt: skip
    assert _options(args) == Options(
        fault=Fault(
            delay_s=0.25,
            stall=Point("events", 3),
            headers=(("a", "b"), ("c", "d=e")),
            split_at=(3, 9),
            sse=("crlf", "bom"),
            no_usage=True,
            events=7,
            error_event=0,
        ),
        keys=frozenset({"k"}),
        models=("m",),
    )


def test_no_flags_are_no_fault():
    assert _options(parsed()) == Options()


@pytest.mark.parametrize(
    "wrong", [["--stall=soon"], ["--split-at=x"], ["--tls-cert=/nowhere", "--tls-key=/nowhere"]]
)
def test_a_wrong_argument_is_said_and_is_exit_code_2(wrong, capsys):
    assert run(parsed(*wrong)) == 2
    assert capsys.readouterr().err.startswith("llmgw mock: ")


def test_a_port_that_is_taken_is_one_line_and_exit_code_1(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(parsed(f"--port={port}")) == 1
    assert capsys.readouterr().err == f"llmgw mock: 127.0.0.1:{port}: Address already in use\n"


@needs_openssl
async def test_the_command_serves_tls_until_it_is_told_to_stop(tmp_path):
    certificate, key = self_signed(tmp_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "llmgw.mock", "--port=0", f"--tls-cert={certificate}", f"--tls-key={key}",
        "--status=418", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        said = (await process.stdout.readline()).decode()
        assert said.startswith("mock provider on https://127.0.0.1:")
        port = int(said.rpartition(":")[2].removesuffix("/v1\n"))
        context = ssl.create_default_context(cafile=certificate)
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        writer.write(chat_request())
        assert (await reader.readline()).startswith(b"HTTP/1.1 418 ")
        writer.close()
    finally:
        process.terminate()
        assert await process.wait() == 0


@needs_openssl
@pytest.mark.parametrize("end", ["reset", "close"])
async def test_faults_work_over_tls(tmp_path, end):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed(tmp_path))
    mock = await start(ssl=context)
    trusted = ssl.create_default_context(cafile=tmp_path / "mock-cert.pem")
    reader, writer = await asyncio.open_connection("localhost", mock.port, ssl=trusted)
    writer.write(chat_request(**{end: "bytes:10"}))
    await reader.readuntil(b"\r\n\r\n")
    if end == "reset":
        with pytest.raises(ConnectionResetError):
            await reader.read()
    else:
        assert len(await reader.read()) == 10
    assert mock.seen[0].ended == "fault"
    writer.transport.abort()
    await mock.close()
