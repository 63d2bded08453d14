"""SIGHUP: all workers serve the new configuration, or all go on with the old one."""

import os
import signal

import pytest
from toytree import is_running, wait_for


def reload(gateway, outcome):
    """Sends SIGHUP and waits for one more line with `outcome`."""
    before = count(gateway, outcome)
    gateway.signal(signal.SIGHUP)
    wait_for(f"{outcome}: {gateway.errors.read_text()}", lambda: count(gateway, outcome) > before)


def count(gateway, text):
    return sum(text in line["message"] for line in gateway.log())


def all_serve(gateway, *models):
    return all(one["models"] == sorted(models) for one in gateway.who().values())


APPLIED = "configuration reloaded"
REFUSED = "the old one stays in force"


def test_a_reload_reaches_every_worker_without_replacing_one(make_gateway):
    gateway = make_gateway(workers=2, models=("one",)).start()
    pids = gateway.pids()
    gateway.configure("two", "three")
    reload(gateway, APPLIED)
    wait_for("all serve it", lambda: all_serve(gateway, "two", "three"))
    assert gateway.pids() == pids
    assert 'llm_config_reloads_total{result="applied"} 1.0' in gateway.ask("metrics")


def test_a_worker_started_after_a_reload_has_the_new_configuration(make_gateway):
    gateway = make_gateway(workers=2, models=("one",)).start()
    gateway.configure("two")
    reload(gateway, APPLIED)
    for pid in gateway.pids().values():
        os.kill(pid, signal.SIGKILL)
    assert all_serve(gateway, "two")


def test_every_problem_of_an_invalid_file_is_logged_and_nothing_changes(make_gateway):
    gateway = make_gateway(workers=2).start()
    (gateway.directory / "gateway.yaml").write_text("server: {port: x, drain: 3}\nmodels: 7\n")
    reload(gateway, REFUSED)
    problems = [line["message"] for line in gateway.log() if "gateway.yaml:" in line["message"]]
    assert sum("server.port" in line for line in problems) == 1
    assert sum("server.drain" in line for line in problems) == 1
    assert sum("models" in line for line in problems) == 1
    assert all_serve(gateway, "one")
    assert 'llm_config_reloads_total{result="refused"} 1.0' in gateway.ask("metrics")


def test_a_file_that_is_gone_changes_nothing(make_gateway):
    gateway = make_gateway(workers=1).start()
    (gateway.directory / "gateway.yaml").unlink()
    reload(gateway, REFUSED)
    assert all_serve(gateway, "one")


@pytest.mark.parametrize(
    ("order", "reason"), [("refuse-1", "worker 1: told to refuse"), ("fault-1", "worker 1: RuntimeError")]
)
def test_if_one_worker_refuses_all_keep_the_old(make_gateway, order, reason):
    gateway = make_gateway(workers=2).start()
    pids = gateway.pids()
    gateway.configure("two", order)
    reload(gateway, REFUSED)
    assert gateway.has_said(reason)
    assert all_serve(gateway, "one")
    assert gateway.pids() == pids
    gateway.configure("three")
    reload(gateway, APPLIED)
    wait_for("the next one is taken", lambda: all_serve(gateway, "three"))


def test_if_one_worker_dies_while_preparing_all_keep_the_old_and_so_does_its_successor(make_gateway):
    gateway = make_gateway(workers=2).start()
    pids = gateway.pids()
    gateway.configure("two", "die-1")
    reload(gateway, REFUSED)
    assert gateway.has_said("worker 1 died while preparing it")
    assert all_serve(gateway, "one")
    assert gateway.pids()[0] == pids[0]


def test_if_one_worker_hangs_while_preparing_all_keep_the_old_and_it_is_replaced(make_gateway):
    gateway = make_gateway(workers=2).start(reload_s=1.5, heartbeat_s=3.0)
    pids = gateway.pids()
    gateway.configure("two", "hang-1")
    reload(gateway, REFUSED)
    assert gateway.has_said("no answer from worker 1 in time")
    wait_for("the hanging worker is ended", lambda: not is_running(pids[1]))
    assert all_serve(gateway, "one")


def test_a_worker_that_cannot_commit_gives_way_to_one_with_the_new_configuration(make_gateway):
    gateway = make_gateway(workers=2).start()
    pids = gateway.pids()
    gateway.configure("two", "break-commit-0")
    reload(gateway, APPLIED)
    wait_for("all serve it", lambda: all_serve(gateway, "two", "break-commit-0"))
    after = gateway.pids()
    assert after[0] != pids[0]
    assert after[1] == pids[1]


def test_what_takes_a_restart_refuses_the_whole_reload_by_name(make_gateway):
    gateway = make_gateway(workers=2).start()
    gateway.configure("two", workers=3, host="127.0.0.2", admin={"port": 1})
    reload(gateway, REFUSED)
    assert gateway.has_said("server.workers: changed from 2 to 3, which takes a restart")
    assert gateway.has_said("server.host: changed from '127.0.0.1' to '127.0.0.2'")
    assert gateway.has_said("server.admin.port: changed from 0 to 1")
    assert all_serve(gateway, "one")


def test_a_worker_that_is_still_starting_catches_up(make_gateway):
    gateway = make_gateway(workers=2).start()
    pids = gateway.pids()
    at_start = gateway.directory / "at-start-0"
    at_start.write_text("wait")
    os.kill(pids[0], signal.SIGKILL)
    wait_for(
        "the next one starts", lambda: pids[0] not in gateway.children() and len(gateway.children()) == 2
    )
    gateway.configure("two")
    reload(gateway, APPLIED)
    at_start.unlink()
    wait_for("all serve it", lambda: all_serve(gateway, "two"))


def test_reloads_that_overlap_end_with_the_last_file(make_gateway):
    gateway = make_gateway(workers=2).start()
    for number in range(10):
        gateway.configure(f"version-{number}")
        gateway.signal(signal.SIGHUP)
    wait_for("all serve the last", lambda: all_serve(gateway, "version-9"))


def test_a_large_configuration_passes(make_gateway):
    gateway = make_gateway(workers=2).start()
    names = [f"model-with-a-long-name-{number:06}" for number in range(3000)]
    gateway.configure(*names)
    reload(gateway, APPLIED)
    wait_for("all serve it", lambda: all_serve(gateway, *names))


def test_a_reload_reopens_logs_also_where_the_configuration_is_refused(make_gateway):
    gateway = make_gateway(workers=2).start()
    reload(gateway, APPLIED)
    (gateway.directory / "gateway.yaml").write_text("nonsense")
    reload(gateway, REFUSED)
    wait_for("both were told twice", lambda: all(one["reopened"] == 2 for one in gateway.who().values()))
