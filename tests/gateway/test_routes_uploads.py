"""Uploads and binary answers flow through; they are not collected on the way."""

import hashlib
import json
from pathlib import Path

import pytest
from gatewayrig import Gateway, default_config
from wireclient import exchange, get, post, wire_to

SIZE = 48 << 20
GROWTH_BYTES = 16 << 20  # of the worker's peak; a third of what goes through it
BLOCK = hashlib.sha256(b"block").digest() * 2048  # 64 KB

HEAD = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nrenamed\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.bin"\r\n\r\n'
)
TAIL = b"\r\n--b--\r\n"


@pytest.fixture(scope="module")
def wide_gateway(shared_far, tmp_path_factory):
    config = default_config(shared_far.port, server={"max_body": "128MB"})
    gateway = Gateway(tmp_path_factory.mktemp("wide"), config).start()
    yield gateway
    gateway.kill()


@pytest.fixture
async def wide(wide_gateway, far) -> Gateway:
    await wide_gateway.forget_log()
    far.reset()
    return wide_gateway


def peak_bytes(gateway: Gateway) -> int:
    """The worker's resident memory at its highest."""
    (pid,) = gateway.worker_pids()
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def form_head(path: str, length: int) -> bytes:
    request = post(b"", path).replace(b"application/json", b"multipart/form-data; boundary=b")
    return request.replace(b"Content-Length: 0", b"Content-Length: %d" % length)


async def test_a_large_upload_flows_through_and_arrives_unchanged(wide, far):
    blocks = SIZE // len(BLOCK)
    length = len(HEAD) + blocks * len(BLOCK) + len(TAIL)
    await exchange(wide.port, get("/v1/files"))
    before = peak_bytes(wide)
    async with wire_to(wide.port) as wire:
        wire.send(form_head("/v1/audio/transcriptions", length) + HEAD)
        for _ in range(blocks):
            await wire.send_at_its_pace(BLOCK)
        wire.send(TAIL)
        answer = await wire.answer()
    assert answer.status == 200
    assert (answer.json["model"], answer.json["bytes"]) == ("its-real-name", blocks * len(BLOCK))
    digest = hashlib.sha256()
    for _ in range(blocks):
        digest.update(BLOCK)
    assert answer.json["sha256"] == digest.hexdigest()
    assert peak_bytes(wide) - before < GROWTH_BYTES
    assert far.seen[-1].body_bytes == length + len("its-real-name") - len("renamed")


async def test_a_large_binary_answer_flows_through(wide):
    await exchange(wide.port, get("/v1/files"))
    before = peak_bytes(wide)
    body = json.dumps({"model": "mock", "input": "x", "voice": "y", "mock": {"text_bytes": SIZE}}).encode()
    answer = await exchange(wide.port, post(body, "/v1/audio/speech"))
    assert (answer.status, len(answer.body), answer.is_whole) == (200, SIZE, True)
    assert peak_bytes(wide) - before < GROWTH_BYTES


@pytest.mark.parametrize("order", ["model-first", "file-first"])
async def test_a_form_is_renamed_wherever_its_model_stands(wide, far, order):
    parts = HEAD.split(b"--b\r\n")[1:]
    model, file = parts[1], parts[2] + b"xyz\r\n"
    rest = [model, file] if order == "model-first" else [file, model]
    form = b"".join(b"--b\r\n" + part for part in [parts[0], *rest]) + b"--b--\r\n"
    answer = await exchange(wide.port, form_head("/v1/audio/transcriptions", len(form)) + form)
    assert (answer.status, answer.json["model"], answer.json["bytes"]) == (200, "its-real-name", 3)
    assert far.seen[-1].body == form.replace(b"renamed", b"its-real-name")


async def test_a_form_in_single_bytes_is_the_same_form(wide, far):
    form = HEAD + b"-\r\n--\r\n--c--" + TAIL
    async with wire_to(wide.port) as wire:
        await wire.send_split(form_head("/v1/audio/transcriptions", len(form)) + form)
        answer = await wire.answer()
    assert (answer.status, answer.json["bytes"]) == (200, len(b"-\r\n--\r\n--c--"))


async def test_a_form_that_is_too_large_is_413(wide, far):
    async with wire_to(wide.port) as wire:
        wire.send(form_head("/v1/audio/transcriptions", 200 << 20) + HEAD)
        answer = await wire.answer()
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert far.requests == 0


async def test_a_second_model_at_the_end_of_an_upload_ends_it_before_it_is_whole(wide, far):
    """The provider never gets a form that names another model than the one that was judged."""
    again = b'\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o' + TAIL
    form = HEAD + BLOCK * 20 + again
    answer = await exchange(wide.port, form_head("/v1/audio/transcriptions", len(form)) + form)
    assert (answer.status, answer.error["param"]) == (400, "model")
    await far.wait(lambda mock: mock.in_flight == 0)
    assert {arrival.ended for arrival in far.seen} <= {"client_gone"}
    assert (await wide.log_line())["status"] == 400


async def test_a_client_that_leaves_within_its_upload_leaves_nothing_behind(wide, far):
    async with wire_to(wide.port) as wire:
        wire.send(form_head("/v1/audio/transcriptions", 1 << 20) + HEAD + BLOCK)
        await far.wait(lambda mock: mock.in_flight == 1)
    await far.wait(lambda mock: mock.in_flight == 0)
    assert far.seen[-1].ended == "client_gone"
    assert (await wide.log_line())["client_gone"]


async def test_a_provider_that_answers_before_the_upload_is_whole_is_heard(wide, far):
    far.script({"status": 400, "message": "Too much.", "early": True, "path": "/v1/files"})
    length = 8 << 20
    async with wire_to(wide.port) as wire:
        wire.send(form_head("/v1/files", length) + HEAD + BLOCK)
        answer = await wire.answer()
    assert (answer.status, answer.error["message"]) == (400, "Too much.")
    assert answer.header("connection") == "close"
