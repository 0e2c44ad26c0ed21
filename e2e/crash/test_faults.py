"""Faults of the host under a real server: processes that die or hang, and a disk that is full."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import httpx
import pytest
from host import cgroups, instances, processes, send
from server import Server
from watched import Watched

from e2b import Sandbox


def api(server, method, path, **options):
    headers = {"X-API-Key": server.options["api_key"]}
    return httpx.request(method, server.options["api_url"] + path, headers=headers, timeout=300, **options)


def eventually(check, deadline=60.0):
    end = time.monotonic() + deadline
    while not (value := check()):
        assert time.monotonic() < end, f"still {value!r} after {deadline} s"
        time.sleep(0.05)
    return value


def carrier(server, sandbox):
    """The instance that carries a sandbox. No client is told; the database knows."""
    database = sqlite3.connect(f"file:{server.data / 'dormouse.db'}?mode=ro", uri=True)
    with contextlib.closing(database):
        [instance] = database.execute("select instance from sandboxes where id = ?", [sandbox.id]).fetchone()
    return instance


@pytest.mark.parametrize("kind", ["shim", "runsc"])
def test_a_sandbox_whose_process_is_killed_is_gone(server, kind):
    victim, other = Watched(server), Watched(server)
    instance = carrier(server, victim)
    for pid in processes(server.data)[instance][kind]:
        send(pid)
    eventually(lambda: api(server, "GET", f"/sandboxes/{victim.id}").status_code == 404)
    with pytest.raises(httpx.HTTPStatusError):
        victim.read(server)
    assert not Sandbox.kill(victim.id, **server.options)
    assert other.read(server) == (other.ticket, other.pid, other.count)
    eventually(lambda: instance not in instances(server.data))
    assert not cgroups({instance})
    assert instance not in processes(server.data)
    Sandbox.kill(other.id, **server.options)


def test_a_sandbox_whose_kernel_hangs_can_be_killed(server):
    victim, other = Watched(server), Watched(server)
    instance = carrier(server, victim)
    for pid in processes(server.data)[instance]["runsc"]:
        send(pid, signal.SIGSTOP)
    refused = api(server, "POST", f"/sandboxes/{victim.id}/pause")
    assert refused.status_code >= 500, refused.text
    assert other.read(server) == (other.ticket, other.pid, other.count), "the others go on"
    assert Sandbox.kill(victim.id, **server.options)
    assert api(server, "GET", f"/sandboxes/{victim.id}").status_code == 404
    eventually(lambda: instance not in instances(server.data))
    assert not cgroups({instance})
    assert instance not in processes(server.data)
    Sandbox.kill(other.id, **server.options)


@pytest.fixture
def small_server():
    """A server with little room for snapshots."""
    with tempfile.TemporaryDirectory(prefix="dormouse-crash-") as data:
        layers = Path(data) / "layers"
        layers.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", layers], check=True)
        try:
            server = Server(Path(data), "--pool-size", "1", "--extra-ca", os.environ.get("DORMOUSE_EXTRA_CA", "auto"))
            server.start()
            yield server
            print(server.tail(80))
            if server.process.poll() is None:
                server.stop()
        finally:
            subprocess.run(["umount", layers], check=True)


def test_a_pause_without_room_leaves_the_sandbox_running(small_server):
    server = small_server
    sandbox = Watched(server)
    inside = Sandbox.connect(sandbox.id, **server.options)
    layers = server.data / "layers"
    before = sorted(layers.iterdir())
    # What cannot be compressed, in memory and on disk.
    inside.commands.run("head -c 450M /dev/urandom > /home/user/big", timeout=120)
    for _ in range(2):
        refused = api(server, "POST", f"/sandboxes/{sandbox.id}/pause")
        assert refused.status_code >= 500, refused.text
        assert "space" in refused.json()["message"].lower(), refused.text
        assert api(server, "GET", f"/sandboxes/{sandbox.id}").json()["state"] == "running"
        assert sandbox.read(server) == (sandbox.ticket, sandbox.pid, sandbox.count)
        assert inside.commands.run("stat -c %s /home/user/big").stdout == f"{450 << 20}\n"
        assert sorted(layers.iterdir()) == before, "what was written of it is gone"
    # With room it works.
    inside.commands.run("rm /home/user/big")
    inside.pause()
    assert sandbox.read(server) == (sandbox.ticket, sandbox.pid, sandbox.count)
    assert Sandbox.kill(sandbox.id, **server.options)
    eventually(lambda: sorted(layers.iterdir()) == before)


def test_a_stop_while_sandboxes_start_leaves_nothing(server):
    seen = set()
    for delay in (0.02, 0.1, 0.3):
        over = threading.Event()

        def create(over=over):
            while not over.is_set():
                with contextlib.suppress(Exception):
                    # More than the pool holds, so that some are being made.
                    Sandbox.create(timeout=3600, **server.options)

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(delay)
        seen |= instances(server.data)
        server.stop()
        over.set()
        for thread in threads:
            thread.join()
        seen |= instances(server.data)
        server.start()
        for listed in Sandbox.list(**server.options).next_items():
            assert Sandbox.kill(listed.sandbox_id, **server.options)
    server.stop()
    left, layers = server.remains()
    assert not left, "\n".join(left)
    assert not cgroups(seen)
    # The base template's.
    assert len(layers) == 1, layers
