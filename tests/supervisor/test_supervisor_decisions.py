"""What the supervisor decides, without processes."""

import socket

import pytest

from llmgw._core.segment import Segment
from llmgw.config import load
from llmgw.supervisor.changeover import Changeover, State, needs_restart
from llmgw.supervisor.channel import READ_BYTES, Channel, Kind, Message
from llmgw.supervisor.estate import Estate
from llmgw.supervisor.listen import Listening
from llmgw.supervisor.worker import Limits, Worker, backoff_s

YAML = """
server: {port: 0, workers: 3, admin: {port: 0}, state_dir: /nowhere, %s}
providers: {mock: {dialect: mock}}
models: {one: {targets: [{provider: mock}]}}
tenants: {demo: {keys: [{name: demo, key: sk-demo}]}}
"""


def config(more=""):
    return load(YAML % more, source="gateway.yaml", environ={})


def test_the_backoff_is_nothing_then_doubles_up_to_ten_seconds():
    assert [backoff_s(deaths) for deaths in range(9)] == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10]
    assert backoff_s(10**9) == 10


@pytest.fixture
def channel():
    one, other = Channel.pair()
    yield one
    one.close()
    other.close()


def worker_since(ready_s, channel):
    worker = Worker(0)
    worker.on_start(1, channel, 0, now_s=100.0)
    worker.ready_s = ready_s
    return worker


def test_thirty_seconds_of_service_make_a_death_a_first_one_again(channel):
    worker = worker_since(None, channel)
    worker.on_death(101.0, healthy_s=30.0)
    worker.on_start(2, channel, 0, now_s=101.0)
    worker.ready_s = 102.0
    worker.on_death(131.9, healthy_s=30.0)
    assert worker.respawn_at_s == 131.9 + 0.1
    worker.on_start(3, channel, 0, now_s=132.0)
    worker.ready_s = 133.0
    worker.on_death(163.0, healthy_s=30.0)
    assert worker.respawn_at_s == 163.0


def test_a_worker_that_starts_may_be_silent_longer_than_one_that_serves(channel):
    limits = Limits(heartbeat_s=10, start_s=60)
    starting, serving = worker_since(None, channel), worker_since(101.0, channel)
    assert not starting.is_stuck(0.0, 159.0, limits)
    assert starting.is_stuck(0.0, 161.0, limits)
    assert not serving.is_stuck(0.0, 111.0, limits), "it may have become ready before its first beat"
    assert not serving.is_stuck(150.0, 160.0, limits)
    assert serving.is_stuck(150.0, 160.1, limits)


def changeover(*slots):
    change = Changeover(7, config(), deadline_s=50.0)
    for slot in slots:
        change.ask(slot)
    return change


def test_a_changeover_commits_only_when_all_asked_have_prepared():
    change = changeover(0, 1)
    change.on_prepared(0, 7)
    change.on_prepared(0, 7)
    assert change.state is State.PREPARING
    change.on_prepared(1, 7)
    assert change.state is State.COMMITTED


def test_answers_to_an_earlier_generation_count_for_nothing():
    change = changeover(0)
    change.on_prepared(0, 6)
    change.on_refused(0, 6, ["late"])
    assert change.state is State.PREPARING


@pytest.mark.parametrize("end", ["refusal", "death", "silence"])
def test_one_bad_end_aborts_for_good(end):
    change = changeover(0, 1)
    change.on_prepared(0, 7)
    if end == "refusal":
        change.on_refused(1, 7, ["no"])
    elif end == "death":
        change.on_death(0)
    else:
        change.on_time(49.9)
        assert change.state is State.PREPARING
        change.on_time(50.0)
    assert change.state is State.ABORTED
    assert change.problems
    change.on_prepared(1, 7)
    change.on_prepared(0, 7)
    assert change.state is State.ABORTED


def test_a_death_of_somebody_who_was_not_asked_changes_nothing():
    change = changeover(0)
    change.on_death(1)
    change.on_prepared(0, 7)
    assert change.state is State.COMMITTED


def test_settings_that_need_no_socket_need_no_restart():
    assert needs_restart(config(), config("max_body: 1MB, drain: 1s")) == []
    assert needs_restart(config(), config("host: 127.0.0.3")) == [
        "server.host: changed from '127.0.0.1' to '127.0.0.3', which takes a restart"
    ]


def test_messages_arrive_whole_in_order_and_larger_than_the_socket():
    one, other = Channel.pair()
    sent = [Message(Kind.PREPARE, (1, b"x" * (8 * READ_BYTES))), Message(Kind.DRAIN, None)]
    for message in sent:
        one.send(*message)
    assert one.wants_write
    received = []
    while len(received) < len(sent):
        received += other.receive()
        one.flush()
    assert received == sent
    one.close()
    assert other.receive() == []
    assert not other.is_open
    other.send(Kind.READY)  # to nobody
    other.close()


def test_every_slot_listens_on_one_port_and_what_is_accepted_has_no_delay():
    listening = Listening(config().server)
    try:
        ports = {data.getsockname()[1] for data in listening.data}
        assert ports == {listening.addresses.data[1]}
        assert len(listening.data) == 3
        with socket.create_connection(listening.addresses.admin):
            listening.admin.setblocking(True)
            accepted, _ = listening.admin.accept()
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            accepted.close()
    finally:
        listening.close()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_ipv6_address_can_be_listened_on():
    listening = Listening(config('host: "::1"').server)
    try:
        with socket.create_connection(("::1", listening.addresses.data[1])):
            pass
    finally:
        listening.close()


def test_an_address_that_cannot_be_had_is_named_and_leaves_nothing_open():
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign requested address"):
        Listening(config("host: 192.0.2.1").server)


def test_records_that_a_dead_worker_could_not_write_are_told_of(tmp_path, caplog):
    segment = Segment(str(tmp_path / "state" / "segment"), 3)
    given = load((YAML % "").replace("/nowhere", str(tmp_path)), source="gateway.yaml", environ={})
    estate = Estate(given, segment)
    assert not caplog.records
    segment.note_unwritten(1, 7)
    estate.on_death(1)
    estate.close()
    assert "7 records of worker 1 waited for disk and are lost" in caplog.text
