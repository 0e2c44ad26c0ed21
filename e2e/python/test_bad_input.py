"""Nonsense gets a clear answer and changes nothing."""

import errno
import json
import socket
from urllib.parse import urlsplit

import pytest
from conftest import API_KEY, API_URL, api_sandbox


def assert_refused(response, *statuses):
    assert response.status_code in (statuses or (400,))
    body = response.json()
    assert body["code"] == response.status_code
    assert isinstance(body["message"], str) and body["message"]


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "null", '"text"', '{"templateID"', '{"templateID":1}', '{"templateID":"base","timeout":"x"}',
     '{"templateID":"base","timeout":1.5}', '{"templateID":"base","metadata":[]}', '{"templateID":"base","metadata":{"a":1}}',
     '{"templateID":"base","envVars":{"a":{}}}', '{"timeout":60}', '{"templateID":""}', "\u0000", '{"templateID":"base"}}'],
)
@pytest.mark.parametrize("path", ["/sandboxes", "/v2/sandboxes"])
def test_malformed_creations(api, path, body):
    assert_refused(api.post(path, content=body.encode(), headers={"Content-Type": "application/json"}), 400, 404)


def test_the_message_names_the_field(api):
    response = api.post("/v2/sandboxes", json={"templateID": "base", "timeout": "soon"})
    assert "timeout" in response.json()["message"]


def test_unknown_template(api):
    for template in ("no-such-template", "base:no-such-tag", "other/base"):
        assert_refused(api.post("/v2/sandboxes", json={"templateID": template}), 403, 404)
    assert api.post("/v2/sandboxes", json={"templateID": "nope"}).json()["message"] == "template 'nope' not found"


def test_template_names_that_try_something(api):
    for template in ("../base", "base/../../x", "base\u0000", "a" * 5000, "base:" + "t" * 5000, "$(id)", " "):
        assert_refused(api.post("/v2/sandboxes", json={"templateID": template}), 400, 403, 404)


def test_template_name_is_trimmed_and_lowered(make):
    assert make(" BASE ").commands.run("echo x").stdout == "x\n"
    assert make("base:default").commands.run("echo x").stdout == "x\n"
    assert make("default/base").commands.run("echo x").stdout == "x\n"


def test_unknown_fields_are_ignored(api):
    created = api.post("/v2/sandboxes", json={"templateID": "base", "someday": {"maybe": [1]}, "timeout": 60})
    assert created.status_code == 201
    sandbox_id = created.json()["sandboxID"]
    assert api.post(f"/sandboxes/{sandbox_id}/timeout", json={"timeout": 50, "extra": 1}).status_code == 204
    assert api.post(f"/sandboxes/{sandbox_id}/pause", json={"extra": 1}).status_code == 204
    assert api.delete(f"/sandboxes/{sandbox_id}").status_code == 204


@pytest.mark.parametrize("sandbox_id", ["..", "a.b", "A", "x y", "%00", "a-b-c", "a" * 300, "ü", "%2e%2e%2f", "a%2Fb"])
@pytest.mark.parametrize("suffix", ["", "/pause", "/connect"])
def test_impossible_ids(api, sandbox_id, suffix):
    response = api.post(f"/sandboxes/{sandbox_id}{suffix}", json={"timeout": 60}) if suffix else api.get(f"/sandboxes/{sandbox_id}")
    assert response.status_code in (400, 404, 405)
    assert response.json()["code"] == response.status_code


@pytest.mark.parametrize("body", ["{", "[]", '{"timeout":"x"}', '{"timeout":null}', "{}", ""])
def test_malformed_timeouts_change_nothing(api, sandbox, body):
    before = api_sandbox(api, sandbox)["endAt"]
    response = api.post(
        f"/sandboxes/{sandbox.sandbox_id}/timeout", content=body.encode(), headers={"Content-Type": "application/json"}
    )
    assert_refused(response)
    assert api_sandbox(api, sandbox)["endAt"] == before


def test_huge_timeouts(api, sandbox):
    for timeout in (2**31 - 1, 2**31, 2**63 - 1, 2**64, 10**30):
        response = api.post(f"/sandboxes/{sandbox.sandbox_id}/timeout", json={"timeout": timeout})
        assert response.status_code in (204, 400)
    assert sandbox.is_running()


def test_bodies_may_be_missing_where_nothing_is_required(api, make):
    sandbox = make()
    assert api.post(f"/v2/sandboxes/{sandbox.sandbox_id}/connect").status_code == 200
    assert api.post(f"/sandboxes/{sandbox.sandbox_id}/pause").status_code == 204
    assert api.post(f"/v2/sandboxes/{sandbox.sandbox_id}/connect").status_code == 201


def test_oversized_body(api):
    response = api.post("/v2/sandboxes", json={"templateID": "base", "metadata": {"x": "y" * (32 << 20)}})
    assert_refused(response, 400, 413)


def raw(request):
    """What the server answers to these bytes; it may hang up at any moment, and the client's system says so in several ways."""
    address = urlsplit(API_URL)
    received = b""
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except TimeoutError:
            raise
        except OSError as hung_up:
            assert hung_up.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN), hung_up
    return received


def test_truncated_bodies_make_no_sandbox(api):
    before = len(api.get("/v2/sandboxes", params={"metadata": "cut=off"}).json())
    body = json.dumps({"templateID": "base", "metadata": {"cut": "off"}})
    head = f"POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: {API_KEY}\r\nContent-Type: application/json\r\n"
    raw(f"{head}Content-Length: {len(body)}\r\n\r\n{body[:-5]}".encode())
    raw(f"{head}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n{body[:-5]}".encode())
    assert len(api.get("/v2/sandboxes", params={"metadata": "cut=off"}).json()) == before


def test_garbage_on_the_wire_does_not_stop_the_server(api):
    for garbage in (b"\x00" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 50):
        raw(garbage)
    assert api.get("/health").status_code in (200, 204)


def test_unknown_paths_and_methods(api):
    assert_refused(api.get("/no/such/path"), 404)
    assert_refused(api.put("/v2/sandboxes", json={}), 404, 405)


def test_combinations_that_make_no_sense(api):
    base = {"templateID": "base"}
    for extra in (
        {"autoPauseMemory": False},
        {"autoPause": True, "autoPauseMemory": False, "autoResume": {"enabled": True}},
        {"network": {"maskRequestHost": "bad host\r\n"}},
        {"autoResume": {"enabled": "yes"}},
    ):
        assert_refused(api.post("/v2/sandboxes", json={**base, **extra}))
    assert_refused(api.post("/sandboxes", json={**base, "secure": False, "network": {"allowPublicTraffic": False}}))


def test_chunked_bodies_are_read(api):
    body = json.dumps({"templateID": "base", "timeout": 60}).encode()
    created = api.post("/v2/sandboxes", content=iter([body[:5], body[5:]]), headers={"Content-Type": "application/json"})
    assert created.status_code == 201
    assert api.delete(f"/sandboxes/{created.json()['sandboxID']}").status_code == 204
