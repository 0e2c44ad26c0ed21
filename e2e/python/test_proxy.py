"""Requests to programs inside sandboxes."""

import hashlib
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
import websockets.sync.client
from conftest import SANDBOX_URL, WAKES, eventually, route, serve

BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0", "Accept": "text/html,*/*"}
NOBODY = "i00000000000000000000"


@pytest.fixture
def served(make, ports):
    sandbox = make()
    serve(sandbox, ports)
    return sandbox


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_any_method_arrives_as_sent(served, ports, method):
    body = b"" if method in ("GET", "OPTIONS") else b"some body"
    answer = ports(served, 8000, method, "/a/b%20c?x=1&y=%C3%BC", content=body, headers={"X-Custom": "value"}).json()
    assert answer["method"] == method
    assert answer["path"] == "/a/b%20c?x=1&y=%C3%BC"
    assert answer["headers"]["x-custom"] == "value"
    assert answer["length"] == len(body)


def test_head_has_no_body(served, ports):
    answer = ports(served, 8000, "HEAD", "/status/200")
    assert answer.status_code == 200 and answer.content == b"" and answer.headers["Content-Length"] == "1"


@pytest.mark.parametrize("status", [201, 301, 404, 418, 500, 503])
def test_any_status_comes_back(served, ports, status):
    answer = ports(served, 8000, path=f"/status/{status}")
    assert answer.status_code == status
    assert answer.headers["X-From-Inside"] == "yes"


def test_large_bodies_both_ways(served, ports):
    body = bytes(1 << 20) * 8
    assert ports(served, 8000, "POST", content=body).json()["sha256"] == hashlib.sha256(body).hexdigest()
    assert len(ports(served, 8000, path="/big").content) == 16 << 20


def test_chunked_upload(served, ports):
    answer = ports(served, 8000, "POST", content=(bytes([n]) * 1000 for n in range(100)))
    assert answer.json()["length"] == 100_000


def test_server_on_loopback_is_reachable(make, ports):
    sandbox = make()
    serve(sandbox, ports, host="127.0.0.1", port=8001)
    assert ports(sandbox, 8001).json()["method"] == "GET"


def test_events_stream_one_by_one(served, ports):
    with httpx.stream("GET", f"{SANDBOX_URL}/sse", headers=route(served, 8000), timeout=20) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        numbers = []
        for line in stream.iter_lines():
            if line.startswith("data: "):
                # The server sends the next event only after this request: nothing may be held back on the way.
                numbers.append(int(line[6:]))
                ports(served, 8000, path="/sse?ack")
    assert numbers == [0, 1, 2]


def connect_websocket(sandbox, **options):
    url = SANDBOX_URL.replace("http", "ws", 1) + "/ws"
    return websockets.sync.client.connect(url, additional_headers=route(sandbox, 8000), compression=None, **options)


def test_websocket(served):
    with connect_websocket(served) as socket:
        socket.send("text ü")
        assert socket.recv() == "text ü"
        socket.send(bytes(range(256)) * 20)
        assert socket.recv() == bytes(range(256)) * 20


def test_websocket_wakes_a_sandbox(make, ports):
    sandbox = make(lifecycle=WAKES)
    serve(sandbox, ports)
    sandbox.pause()
    with connect_websocket(sandbox) as socket:
        socket.send("hello")
        assert socket.recv() == "hello"


def raw(request):
    """Sends bytes and returns all that comes back."""
    address = urlsplit(SANDBOX_URL)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


@pytest.mark.parametrize("domain", ["localhost", "sandboxes.example.com", "example.com:8443"])
def test_host_name_leads_to_the_port(served, domain):
    host = f"8000-{served.sandbox_id}.{domain}"
    answer = raw(f"GET /via-host HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200")
    told = json.loads(re.search(rb"\{.*\}", body, re.S)[0])
    assert told["path"] == "/via-host"
    assert told["headers"]["host"] == host


def test_http_2_without_tls(served):
    with httpx.Client(http1=False, http2=True) as client:
        answer = client.get(SANDBOX_URL, headers=route(served, 8000))
    assert answer.http_version == "HTTP/2" and answer.status_code == 200


def test_many_requests_at_once(served, ports):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: ports(served, 8000, path=f"/{n}").json()["path"], range(200)))
    assert answers == [f"/{n}" for n in range(200)]


def test_nobody_listens(sandbox, ports):
    answer = ports(sandbox, 8123)
    assert answer.status_code == 502
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.json() == {
        "sandboxId": sandbox.sandbox_id,
        "message": "The sandbox is running but port is not open",
        "port": 8123,
        "code": 502,
    }


def test_nobody_listens_for_a_browser(sandbox, ports):
    answer = ports(sandbox, 8123, headers=BROWSER)
    assert answer.status_code == 502
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    page = answer.text.strip().lower()
    assert page.startswith("<") and "<html" in page and page.endswith("</html>")
    assert "no service running on port" in answer.text and "8123" in answer.text and sandbox.sandbox_id in answer.text


def test_unknown_sandbox(ports):
    answer = ports(NOBODY, 8000)
    assert answer.status_code == 502
    assert answer.json() == {"sandboxId": NOBODY, "message": "The sandbox was not found", "code": 502}
    page = ports(NOBODY, 8000, headers=BROWSER)
    assert page.status_code == 502 and "Sandbox Not Found" in page.text and NOBODY in page.text


def test_killed_sandbox_is_502_at_once(make, ports):
    sandbox = make()
    serve(sandbox, ports)
    sandbox.kill()
    assert ports(sandbox, 8000).json()["message"] == "The sandbox was not found"
    assert ports(sandbox, 49983, path="/health").status_code == 502


def test_health_knows_the_state(make, ports):
    sandbox = make()
    assert ports(sandbox, 49983, path="/health").status_code == 204
    sandbox.pause()
    assert ports(sandbox, 49983, path="/health").status_code == 502


@pytest.mark.parametrize("path", ["/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade"])
def test_control_paths_of_the_agent_are_closed(sandbox, ports, path):
    for method in ("GET", "POST"):
        answer = ports(sandbox, 49983, method, path)
        assert answer.status_code == 404
        assert "reserved for the E2B control plane" in answer.json()["message"]
        assert answer.json()["path"] == path


@pytest.mark.parametrize("path", ["//init", "/./init", "/x/../init", "/%69nit", "/init/"])
def test_control_paths_are_closed_however_they_are_written(sandbox, path):
    request = f"POST {path} HTTP/1.1\r\nHost: 49983-{sandbox.sandbox_id}.localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
    status = int(raw(request.encode()).split(b" ", 2)[1])
    assert status in (400, 401, 404)


@pytest.mark.parametrize("missing", ["E2b-Sandbox-Id", "E2b-Sandbox-Port"])
def test_one_header_without_the_other(sandbox, missing):
    headers = route(sandbox, 8000)
    del headers[missing]
    answer = httpx.get(SANDBOX_URL, headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize("port", ["0", "-1", "65536", "abc", ""])
def test_impossible_ports(sandbox, port):
    answer = httpx.get(SANDBOX_URL, headers=route(sandbox, port))
    assert answer.status_code == 400


@pytest.mark.parametrize("bad_id", ["../etc", "a.b", "A" * 20, "i" * 300, "x%2Fy"])
def test_impossible_ids(bad_id):
    answer = httpx.get(SANDBOX_URL, headers={"E2b-Sandbox-Id": bad_id, "E2b-Sandbox-Port": "8000"})
    assert answer.status_code in (400, 502)


def test_client_that_leaves_early_harms_nobody(served, ports):
    for _ in range(5):
        with httpx.stream("GET", f"{SANDBOX_URL}/big", headers=route(served, 8000)):
            pass
    assert ports(served, 8000).status_code == 200


def test_server_that_dies_mid_request(served, ports):
    served.commands.run("pkill -f server.py")
    eventually(lambda: ports(served, 8000).status_code == 502)
