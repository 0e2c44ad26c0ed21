"""Keys, tokens, signed links."""

import base64
import hashlib
import time

import httpx
import pytest
from conftest import API_URL, SANDBOX_URL, WAKES, eventually, route, serve

from e2b import AuthenticationException, Sandbox


def test_api_needs_a_key():
    for headers in ({}, {"X-API-Key": "e2b_" + "0" * 40}, {"X-API-Key": ""}):
        answer = httpx.get(f"{API_URL}/v2/sandboxes", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["code"] == 401
    with pytest.raises(AuthenticationException):
        Sandbox.create(api_key="e2b_" + "f" * 40)


def test_health_needs_none():
    assert httpx.get(f"{API_URL}/health").status_code in (200, 204)


def test_agent_needs_the_sandbox_s_token(sandbox, ports):
    without = ports(sandbox, 49983, "POST", "/process.Process/List", json={})
    wrong = ports(sandbox, 49983, "POST", "/process.Process/List", json={}, headers={"X-Access-Token": "wrong"})
    right = {"X-Access-Token": sandbox._envd_access_token}
    assert without.status_code == wrong.status_code == 401
    assert ports(sandbox, 49983, "POST", "/process.Process/List", json={}, headers=right).status_code == 200


def test_token_of_one_sandbox_opens_no_other(make, ports):
    one, two = make(), make()
    headers = {"X-Access-Token": one._envd_access_token}
    assert ports(two, 49983, "POST", "/process.Process/List", json={}, headers=headers).status_code == 401


def signature(sandbox, path, operation, user="", expiration=None):
    parts = [path, operation, user, sandbox._envd_access_token] + ([str(expiration)] if expiration else [])
    digest = hashlib.sha256(":".join(parts).encode()).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def test_signed_download(sandbox, ports):
    sandbox.files.write("hello.txt", "signed")
    query = {"path": "hello.txt", "username": "user", "signature": signature(sandbox, "hello.txt", "read", "user")}
    assert ports(sandbox, 49983, path="/files", params=query).text == "signed"
    link = httpx.URL(sandbox.download_url("hello.txt", user="user"))
    assert link.params["signature"] == query["signature"]


def test_links_of_the_client_are_signed_as_the_server_expects(sandbox, ports):
    sandbox.files.write("hello.txt", "signed")
    link = httpx.URL(sandbox.download_url("hello.txt", use_signature_expiration=60))
    assert ports(sandbox, 49983, path=link.raw_path.decode()).text == "signed"


def test_signed_upload(sandbox, ports):
    link = httpx.URL(sandbox.upload_url("up.txt"))
    answer = ports(sandbox, 49983, "POST", link.raw_path.decode(), files={"file": ("up.txt", b"uploaded")})
    assert answer.status_code == 200
    assert answer.json() == [{"name": "up.txt", "path": "/home/user/up.txt", "type": "file"}]
    assert sandbox.files.read("up.txt") == "uploaded"


def test_signatures_that_do_not_hold(sandbox, ports):
    sandbox.files.write("hello.txt", "signed")
    expired = int(time.time()) - 10
    cases = [
        ({}, "missing signature query parameter"),
        ({"signature": "v1_wrong"}, "invalid signature"),
        ({"signature": signature(sandbox, "other.txt", "read")}, "invalid signature"),
        ({"signature": signature(sandbox, "hello.txt", "write")}, "invalid signature"),
        ({"signature": signature(sandbox, "hello.txt", "read"), "username": "root"}, "invalid signature"),
        (
            {"signature": signature(sandbox, "hello.txt", "read", expiration=expired), "signature_expiration": expired},
            "signature is already expired",
        ),
    ]
    for query, message in cases:
        answer = ports(sandbox, 49983, path="/files", params={"path": "hello.txt", **query})
        assert (answer.status_code, answer.json()) == (401, {"code": 401, "message": message})


def test_private_traffic_needs_its_token(make, ports):
    sandbox = make(network={"allow_public_traffic": False})
    assert sandbox.traffic_access_token
    # The agent's port is exempt: it has a token of its own.
    sandbox.files.write("/home/user/x", "y")
    missing = ports(sandbox, 8000)
    wrong = ports(sandbox, 8000, headers={"e2b-traffic-access-token": "wrong"})
    assert missing.status_code == wrong.status_code == 403
    assert missing.json()["message"] == (
        "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing"
    )
    assert wrong.json()["message"] == (
        "Sandbox is secured with traffic access token. Provided token in header 'e2b-traffic-access-token' is invalid"
    )
    authorized = {"e2b-traffic-access-token": sandbox.traffic_access_token}
    sandbox.files.write("/home/user/server.py", "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000)")
    sandbox.commands.run("python3 server.py", background=True)
    eventually(lambda: ports(sandbox, 8000, headers=authorized).status_code == 200)


def test_public_sandbox_has_no_traffic_token(sandbox):
    assert sandbox.traffic_access_token is None


def test_sleeping_sandbox_wakes_only_for_those_who_may(make, ports):
    sandbox = make(lifecycle=WAKES, network={"allow_public_traffic": False})
    sandbox.pause()
    refused = ports(sandbox, 8000)
    agent = ports(sandbox, 49983, "POST", "/process.Process/List", json={})
    assert refused.status_code == agent.status_code == 403
    assert "can't be resumed with the credentials provided" in agent.json()["message"]
    assert sandbox.get_info().state.value == "paused"
    sandbox.commands.run("true")
    assert sandbox.get_info().state.value == "running"


def test_masked_host(make, ports):
    sandbox = make(network={"mask_request_host": "custom-host.example.com:${PORT}"})
    serve(sandbox, ports, port=8080)
    told = ports(sandbox, 8080).json()["headers"]
    assert told["host"] == "custom-host.example.com:8080"
    assert "x-forwarded-host" in told


def test_token_survives_a_sleep(make):
    sandbox = make(network={"allow_public_traffic": False})
    token, agent_token = sandbox.traffic_access_token, sandbox._envd_access_token
    sandbox.pause()
    same = Sandbox.connect(sandbox.sandbox_id)
    assert (same.traffic_access_token, same._envd_access_token) == (token, agent_token)


def test_browsers_may_call_the_api():
    answer = httpx.options(
        f"{API_URL}/v2/sandboxes",
        headers={
            "Origin": "https://app.example.com",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key,content-type",
        },
    )
    assert answer.status_code in (200, 204)
    assert answer.headers["Access-Control-Allow-Origin"] in ("*", "https://app.example.com")


def test_route_headers_do_not_open_the_api(sandbox):
    answer = httpx.get(f"{SANDBOX_URL}/v2/sandboxes", headers=route(sandbox, 8000))
    assert answer.status_code == 502
