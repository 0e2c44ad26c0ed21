"""The official Python clients, curl and plain sockets over HTTPS."""

import json
import socket
import ssl
import urllib.request

import httpx
import pytest
import websockets.sync.client
from conftest import ADDRESS, API_KEY, BUNDLE, DOMAIN, curl

from e2b import AsyncSandbox, Sandbox


def test_the_domain_and_the_authority_are_all_that_a_client_needs():
    with Sandbox.create() as sandbox:
        assert sandbox.commands.run("echo hello").stdout == "hello\n"
        sandbox.files.write("a.txt", "text")
        assert sandbox.files.read("a.txt") == "text"
        assert sandbox.get_info().sandbox_id == sandbox.sandbox_id
        assert sandbox.get_host(3000) == f"3000-{sandbox.sandbox_id}.{DOMAIN}"


async def test_the_asynchronous_client_too():
    sandbox = await AsyncSandbox.create()
    try:
        lines = []
        await sandbox.commands.run("echo one; echo two", on_stdout=lines.append)
        assert "".join(lines) == "one\ntwo\n"
        await sandbox.files.write("a.txt", "text")
        assert await sandbox.files.read("a.txt") == "text"
    finally:
        await sandbox.kill()


def test_a_domain_with_a_port(other_port):
    sandbox = Sandbox.create(domain=f"{DOMAIN}:{other_port}")
    try:
        assert sandbox.get_host(3000).endswith(f".{DOMAIN}:{other_port}")
        assert sandbox.commands.run("echo hello").stdout == "hello\n"
    finally:
        sandbox.kill()


def test_every_base_domain_leads_to_the_same_sandboxes(sandbox):
    there = Sandbox.connect(sandbox.sandbox_id, domain="custom.test")
    assert there.get_host(3000) == f"3000-{sandbox.sandbox_id}.custom.test"
    assert there.commands.run("echo hello").stdout == "hello\n"


def test_the_shared_host_goes_by_headers(sandbox):
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8001"}
    assert "a page" in httpx.get(f"https://sandbox.{DOMAIN}/", headers=headers, verify=BUNDLE).text
    assert httpx.get(f"https://sandbox.{DOMAIN}/", verify=BUNDLE).status_code == 400


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_pages_over_both_versions_of_http(sandbox, version):
    host = sandbox.get_host(8001)
    out = curl(f"--http{version}", "--cacert", BUNDLE, "--write-out", "\n%{http_version} %{http_code}", f"https://{host}/")
    assert "a page" in out
    assert out.endswith(f"\n{version} 200")


def test_the_host_reaches_the_program_inside(sandbox):
    host = sandbox.get_host(8000)
    seen = json.loads(curl("--http2", "--cacert", BUNDLE, f"https://{host}/x"))
    assert seen["headers"]["host"] == host


def test_curl_finds_the_authority_by_the_variable(sandbox):
    assert "a page" in curl(f"https://{sandbox.get_host(8001)}/")


def test_the_standard_library_finds_it_too(sandbox):
    with urllib.request.urlopen(f"https://{sandbox.get_host(8001)}/") as answer:
        assert b"a page" in answer.read()


def test_certificates_satisfy_the_strictest_check(sandbox):
    context = ssl.create_default_context(cafile=BUNDLE)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_connection((ADDRESS, 443)) as plain:
        with context.wrap_socket(plain, server_hostname=sandbox.get_host(8001)) as stream:
            names = stream.getpeercert()["subjectAltName"]
    assert ("DNS", f"*.{DOMAIN}") in names


def test_the_bundle_still_has_the_systems_authorities():
    with open(BUNDLE) as file:
        assert file.read().count("BEGIN CERTIFICATE") > 50


def test_signed_links_work_for_anybody(sandbox, tmp_path):
    sandbox.files.write("signed.txt", "signed")
    assert curl("--fail", sandbox.download_url("signed.txt", use_signature_expiration=60)) == "signed"

    upload = tmp_path / "up.txt"
    upload.write_text("uploaded")
    answer = curl("--fail", "--form", f"file=@{upload}", sandbox.upload_url("up.txt", use_signature_expiration=60))
    assert json.loads(answer)[0]["name"] == "up.txt"
    assert sandbox.files.read("up.txt") == "uploaded"

    spoiled = sandbox.download_url("signed.txt").replace("signature=v1_", "signature=v1_x")
    assert curl("--output", "/dev/null", "--write-out", "%{http_code}", spoiled) == "401"


