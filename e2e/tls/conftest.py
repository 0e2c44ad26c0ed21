"""HTTPS as a user meets it: the clients know a domain, a key and an authority, and nothing else."""

import asyncio
import os
import subprocess
import threading
import time

import pytest

from e2b import Sandbox

DOMAIN = os.environ["E2B_DOMAIN"]
API_KEY = os.environ["E2B_API_KEY"]
BUNDLE = os.environ["SSL_CERT_FILE"]
ADDRESS = os.environ["E2E_SERVER_ADDRESS"]

for name in ("E2B_API_URL", "E2B_SANDBOX_URL"):
    assert name not in os.environ, f"{name} would lead around what is tested"


def eventually(check, deadline=30.0, every=0.05):
    """The first true value of `check()`; a failure when there is none before the deadline."""
    end = time.monotonic() + deadline
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end, f"still {value!r} after {deadline} s"
        time.sleep(every)


def curl(*arguments):
    """Runs curl; what it printed, or its exit code when it failed."""
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--max-time", "60", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def sandbox():
    """One for all tests: what is tested is the way to it."""
    with open(os.path.join(os.path.dirname(__file__), "../python/inside/server.py")) as file:
        server = file.read()
    sandbox = Sandbox.create()
    try:
        sandbox.files.write("server.py", server)
        sandbox.files.write("page/index.html", "<title>inside</title><h1>a page</h1>")
        sandbox.commands.run("exec python3 -u server.py 0.0.0.0 8000", background=True, timeout=0)
        sandbox.commands.run("exec python3 -m http.server 8001 -d page", background=True, timeout=0)
        # Directly: the commands above return before the programs listen.
        wait = "until python3 -c 'import socket; [socket.create_connection((\"127.0.0.1\", p)) for p in (8000, 8001)]'; do sleep 0.05; done"
        sandbox.commands.run(wait)
        yield sandbox
    finally:
        sandbox.kill()


@pytest.fixture
def other_port():
    """The HTTPS port once more, under another number: as behind a NAT."""
    loop = asyncio.new_event_loop()

    async def copy(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def relay(reader, writer):
        there, back = await asyncio.open_connection(ADDRESS, 443)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    server = loop.run_until_complete(asyncio.start_server(relay, ADDRESS, 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
