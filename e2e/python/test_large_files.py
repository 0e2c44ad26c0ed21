"""A gibibyte in and out: streamed, whole, and with flat memory in the agent and in the server."""

import hashlib
import os
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import API_URL

SIZE = 1 << 30
PIECE = 1 << 20
# Far below the size, far above what buffers need.
AGENT_MAY_GROW = 32 << 20
SERVER_MAY_GROW = 64 << 20


def content():
    """A gibibyte in which no piece is like another."""
    filler = os.urandom(PIECE - 8)
    for number in range(SIZE // PIECE):
        yield number.to_bytes(8, "big") + filler


def server_process():
    """The process that listens on the API's address; None when it runs elsewhere."""
    address = urlsplit(API_URL)
    listening = f"0100007F:{address.port:04X}"
    sockets = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == listening and fields[3] == "0A":
            sockets.add(f"socket:[{fields[9]}]")
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) in sockets:
                return descriptor.parent.parent
        except OSError:
            pass
    return None


def resident(process):
    """Bytes that are the process's own; mapped files come and go with the page cache."""
    for line in (process / "status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


class Peaks:
    """The most memory that the agent and the server have, looked at while something runs."""

    def __init__(self, sandbox):
        self.sandbox, self.server = sandbox, server_process()
        self.agent_before, self.server_before = self.agent(), self.of_server()
        self.agent_peak, self.server_peak, self.looks = self.agent_before, self.server_before, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def agent(self):
        # What the kernel inside says of the process with number 1.
        found = self.sandbox.commands.run("awk '/^VmRSS/ {print $2}' /proc/1/status", user="root", timeout=60)
        return int(found.stdout) << 10

    def of_server(self):
        return resident(self.server) if self.server else 0

    def watch(self):
        while not self.over.wait(0.25):
            self.server_peak = max(self.server_peak, self.of_server())
            self.agent_peak = max(self.agent_peak, self.agent())
            self.looks += 1

    def __enter__(self):
        self.started = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        took = time.monotonic() - self.started
        self.over.set()
        self.thread.join()
        agent, server = self.agent_peak - self.agent_before, self.server_peak - self.server_before
        print(f"{SIZE / took / (1 << 20):.0f} MiB/s, agent +{agent >> 10} KiB, server +{server >> 10} KiB, {self.looks} looks")
        if kind is None:
            assert self.looks >= 2
            assert agent < AGENT_MAY_GROW, f"the agent grew by {agent} bytes"
            assert server < SERVER_MAY_GROW, f"the server grew by {server} bytes"


@pytest.mark.timeout(900)
def test_a_gibibyte_streams_with_flat_memory(make):
    sandbox = make(timeout=1200)
    sent = hashlib.sha256()

    def hashed():
        for piece in content():
            sent.update(piece)
            yield piece

    # Once before: what is allocated at the first use is not what is looked for.
    sandbox.files.write("warm", b"x" * (8 << 20))
    sandbox.files.read("warm", format="bytes")
    with Peaks(sandbox):
        sandbox.files.write("large", hashed(), request_timeout=0)
    assert sandbox.files.get_info("large").size == SIZE
    inside = sandbox.commands.run("sha256sum large", timeout=300).stdout.split()[0]
    assert inside == sent.hexdigest()

    received = hashlib.sha256()
    with Peaks(sandbox):
        for piece in sandbox.files.read("large", format="stream", request_timeout=0):
            received.update(piece)
    assert received.hexdigest() == sent.hexdigest()
