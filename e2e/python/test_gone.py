"""What a client learns whose sandbox is killed or paused while a call is open (contract 4.5)."""

import asyncio
import json
import struct
import threading

import httpx
import pytest
from conftest import API_KEY, API_URL, PAUSES, SANDBOX_URL

from e2b import SandboxException

KILLED = "sandbox was killed or reached its end of life"


def envelopes(stream):
    """The messages of a Connect stream as they come: flags and payload."""
    data = b""
    for chunk in stream:
        data += chunk
        while len(data) >= 5:
            flags, length = struct.unpack(">BI", data[:5])
            if len(data) < 5 + length:
                break
            yield flags, data[5 : 5 + length]
            data = data[5 + length :]
    assert data == b"", "the stream was cut in the middle of a message"


def start(sandbox, encoding):
    """The headers and the body of a call that starts `sleep` and streams what becomes of it."""
    # `StartRequest{process: ProcessConfig{cmd: "sleep", args: ["1000"]}}`
    message = {
        "json": json.dumps({"process": {"cmd": "sleep", "args": ["1000"]}}).encode(),
        "proto": b"\x0a\x0d\x0a\x05sleep\x12\x041000",
    }[encoding]
    headers = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": sandbox._envd_access_token,
        "Content-Type": f"application/connect+{encoding}",
        "Connect-Protocol-Version": "1",
    }
    return headers, struct.pack(">BI", 0, len(message)) + message


@pytest.mark.parametrize("encoding", ["json", "proto"])
@pytest.mark.parametrize("end", ["kill", "pause"])
def test_open_stream_ends_with_a_message_that_names_the_sandbox(make, encoding, end):
    sandbox = make(lifecycle=PAUSES)
    headers, body = start(sandbox, encoding)
    with httpx.stream("POST", f"{SANDBOX_URL}/process.Process/Start", headers=headers, content=body, timeout=60) as answer:
        assert answer.status_code == 200
        messages = envelopes(answer.iter_raw())
        assert next(messages)[0] == 0
        getattr(sandbox, end)()
        flags, payload = list(messages)[-1]
    assert flags == 2
    error = json.loads(payload)["error"]
    assert error["code"] == "unavailable"
    assert sandbox.sandbox_id in error["message"]
    assert (KILLED if end == "kill" else "paused") in error["message"]


@pytest.mark.parametrize("path", ["/process.Process/List", "/filesystem.Filesystem/Stat", "/files", "/health"])
def test_calls_after_a_kill_are_502(make, path):
    sandbox = make()
    sandbox.kill()
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983", "Content-Type": "application/json"}
    answer = httpx.post(f"{SANDBOX_URL}{path}", headers=headers, content=b"{}", timeout=60)
    assert answer.status_code == 502
    expected = {"code": 502, "message": "The sandbox was not found", "sandboxId": sandbox.sandbox_id}
    assert answer.json() == expected


def test_command_of_a_killed_sandbox_says_so(make):
    sandbox = make()
    command = sandbox.commands.run("sleep 1000", background=True)
    sandbox.kill()
    with pytest.raises(SandboxException, match=KILLED):
        command.wait()


def test_command_in_the_foreground_says_so(make):
    sandbox = make()
    raised = []

    def run():
        try:
            sandbox.commands.run("touch /tmp/runs; sleep 1000")
        except SandboxException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not sandbox.files.exists("/tmp/runs"):
        pass
    sandbox.kill()
    thread.join(30)
    assert len(raised) == 1 and KILLED in str(raised[0])


async def test_command_of_a_killed_sandbox_says_so_to_the_asynchronous_client(amake):
    sandbox = await amake()
    command = await sandbox.commands.run("sleep 1000", background=True)
    waiting = asyncio.create_task(command.wait())
    await sandbox.kill()
    with pytest.raises(SandboxException, match=KILLED):
        await waiting


async def test_watch_of_a_killed_sandbox_is_told_to_the_asynchronous_client(amake):
    sandbox = await amake()
    told = asyncio.get_running_loop().create_future()
    await sandbox.files.watch_dir("/tmp", on_event=lambda event: None, on_exit=told.set_result)
    await sandbox.kill()
    assert sandbox.sandbox_id in str(await asyncio.wait_for(told, 30))


ORIGIN = {"Origin": "https://app.example.com"}


def preflight(url, headers):
    """What a browser asks before a call across origins."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,keepalive-ping-interval,x-api-key"}
    return httpx.options(url, headers={**ORIGIN, **asked, **headers}, timeout=60)


def assert_allows_everything(answer):
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "*"
    allowed = {name.strip() for name in answer.headers["access-control-allow-headers"].lower().split(",")}
    assert allowed >= {"content-type", "keepalive-ping-interval", "x-api-key"}
    methods = {name.strip() for name in answer.headers["access-control-allow-methods"].split(",")}
    assert methods >= {"GET", "POST", "PUT", "PATCH", "DELETE"}


def test_any_page_may_call_the_api():
    assert_allows_everything(preflight(f"{API_URL}/v2/sandboxes", {}))
    answer = httpx.get(f"{API_URL}/v2/sandboxes", headers={**ORIGIN, "X-API-Key": API_KEY}, timeout=60)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    exposed = answer.headers["access-control-expose-headers"].lower()
    for name in ["x-next-token", "x-total-running", "retry-after", "ratelimit-remaining"]:
        assert name in exposed
    # A page must be able to read why it is refused.
    refused = httpx.get(f"{API_URL}/v2/sandboxes", headers=ORIGIN, timeout=60)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "*")


def test_any_page_may_call_the_agent_of_a_sandbox_that_runs_sleeps_or_is_gone(make):
    sandbox = make(lifecycle=PAUSES)
    routing = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    url = f"{SANDBOX_URL}/process.Process/List"
    call = {**ORIGIN, **routing, "Content-Type": "application/json", "X-Access-Token": sandbox._envd_access_token}
    assert_allows_everything(preflight(url, routing))
    answer = httpx.post(url, headers=call, content=b"{}", timeout=60)
    assert (answer.status_code, answer.headers.get_list("access-control-allow-origin")) == (200, ["*"])
    sandbox.pause()
    assert_allows_everything(preflight(url, routing))
    answer = httpx.post(url, headers=call, content=b"{}", timeout=60)
    assert (answer.status_code, answer.headers.get_list("access-control-allow-origin")) == (502, ["*"])
    sandbox.kill()
    assert_allows_everything(preflight(url, routing))


def test_ports_of_users_decide_about_pages_themselves(make):
    sandbox = make()
    sandbox.commands.run("python3 -m http.server 8000", background=True)
    routing = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"}
    answer = httpx.get(SANDBOX_URL, headers={**ORIGIN, **routing}, timeout=60)
    while answer.status_code == 502:
        answer = httpx.get(SANDBOX_URL, headers={**ORIGIN, **routing}, timeout=60)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    # Python's server knows no such method: the question reached it.
    assert preflight(SANDBOX_URL, routing).status_code == 501
