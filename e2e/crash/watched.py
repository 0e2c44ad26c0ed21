"""A sandbox that counts, and what a client was told of it."""

import time
from pathlib import Path

import httpx

from e2b import Sandbox
from e2b.exceptions import SandboxException

PORT = 7000
KEEPER = (Path(__file__).parent / "keeper.py").read_text()


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
