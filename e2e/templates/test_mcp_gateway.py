"""`mcp-gateway` through the official client and the protocol's own."""

import httpx
import pytest
from conftest import SANDBOX_URL, route

from e2b import AsyncSandbox, Sandbox, SandboxException


@pytest.fixture
def gateway():
    sandbox = Sandbox.create(timeout=600, mcp={"time": {}, "filesystem": {"paths": ["/home/user"]}})
    yield sandbox
    sandbox.kill()


def call(sandbox, token, method, **parameters):
    headers = {**route(sandbox, 50005), "Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    with httpx.Client(base_url=SANDBOX_URL, headers=headers, timeout=60) as client:
        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        opened = client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
        opened.raise_for_status()
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        client.post("/mcp", headers=session, json={"jsonrpc": "2.0", "method": "notifications/initialized"}).raise_for_status()
        answer = client.post("/mcp", headers=session, json={"jsonrpc": "2.0", "id": 2, "method": method, "params": parameters})
        answer.raise_for_status()
        return answer.text


def test_tools_of_all_servers_answer(gateway):
    token = gateway.get_mcp_token()
    tools = call(gateway, token, "tools/list")
    assert "get_current_time" in tools and "read_text_file" in tools
    gateway.files.write("/home/user/note.txt", "written outside")
    content = call(gateway, token, "tools/call", name="read_text_file", arguments={"path": "/home/user/note.txt"})
    assert "written outside" in content
    assert Sandbox.connect(gateway.sandbox_id).get_mcp_token() == token
    assert gateway.get_mcp_url().endswith("/mcp")


def test_without_the_token_nothing_is_told(gateway):
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        call(gateway, "another", "tools/list")


def test_an_unknown_server_is_named():
    with pytest.raises(SandboxException, match="no-such-server"):
        Sandbox.create(timeout=60, mcp={"no-such-server": {}})


async def test_the_asynchronous_client():
    sandbox = await AsyncSandbox.create(timeout=600, mcp={"sequentialthinking": {}})
    try:
        assert "sequentialthinking" in call(sandbox, await sandbox.get_mcp_token(), "tools/list")
    finally:
        await sandbox.kill()
