"""Processes: they die, hang, loop and drain, for real."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from toytree import is_running, wait_for


def replaced(gateway, slot, old_pid):
    def look():
        new_pid = gateway.pids()[slot]
        return new_pid if new_pid != old_pid else None

    return wait_for(f"worker {slot} was replaced", look)


def test_connections_queued_on_a_dead_workers_socket_are_served_by_its_successor(make_gateway):
    gateway = make_gateway(workers=1).start()
    [old_pid] = gateway.pids().values()
    os.kill(old_pid, signal.SIGSTOP)
    queued = [gateway.connect() for _ in range(40)]
    for connection in queued:
        connection.sendall(b"who\n")
    os.kill(old_pid, signal.SIGKILL)
    for connection in queued:
        answer = connection.makefile().readline()
        assert f'"pid": {old_pid}' not in answer
        assert '"slot": 0' in answer
        connection.close()
    assert gateway.stop() == 0


def test_a_killed_worker_is_replaced_at_once_and_the_others_are_left_alone(make_gateway):
    gateway = make_gateway(workers=2).start()
    before = gateway.pids()
    os.kill(before[0], signal.SIGKILL)
    replaced(gateway, 0, before[0])
    assert gateway.pids()[1] == before[1]
    assert gateway.has_said("ended by signal 9; the next one starts in 0.0 s")


@pytest.mark.parametrize("command", ["spin", "stop"])
def test_a_worker_whose_loop_stands_still_is_ended_and_replaced(make_gateway, command):
    gateway = make_gateway(workers=1).start(heartbeat_s=1.0)
    [pid] = gateway.pids().values()
    if command == "stop":
        os.kill(pid, signal.SIGSTOP)
    else:
        spinning = gateway.connect()
        spinning.sendall(b"spin\n")
    wait_for("the stuck worker is gone", lambda: not is_running(pid))
    replaced(gateway, 0, pid)
    assert gateway.has_said(f"worker 0 (process {pid}) is stuck")
    if command == "spin":
        spinning.close()
        assert "do_spin" in gateway.errors.read_text(), "the traceback shows where it stood"


def test_a_worker_that_never_gets_ready_is_ended_at_the_start_limit(make_gateway):
    gateway = make_gateway(workers=1)
    at_start = gateway.directory / "at-start-0"
    at_start.write_text("wait")
    gateway.launch(start_s=2.0)
    wait_for("it was noticed", lambda: gateway.errors.exists() and gateway.has_said("is stuck"))
    at_start.unlink()
    line = gateway.process.stdout.readline()
    assert b"port" in line


def test_a_crash_loop_backs_off_and_ends_when_its_cause_does(make_gateway):
    gateway = make_gateway(workers=2).start()
    before = gateway.pids()
    at_start = gateway.directory / "at-start-0"
    at_start.write_text("crash")
    os.kill(before[0], signal.SIGKILL)

    def waits():
        found = [re.search(r"worker 0 .* starts in ([0-9.]+) s", line["message"]) for line in gateway.log()]
        return [float(match[1]) for match in found if match]

    wait_for("it died five times", lambda: len(waits()) >= 5)
    assert waits()[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    at_start.unlink()
    assert gateway.pids()[1] == before[1]
    restarts = re.search(r"^llm_worker_restarts_total (\S+)$", gateway.ask("metrics"), re.MULTILINE)
    assert float(restarts[1]) >= 5


def test_a_gateway_whose_workers_cannot_start_gives_up_with_an_error(make_gateway):
    gateway = make_gateway(workers=2)
    for slot in range(2):
        (gateway.directory / f"at-start-{slot}").write_text("crash")
    gateway.launch()
    assert gateway.wait() == 1
    assert gateway.has_said("does not start; giving up")


def test_a_worker_that_fails_once_at_the_start_does_not_keep_the_gateway_from_getting_ready(make_gateway):
    gateway = make_gateway(workers=2)
    (gateway.directory / "at-start-1").write_text("crash-once")
    assert len(gateway.start().pids()) == 2


def test_a_drain_refuses_new_connections_and_lets_open_ones_finish(make_gateway):
    gateway = make_gateway(workers=2).start()
    held = [gateway.connect() for _ in range(8)]
    for connection in held:
        connection.sendall(b"hold\n")
        assert connection.recv(5) == b"held\n"
    pids = gateway.pids()
    gateway.signal(signal.SIGTERM)

    def refused():
        try:
            gateway.connect().close()
        except ConnectionRefusedError:
            return True
        return False

    wait_for("nobody listens any more", refused)
    assert all(is_running(pid) for pid in pids.values())
    for connection in held:
        connection.sendall(b"bye\n")
        assert connection.makefile().readline() == '"bye\\n"\n'
        connection.close()
    assert gateway.wait() == 0


def test_what_is_open_at_the_end_of_the_drain_is_cut_off_and_the_exit_code_says_so(make_gateway):
    gateway = make_gateway(workers=1, drain="0s").start(drain_margin_s=0.2)
    with gateway.connect() as held:
        held.sendall(b"hold\n")
        assert held.recv(5) == b"held\n"
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 1
        assert held.recv(1) == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(make_gateway, number):
    gateway = make_gateway(workers=2, drain="300s").start()
    pids = gateway.pids()
    with gateway.connect() as held:
        held.sendall(b"hold\n")
        assert held.recv(5) == b"held\n"
        gateway.signal(number)
        wait_for("it drains", lambda: gateway.has_said("draining"))
        gateway.signal(number)
        assert gateway.wait() == 128 + number
    assert not any(is_running(pid) for pid in pids.values())


def test_a_signal_to_the_whole_group_is_a_drain_too(make_gateway):
    """A terminal's Ctrl-C and a service manager's stop reach the workers as well."""
    gateway = make_gateway(workers=2).start()
    with gateway.connect() as held:
        held.sendall(b"hold\n")
        assert held.recv(5) == b"held\n"
        os.killpg(gateway.pid, signal.SIGINT)
        wait_for("it drains", lambda: gateway.has_said("draining"))
        held.sendall(b"bye\n")
        assert held.makefile().readline() == '"bye\\n"\n'
    assert gateway.wait() == 0


def test_a_worker_told_to_end_by_itself_drains_and_is_replaced(make_gateway):
    gateway = make_gateway(workers=1).start()
    [pid] = gateway.pids().values()
    with gateway.connect() as held:
        held.sendall(b"hold\n")
        assert held.recv(5) == b"held\n"
        os.kill(pid, signal.SIGTERM)
        held.sendall(b"bye\n")
        assert held.makefile().readline() == '"bye\\n"\n'
    replaced(gateway, 0, pid)


def test_workers_do_not_outlive_a_killed_supervisor(make_gateway):
    """Promised is less than a second, of a quiet machine."""
    gateway = make_gateway(workers=2).start()
    pids = gateway.pids()
    spinning = gateway.connect()
    spinning.sendall(b"spin\n")
    gateway.signal(signal.SIGKILL)
    killed_s = time.monotonic()
    wait_for("its workers are gone", lambda: not any(is_running(pid) for pid in pids.values()))
    assert time.monotonic() - killed_s < 5.0
    spinning.close()


def test_a_gateway_starts_right_after_its_predecessor_was_killed(make_gateway, free_port):
    old = make_gateway(workers=2, port=free_port).start()
    old.signal(signal.SIGKILL)
    new = make_gateway(workers=2, port=free_port)
    assert len(new.start().pids()) == 2


def test_a_second_gateway_on_the_same_port_is_refused(make_gateway, free_port):
    first = make_gateway(workers=1, port=free_port).start()
    second = make_gateway(workers=1, port=free_port)
    second.launch()
    assert second.wait() == 1
    assert second.has_said(f"cannot listen on 127.0.0.1:{free_port}: Address already in use")
    assert first.stop() == 0


def test_fifty_deaths_leave_no_descriptor_behind(make_gateway):
    gateway = make_gateway(workers=1).start(healthy_s=0.0)
    fds = Path(f"/proc/{gateway.pid}/fd")
    first = gateway.ask("who")
    before = 0

    def settled():  # a descriptor or two live for the time of a fork
        nonlocal before
        before, last = len(list(fds.iterdir())), before
        return before == last

    wait_for("it has settled", settled)
    pid = first["pid"]
    for _ in range(50):
        os.kill(pid, signal.SIGKILL)
        pid = replaced(gateway, 0, pid)
    wait_for("no more descriptors than before", lambda: len(list(fds.iterdir())) <= before)
    wait_for("nor in a worker", lambda: len(gateway.ask("who")["fds"]) <= len(first["fds"]))
    assert len(gateway.children()) == 1


def test_counts_are_exact_after_kills_and_a_restart(make_gateway, free_port):
    gateway = make_gateway(workers=2, port=free_port).start(healthy_s=0.0)
    total = 0
    for times in (100, 1, 37):
        for pid in gateway.pids().values():
            assert gateway.ask(f"count {times}") == "counted"
            total += times
            os.kill(pid, signal.SIGKILL)
    gateway.pids()
    assert gateway.stop() == 0
    gateway.server["workers"] = 1
    gateway.configure("one")
    page = gateway.start().ask("metrics")
    labels = 'model="m",provider="mock",status="200",tenant="acme"'
    assert f"llm_requests_total{{{labels}}} {total:.1f}\n" in page
    assert f'llm_cost_usd_total{{model="m",tenant="acme"}} {total * 7 / 1e6}\n' in page
    assert f'llm_tokens_used_total{{direction="input",model="m",tenant="acme"}} {total * 3:.1f}\n' in page


def test_a_dead_workers_requests_are_no_longer_in_flight(make_gateway):
    gateway = make_gateway(workers=2).start()
    pids = {slot: set() for slot in range(2)}
    for _ in range(12):
        pid = gateway.ask("begin")
        slot = next(slot for slot, known in gateway.pids().items() if known == pid)
        pids[slot].add(pid)
    assert sum(gateway.ask("who")["inflight"]) == 12
    victim = gateway.pids()[0]
    survivors = gateway.ask("who")["inflight"][1]
    os.kill(victim, signal.SIGKILL)
    replaced(gateway, 0, victim)
    assert gateway.ask("who")["inflight"] == [0, survivors]


def test_siblings_differ_in_randomness_and_share_no_sockets_but_the_admin(make_gateway):
    gateway = make_gateway(workers=2).start()
    found = gateway.who()
    assert found[0]["random"] != found[1]["random"]
    sockets = [
        {os.readlink(f"/proc/{one['pid']}/fd/{fd}") for fd in os.listdir(f"/proc/{one['pid']}/fd")}
        for one in found.values()
    ]
    shared = {name for name in sockets[0] & sockets[1] if name.startswith("socket:")}
    assert len(shared) == 1


def test_the_file_of_a_gateway_on_a_port_of_chance_goes_with_it(make_gateway):
    gateway = make_gateway(workers=1).start()
    state = gateway.directory / "state"
    assert state.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in state.iterdir())
    assert gateway.stop() == 0
    assert not list(state.iterdir())


def test_a_state_directory_of_somebody_else_is_refused(make_gateway, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)
    gateway = make_gateway(workers=1, state_dir=str(link))
    gateway.launch()
    assert gateway.wait() == 1
    assert gateway.has_said("the state directory must be a directory, not a link")


def test_a_worker_may_be_gone_in_the_middle_of_an_answer_without_harm_to_its_sibling(make_gateway):
    gateway = make_gateway(workers=2).start()
    held = []
    for _ in range(10):
        connection = gateway.connect()
        connection.sendall(b"hold\n")
        assert connection.recv(5) == b"held\n"
        held.append(connection)
    os.kill(gateway.pids()[0], signal.SIGKILL)
    lost = 0
    for connection in held:
        try:
            connection.sendall(b"bye\n")
            lost += connection.makefile().readline() != '"bye\\n"\n'
        except (ConnectionResetError, BrokenPipeError):
            lost += 1
        connection.close()
    assert lost < 10


def test_a_stop_of_the_whole_group_is_no_reason_to_end_workers(make_gateway):
    """A terminal's Ctrl-Z: when it goes on, everybody's heartbeat is old, the supervisor's own included."""
    gateway = make_gateway(workers=2).start(heartbeat_s=2.0)
    before = gateway.pids()
    os.killpg(gateway.pid, signal.SIGSTOP)
    stopped_s = time.monotonic()
    wait_for("the heartbeats are too old", lambda: time.monotonic() - stopped_s > 3.0)
    os.killpg(gateway.pid, signal.SIGCONT)
    assert gateway.pids() == before
    assert not gateway.has_said("is stuck")
