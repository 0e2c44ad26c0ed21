"""What a sandbox can reach."""

import subprocess
from urllib.parse import urlsplit

import pytest
from conftest import API_URL, eventually, serve

from e2b import CommandExitException

# Debian's mirror: what every host that runs Dormouse can reach, because the base template comes from it.
PAGE = "http://deb.debian.org/debian/dists/trixie/Release"


@pytest.fixture(scope="module")
def internet():
    found = subprocess.run(["curl", "-sfI", "-m", "10", PAGE], capture_output=True)
    if found.returncode != 0:
        pytest.skip("this host does not reach Debian's mirror")


def status(sandbox, url, options=""):
    try:
        return sandbox.commands.run(f"curl -s -o /dev/null -m 5 -w '%{{http_code}}' {options} {url}").stdout
    except CommandExitException as failure:
        return f"curl {failure.exit_code}"


@pytest.mark.internet
def test_internet_is_there_by_name(internet, sandbox):
    assert status(sandbox, PAGE) == "200"


@pytest.mark.internet
def test_internet_after_a_sleep(internet, sandbox):
    sandbox.pause()
    sandbox.connect()
    assert status(sandbox, PAGE) == "200"


@pytest.mark.internet
def test_internet_can_be_off(internet, make):
    sandbox = make(allow_internet_access=False)
    assert status(sandbox, PAGE).startswith("curl")
    assert sandbox.commands.run("echo works").stdout == "works\n"
    assert sandbox.get_info().allow_internet_access is False
    sandbox.pause()
    sandbox.connect()
    assert status(sandbox, PAGE).startswith("curl")


@pytest.mark.internet
def test_packages_of_debian_can_be_installed(internet, sandbox):
    sandbox.commands.run("sudo apt-get update -qq && sudo apt-get install -yqq hello", timeout=110)
    assert sandbox.commands.run("hello").stdout == "Hello, world!\n"


@pytest.mark.parametrize("address", ["10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"])
def test_private_addresses_are_never_reached(sandbox, address):
    assert status(sandbox, f"http://{address}/", "-m 2").startswith("curl")


def test_the_host_is_not_reached(sandbox):
    port = urlsplit(API_URL).port
    gateway = sandbox.commands.run("ip route | awk '/default/ {print $3}'").stdout.strip()
    assert gateway
    for address in (gateway, "127.0.0.1"):
        assert status(sandbox, f"http://{address}:{port}/health", "-m 2").startswith("curl")


def test_sandboxes_do_not_reach_each_other(make, ports):
    one, two = make(), make()
    serve(one, ports)
    addresses = one.commands.run("hostname -I").stdout.split()
    for address in addresses:
        found = two.commands.run(f"curl -s -m 2 http://{address}:8000/state || true").stdout
        assert "token" not in found


def test_loopback_works(sandbox):
    sandbox.commands.run("python3 -m http.server 9000 --bind 127.0.0.1", background=True)
    eventually(lambda: status(sandbox, "http://localhost:9000/") == "200")


def test_unknown_name_fails_fast(sandbox):
    result = sandbox.commands.run("time -p getent hosts no-such-host.invalid || echo none")
    assert "none" in result.stdout
