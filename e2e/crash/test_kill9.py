"""The daemon is killed at random moments: nothing that a client was told is lost, and nothing is left without an owner."""

import os
import random
import tempfile
import threading
import time
from pathlib import Path

import httpx
import pytest
from server import Server

from e2b import Sandbox
from e2b.exceptions import SandboxException

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "12"))
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.randrange(1 << 30)
SANDBOXES = 4
PORT = 7000
KEEPER = (Path(__file__).parent / "keeper.py").read_text()


@pytest.fixture
def server():
    with tempfile.TemporaryDirectory(prefix="dormouse-crash-") as data:
        server = Server(Path(data), "--pool-size", "1", "--extra-ca", os.environ.get("DORMOUSE_EXTRA_CA", "auto"))
        server.start()
        yield server
        # Shown only when the test failed.
        print(server.tail(80))
        if server.process.poll() is None:
            server.stop()


class Watched:
    """A sandbox, and what was last heard of it."""

    def __init__(self, server):
        sandbox = Sandbox.create(timeout=3600, lifecycle={"on_timeout": "pause", "auto_resume": True}, **server.options)
        self.id = sandbox.sandbox_id
        sandbox.files.write("/home/user/keeper.py", KEEPER)
        sandbox.commands.run("python3 /home/user/keeper.py", background=True)
        self.count = None
        self.ticket = self.pid = None
        end = time.monotonic() + 30
        while self.count is None:
            try:
                self.ticket, self.pid, self.count = self.read(server)
            except httpx.HTTPStatusError:
                assert time.monotonic() < end
                time.sleep(0.05)
        # An increment whose answer never came may or may not have happened.
        self.unsure = 0

    def ask(self, server, method):
        answer = httpx.request(
            method,
            f"{server.options['sandbox_url']}/",
            headers={"E2b-Sandbox-Id": self.id, "E2b-Sandbox-Port": str(PORT)},
            timeout=60,
        )
        answer.raise_for_status()
        ticket, pid, count = answer.text.split()
        return ticket, pid, int(count)

    def read(self, server):
        return self.ask(server, "GET")

    def act(self, server, chance, told):
        """One random thing; notes what was promised."""
        what = chance.choice(["pause", "wake", "count", "count"])
        try:
            if what == "pause":
                Sandbox.pause(self.id, **server.options)
                told[self.id] = "paused"
            elif what == "wake":
                Sandbox.connect(self.id, timeout=3600, **server.options)
                told[self.id] = "running"
            else:
                self.unsure += 1
                told.pop(self.id, None)
                _, _, self.count = self.ask(server, "POST")
                self.unsure = 0
                told[self.id] = "running"
        except (SandboxException, httpx.HTTPError, OSError):
            # Refused, or the server died under it: what is true now is not known.
            told.pop(self.id, None)
        except Exception as error:
            # The client's own transport errors have no common class.
            assert "onnect" in str(error) or "closed" in str(error) or "reset" in str(error) or "sending" in str(error), repr(error)
            told.pop(self.id, None)


def test_kill9_at_random_moments_loses_nothing_and_leaves_nothing(server):
    print(f"CRASH_SEED={SEED}")
    chance = random.Random(SEED)
    watched = [Watched(server) for _ in range(SANDBOXES)]
    for round in range(ROUNDS):
        told = {}
        over = threading.Event()

        def keep_busy(sandbox, seed):
            mine = random.Random(seed)
            while not over.is_set():
                sandbox.act(server, mine, told)

        def come_and_go():
            while not over.is_set():
                try:
                    Sandbox.create(timeout=3600, **server.options).kill()
                except Exception:
                    # Its fate is looked at below: it is either listed or leaves nothing.
                    pass

        threads = [threading.Thread(target=keep_busy, args=(sandbox, chance.random())) for sandbox in watched]
        threads.append(threading.Thread(target=come_and_go))
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.05, 1.5))
        server.kill()
        over.set()
        for thread in threads:
            thread.join()
        server.start()
        known = {sandbox.id for sandbox in watched}
        listed = {sandbox.sandbox_id: sandbox.state.value for sandbox in Sandbox.list(**server.options).next_items()}
        assert known <= listed.keys(), f"round {round}: lost {known - listed.keys()}\n{server.tail()}"
        for id, state in told.items():
            assert listed[id] == state, f"round {round}: {id} was told {state}, is {listed[id]}\n{server.tail()}"
        for stranger in listed.keys() - known:
            Sandbox.kill(stranger, **server.options)
        for sandbox in watched:
            ticket, pid, count = sandbox.read(server)
            assert (ticket, pid) == (sandbox.ticket, sandbox.pid), f"round {round}: another process answers"
            assert sandbox.count <= count <= sandbox.count + sandbox.unsure, f"round {round}: memory went back or forth"
            sandbox.count, sandbox.unsure = count, 0
    for sandbox in watched:
        assert Sandbox.kill(sandbox.id, **server.options)
    server.stop()
    left, layers = server.remains()
    assert not left, "\n".join(left)
    # The base template's.
    assert len(layers) == 1, layers
