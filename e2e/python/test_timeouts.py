"""When sandboxes end, sleep and wake by themselves. Times are exact to a second."""

import time
from datetime import datetime, timezone

import pytest
from conftest import PAUSES, WAKES, api_sandbox, eventually

from e2b import SandboxNotFoundException, SandboxState

# What the check itself may take on a busy machine. How late ends really are is what the benchmark measures.
LATE = 3


def remaining(sandbox):
    return (sandbox.get_info().end_at - datetime.now(timezone.utc)).total_seconds()


def wait_until_gone(sandbox, expected):
    """Neither before the end that the server names nor much later."""
    end = sandbox.get_info().end_at
    assert (end - datetime.now(timezone.utc)).total_seconds() <= expected
    eventually(lambda: not sandbox.is_running(), deadline=expected + 10)
    late = (datetime.now(timezone.utc) - end).total_seconds()
    assert 0 <= late <= LATE


def test_sandbox_ends_on_the_second(make):
    sandbox = make(timeout=3)
    wait_until_gone(sandbox, 3)
    with pytest.raises(SandboxNotFoundException):
        sandbox.get_info()


def test_shorter_timeout_holds(make):
    sandbox = make(timeout=300)
    sandbox.set_timeout(2)
    assert 0 < remaining(sandbox) <= 2
    wait_until_gone(sandbox, 2)


def test_longer_timeout_holds(make):
    sandbox = make(timeout=2)
    sandbox.set_timeout(60)
    assert 58 <= remaining(sandbox) <= 61
    time.sleep(3)
    assert sandbox.is_running()


def test_zero_ends_it_now(make):
    sandbox = make()
    sandbox.set_timeout(0)
    eventually(lambda: not sandbox.is_running(), deadline=2)


def test_negative_timeout_is_zero(api, make):
    sandbox = make()
    assert api.post(f"/sandboxes/{sandbox.sandbox_id}/timeout", json={"timeout": -5}).status_code == 204
    eventually(lambda: not sandbox.is_running(), deadline=2)


def test_timeout_pauses_instead_of_killing(make):
    sandbox = make(timeout=2, lifecycle=PAUSES)
    sandbox.commands.run("echo kept > /tmp/file")
    eventually(lambda: sandbox.get_info().state == SandboxState.PAUSED, deadline=2 + LATE + 3)
    assert sandbox.is_running() is False
    assert sandbox.connect(timeout=60).files.read("/tmp/file") == "kept\n"


def test_sleeping_sandbox_that_may_not_wake_stays_asleep(make, ports):
    sandbox = make(lifecycle=PAUSES)
    sandbox.pause()
    answer = ports(sandbox, 8000)
    assert answer.status_code == 502
    assert answer.json()["message"] == "The sandbox was not found"
    assert sandbox.get_info().state == SandboxState.PAUSED


def test_pausing_is_kept_over_a_wake(make):
    sandbox = make(timeout=300, lifecycle=PAUSES)
    sandbox.set_timeout(0)
    eventually(lambda: sandbox.get_info().state == SandboxState.PAUSED)
    sandbox.connect(timeout=2)
    eventually(lambda: sandbox.get_info().state == SandboxState.PAUSED, deadline=2 + LATE + 3)


def test_wake_by_traffic_gets_five_minutes_at_least(make):
    sandbox = make(timeout=20, lifecycle=WAKES)
    sandbox.pause()
    sandbox.commands.run("true")
    assert 295 <= remaining(sandbox) <= 301


def test_wake_by_traffic_gets_the_time_that_was_given_at_creation(make):
    sandbox = make(timeout=420, lifecycle=WAKES)
    sandbox.set_timeout(600)
    sandbox.pause()
    sandbox.commands.run("true")
    assert 415 <= remaining(sandbox) <= 421


def test_it_sleeps_and_wakes_for_ever(make):
    sandbox = make(timeout=600, lifecycle=WAKES)
    for number in range(3):
        sandbox.set_timeout(0)
        eventually(lambda: sandbox.get_info().state == SandboxState.PAUSED)
        assert sandbox.commands.run(f"echo {number}").stdout == f"{number}\n"
        assert sandbox.get_info().state == SandboxState.RUNNING


def test_connect_never_shortens(make):
    sandbox = make(timeout=300)
    before = sandbox.get_info().end_at
    sandbox.connect(timeout=10)
    assert sandbox.get_info().end_at == before


def test_connect_extends(make):
    sandbox = make(timeout=30)
    sandbox.connect(timeout=200)
    assert 195 <= remaining(sandbox) <= 201


def test_connect_to_a_sleeping_sandbox_sets_its_time(make):
    sandbox = make(timeout=300)
    sandbox.pause()
    sandbox.connect(timeout=50)
    assert 45 <= remaining(sandbox) <= 51


def test_refreshes_only_extend(api, make):
    sandbox = make(timeout=100)
    path = f"/sandboxes/{sandbox.sandbox_id}/refreshes"
    assert api.post(path, json={"duration": 20}).status_code == 204
    assert 95 <= remaining(sandbox) <= 101
    assert api.post(path, json={"duration": 200}).status_code == 204
    assert 195 <= remaining(sandbox) <= 201


def test_defaults_of_both_versions(api):
    for path, seconds in (("/sandboxes", 15), ("/v2/sandboxes", 300)):
        created = api.post(path, json={"templateID": "base"}).json()
        info = api.get(f"/sandboxes/{created['sandboxID']}").json()
        end, start = (datetime.fromisoformat(info[name]) for name in ("endAt", "startedAt"))
        assert abs((end - start).total_seconds() - seconds) < 1.5
        assert api.delete(f"/sandboxes/{created['sandboxID']}").status_code == 204


@pytest.mark.parametrize("timeout", [0, -1, 24 * 3600 + 1, 2**31, 2**63])
def test_impossible_timeouts_are_refused(api, timeout):
    response = api.post("/v2/sandboxes", json={"templateID": "base", "timeout": timeout})
    assert response.status_code == 400
    assert response.json()["code"] == 400
    assert "imeout" in response.json()["message"]


def test_timeout_beyond_the_longest_run_is_cut(make, api):
    sandbox = make()
    response = api.post(f"/sandboxes/{sandbox.sandbox_id}/timeout", json={"timeout": 48 * 3600})
    assert response.status_code == 204
    info = api_sandbox(api, sandbox)
    end, start = (datetime.fromisoformat(info[name]) for name in ("endAt", "startedAt"))
    assert (end - start).total_seconds() <= 24 * 3600 + 1


def test_pause_starts_the_longest_run_anew(make):
    sandbox = make(lifecycle=WAKES)
    first = sandbox.get_info().started_at
    sandbox.pause()
    sandbox.commands.run("true")
    assert sandbox.get_info().started_at > first


def test_requests_do_not_extend_a_running_sandbox(make):
    sandbox = make(timeout=100)
    before = sandbox.get_info().end_at
    sandbox.commands.run("true")
    assert sandbox.get_info().end_at == before