def test_websockets(sandbox):
    context = ssl.create_default_context(cafile=BUNDLE)
    with websockets.sync.client.connect(f"wss://{sandbox.get_host(8000)}/ws", ssl=context) as socket:
        socket.send("hello")
        assert socket.recv() == "hello"
        socket.send(b"\0" * 70_000)
        assert len(socket.recv()) == 70_000


def test_the_api_may_be_called_by_pages_from_anywhere():
    out = curl(
        "--include", "--request", "OPTIONS", f"https://api.{DOMAIN}/sandboxes",
        "--header", "Origin: https://elsewhere.test",
        "--header", "Access-Control-Request-Method: POST",
        "--header", "Access-Control-Request-Headers: x-api-key,keepalive-ping-interval",
    ).lower()
    assert out.startswith("http/2 204")
    assert "access-control-allow-origin: *" in out
    assert "x-api-key,keepalive-ping-interval" in out


def test_an_api_key_is_still_needed():
    assert httpx.get(f"https://api.{DOMAIN}/v2/sandboxes", verify=BUNDLE).status_code == 401
    headers = {"X-API-Key": API_KEY}
    assert httpx.get(f"https://api.{DOMAIN}/v2/sandboxes", headers=headers, verify=BUNDLE).status_code == 200


@pytest.mark.parametrize("name", ["elsewhere.test", f"a.b.{DOMAIN}", "xbox.test"])
def test_names_that_are_not_ours_get_no_certificate(name):
    context = ssl.create_default_context(cafile=BUNDLE)
    with socket.create_connection((ADDRESS, 443)) as plain, pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        context.wrap_socket(plain, server_hostname=name)


@pytest.mark.parametrize("label", ["www", "x-i0", "0-i0", "99999-i0", "-"])
def test_hosts_that_name_nothing_are_refused(label):
    context = ssl.create_default_context(cafile=BUNDLE)
    # A name that a client may not put into the handshake can still come in the header.
    with socket.create_connection((ADDRESS, 443)) as plain:
        with context.wrap_socket(plain, server_hostname=f"api.{DOMAIN}") as stream:
            stream.sendall(f"GET / HTTP/1.1\r\nHost: {label}.{DOMAIN}\r\n\r\n".encode())
            assert stream.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_an_address_instead_of_a_name_gets_a_certificate_for_it():
    context = ssl.create_default_context(cafile=BUNDLE)
    with socket.create_connection((ADDRESS, 443)) as plain:
        with context.wrap_socket(plain, server_hostname=ADDRESS) as stream:
            assert ("IP Address", ADDRESS) in stream.getpeercert()["subjectAltName"]


def test_plain_http_is_led_to_https(sandbox):
    host = f"{sandbox.get_host(8001)}:443"
    out = curl("--output", "/dev/null", "--write-out", "%{http_code} %{redirect_url}", f"http://{host}/a?b=c")
    assert out in (f"308 https://{host}/a?b=c", f"308 https://{sandbox.get_host(8001)}/a?b=c")
    out = curl("--write-out", " %{http_code}", "--data", "x", f"http://api.{DOMAIN}:443/sandboxes")
    assert "https://" in out and out.endswith(" 400")


@pytest.mark.parametrize("garbage", [b"\0" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 2000, b"\xff\xfe", b"GET\r\n\r\n"])
def test_garbage_does_not_hurt_the_others(garbage):
    with socket.create_connection((ADDRESS, 443)) as plain:
        plain.sendall(garbage)
        plain.shutdown(socket.SHUT_WR)
        plain.settimeout(30)
        try:
            while plain.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert httpx.get(f"https://api.{DOMAIN}/health", verify=BUNDLE).status_code in (200, 204)
