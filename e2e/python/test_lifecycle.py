"""Create, info, kill, pause and wake: every row of the state table, alone and at once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import pytest
from conftest import PAUSES, WAKES, api_sandbox, eventually

from e2b import Sandbox, SandboxNotFoundException, SandboxQuery, SandboxState

UNKNOWN = "i00000000000000000000"


def at_once(count, call):
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: call(), range(count)))


def statuses(responses):
    return sorted(response.status_code for response in responses)


def assert_not_found(response, sandbox_id):
    assert response.status_code == 404
    assert response.json() == {
        "code": 404,
        "message": f'Sandbox "{sandbox_id}" doesn\'t exist or you don\'t have access to it',
    }


def test_new_sandbox_runs_and_says_what_it_is(make):
    sandbox = make(timeout=120, metadata={"purpose": "test"})
    info = sandbox.get_info()
    assert info.sandbox_id == sandbox.sandbox_id
    assert info.state == SandboxState.RUNNING
    assert info.name == "base"
    assert info.metadata == {"purpose": "test"}
    assert info.lifecycle == {"on_timeout": "kill", "auto_resume": False}
    assert 115 <= (info.end_at - info.started_at).total_seconds() <= 121
    assert info.cpu_count >= 1 and info.memory_mb >= 128
    assert sandbox.is_running()


def test_sandbox_id_is_dns_safe(sandbox):
    assert sandbox.sandbox_id.isalnum() and sandbox.sandbox_id == sandbox.sandbox_id.lower()
    assert len(sandbox.sandbox_id) == 21 and sandbox.sandbox_id.startswith("i")


def test_create_v1_answers_with_every_required_field(api):
    response = api.post("/sandboxes", json={"templateID": "base", "secure": True, "allow_internet_access": True})
    assert response.status_code == 201
    body = response.json()
    try:
        assert {"templateID", "sandboxID", "clientID", "envdVersion"} <= body.keys()
        assert body["clientID"] == "6532622b"
        assert body["envdAccessToken"]
        assert not body.get("domain") and not body.get("trafficAccessToken")
    finally:
        assert api.delete(f"/sandboxes/{body['sandboxID']}").status_code == 204


def test_client_id_suffix_is_accepted(api, sandbox):
    assert api.get(f"/sandboxes/{sandbox.sandbox_id}-6532622b").status_code == 200


def test_killed_sandbox_is_gone_at_once(make):
    sandbox = make()
    assert sandbox.kill() is True
    assert sandbox.is_running() is False
    assert sandbox.kill() is False
    assert sandbox.sandbox_id not in [item.sandbox_id for item in Sandbox.list().next_items()]
    with pytest.raises(SandboxNotFoundException):
        sandbox.get_info()
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect(sandbox.sandbox_id)


def test_everything_about_an_unknown_sandbox_is_404(api):
    path = f"/sandboxes/{UNKNOWN}"
    assert_not_found(api.get(path), UNKNOWN)
    assert_not_found(api.delete(path), UNKNOWN)
    assert_not_found(api.post(f"{path}/pause", json={}), UNKNOWN)
    assert_not_found(api.post(f"{path}/resume", json={"timeout": 60}), UNKNOWN)
    assert_not_found(api.post(f"{path}/connect", json={"timeout": 60}), UNKNOWN)
    assert_not_found(api.post(f"/v2{path}/connect", json={"timeout": 60}), UNKNOWN)
    assert_not_found(api.post(f"{path}/timeout", json={"timeout": 60}), UNKNOWN)
    assert_not_found(api.post(f"{path}/refreshes", json={"duration": 60}), UNKNOWN)


def test_pause_and_connect(make):
    sandbox = make(timeout=300)
    assert sandbox.pause() is True
    assert sandbox.pause() is False
    assert sandbox.is_running() is False
    info = sandbox.get_info()
    assert info.state == SandboxState.PAUSED
    assert info.end_at <= datetime.now(timezone.utc)

    same = Sandbox.connect(sandbox.sandbox_id, timeout=100)

    assert same.get_info().state == SandboxState.RUNNING
    assert same.is_running()
    assert sandbox.commands.run("echo awake").stdout == "awake\n"


def test_connect_tells_a_wake_from_a_running_sandbox(api, make):
    sandbox = make()
    url = f"/v2/sandboxes/{sandbox.sandbox_id}/connect"
    assert api.post(url).status_code == 200
    assert api.post(f"/sandboxes/{sandbox.sandbox_id}/connect", json={"timeout": 60}).status_code == 200
    sandbox.pause()
    woken = api.post(url, json={"timeout": 60})
    assert woken.status_code == 201
    assert woken.json()["sandboxID"] == sandbox.sandbox_id
    assert woken.json()["envdAccessToken"] == sandbox._envd_access_token


def test_paused_sandbox_refuses_what_needs_a_running_one(api, make):
    sandbox = make()
    path = f"/sandboxes/{sandbox.sandbox_id}"
    sandbox.pause()
    again = api.post(f"{path}/pause", json={})
    assert again.status_code == 409
    assert again.json()["code"] == 409
    assert "is already paused" in again.json()["message"]
    assert_not_found(api.post(f"{path}/timeout", json={"timeout": 60}), sandbox.sandbox_id)
    assert_not_found(api.post(f"{path}/refreshes", json={"duration": 60}), sandbox.sandbox_id)


def test_resume_of_a_running_sandbox_is_a_conflict(api, make):
    sandbox = make()
    path = f"/sandboxes/{sandbox.sandbox_id}/resume"
    running = api.post(path, json={"timeout": 60})
    assert running.status_code == 409
    assert running.json()["message"] == f"Sandbox {sandbox.sandbox_id} is already running"
    sandbox.pause()
    assert api.post(path, json={"timeout": 60}).status_code == 201


def test_killing_a_paused_sandbox_forgets_it(api, make):
    sandbox = make()
    sandbox.pause()
    assert sandbox.kill() is True
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect(sandbox.sandbox_id)


def test_kill_right_after_a_pause_began(api, make):
    sandbox = make()
    path = f"/sandboxes/{sandbox.sandbox_id}"
    with ThreadPoolExecutor(1) as pool:
        pause = pool.submit(api.post, f"{path}/pause", json={})
        assert api.delete(path).status_code == 204
        assert pause.result().status_code in (204, 404, 409)
    assert_not_found(api.get(path), sandbox.sandbox_id)


def test_of_five_pauses_at_once_exactly_one_wins(api, make):
    sandbox = make()
    path = f"/sandboxes/{sandbox.sandbox_id}/pause"
    assert statuses(at_once(5, lambda: api.post(path, json={}))) == [204, 409, 409, 409, 409]
    assert api_sandbox(api, sandbox)["state"] == "paused"


def test_five_connects_at_once_all_succeed_and_one_woke_it(api, make):
    sandbox = make()
    sandbox.pause()
    path = f"/v2/sandboxes/{sandbox.sandbox_id}/connect"
    found = statuses(at_once(5, lambda: api.post(path, json={"timeout": 60})))
    assert set(found) <= {200, 201} and 201 in found
    assert sandbox.commands.run("echo once").stdout == "once\n"


def test_five_resumes_at_once_wake_it_once(api, make):
    sandbox = make()
    sandbox.pause()
    path = f"/sandboxes/{sandbox.sandbox_id}/resume"
    found = statuses(at_once(5, lambda: api.post(path, json={"timeout": 60})))
    assert set(found) <= {201, 409} and 201 in found
    assert sandbox.is_running()


def test_connect_during_a_pause_waits_and_wakes(api, make):
    sandbox = make()
    with ThreadPoolExecutor(1) as pool:
        pause = pool.submit(api.post, f"/sandboxes/{sandbox.sandbox_id}/pause", json={})
        connected = api.post(f"/v2/sandboxes/{sandbox.sandbox_id}/connect", json={"timeout": 60})
        assert pause.result().status_code == 204
    assert connected.status_code in (200, 201)
    # Whichever came first, a second connect finds or makes it running.
    assert api.post(f"/v2/sandboxes/{sandbox.sandbox_id}/connect", json={"timeout": 60}).status_code in (200, 201)
    assert sandbox.is_running()


def test_traffic_during_a_pause_is_answered_after_the_wake(make, api):
    sandbox = make(lifecycle=WAKES)
    sandbox.files.write("/tmp/x", "kept")
    with ThreadPoolExecutor(1) as pool:
        pause = pool.submit(api.post, f"/sandboxes/{sandbox.sandbox_id}/pause", json={})
        assert sandbox.files.read("/tmp/x") == "kept"
        assert pause.result().status_code == 204
    assert sandbox.files.read("/tmp/x") == "kept"


def test_ten_sandboxes_at_once(make):
    with ThreadPoolExecutor(5) as pool:
        sandboxes = list(pool.map(lambda number: make(metadata={"number": str(number)}), range(10)))
        outputs = list(pool.map(lambda s: s.commands.run("hostname; id -un").stdout.split()[1], sandboxes))
    assert outputs == ["user"] * 10
    assert len({sandbox.sandbox_id for sandbox in sandboxes}) == 10


def test_pausing_setting_is_told(make):
    assert make(lifecycle=PAUSES).get_info().lifecycle == {"on_timeout": "pause", "auto_resume": False}
    assert make(lifecycle=WAKES).get_info().lifecycle == {"on_timeout": "pause", "auto_resume": True}


def test_command_that_runs_while_its_sandbox_is_killed_says_so(make):
    sandbox = make()
    command = sandbox.commands.run("sleep 1000", background=True)
    sandbox.kill()
    with pytest.raises(Exception, match="killed or reached its end of life|not found|was not found"):
        command.wait()


def test_many_pauses_in_a_row_lose_nothing(make):
    sandbox = make(lifecycle=WAKES)
    for number in range(5):
        sandbox.commands.run(f"echo {number} >> /home/user/log")
        assert sandbox.pause() is True
    assert sandbox.files.read("/home/user/log").split() == ["0", "1", "2", "3", "4"]


def test_paused_sandboxes_are_listed_as_such(make):
    sandbox = make(metadata={"listed": "paused"})
    sandbox.pause()
    query = SandboxQuery(metadata={"listed": "paused"}, state=[SandboxState.PAUSED])
    eventually(lambda: sandbox.sandbox_id in [item.sandbox_id for item in Sandbox.list(query).next_items()])
