"""A server of the test's own, that can be killed and started again over the same data."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

PROGRAM = os.environ["DORMOUSE_PROGRAM"]
# Templates take minutes to build: those of a server that has them are used.
TEMPLATES = Path(os.environ["DORMOUSE_TEMPLATES"])
READY_WITHIN = 120.0


class Server:
    def __init__(self, data: Path, *flags: str):
        self.data = data
        self.flags = flags
        self.ready = data / "ready.json"
        self.log = data / "server.log"
        self.process = None
        data.mkdir(parents=True, exist_ok=True)
        if not (data / "templates").exists():
            (data / "templates").symlink_to(TEMPLATES)

    def start(self):
        """Starts it and waits until it answers."""
        self.ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    PROGRAM,
                    "serve",
                    "--data-dir",
                    self.data,
                    "--listen",
                    "127.0.0.1:0",
                    "--ready-file",
                    self.ready,
                    *self.flags,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C for the tests is not one for the server, which the test ends itself.
                start_new_session=True,
            )
        end = time.monotonic() + READY_WITHIN
        while not self.ready.exists():
            assert self.process.poll() is None, f"the server ended:\n{self.tail()}"
            assert time.monotonic() < end, f"the server is not ready after {READY_WITHIN} s:\n{self.tail()}"
            time.sleep(0.02)
        ready = json.loads(self.ready.read_text())
        self.options = {"api_key": ready["apiKey"], "api_url": ready["url"], "sandbox_url": ready["url"]}

    def kill(self):
        """As a crash does it."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """As a person does it."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0, self.tail()

    def tail(self, lines=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def remains(self):
        """What there is on the host that carries this server's name: processes, cgroups, mounts, network devices."""
        mark = str(self.data)
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and int(process.name) != self.process.pid:
                try:
                    line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                except OSError:
                    continue
                if mark in line and "runsc" in line or "shim" in line and mark in line:
                    found.append(f"process {process.name}: {line[:120]}")
        for mount in Path("/proc/self/mounts").read_text().splitlines():
            if mark in mount:
                found.append(f"mount {mount}")
        prefix = re.search(r"prefix=(?:\x1b\[[0-9;]*m)*\"?(dm[0-9a-f]{6})", self.log.read_text(errors="replace"))
        if prefix:
            for device in Path("/sys/class/net").iterdir():
                if device.name.startswith(prefix[1]):
                    found.append(f"device {device.name}")
        instances = self.data / "sandboxes"
        names = [entry.name for entry in instances.iterdir()] if instances.is_dir() else []
        found += [f"directory sandboxes/{name}" for name in names]
        layers = self.data / "layers"
        return found, sorted(entry.name for entry in layers.iterdir()) if layers.is_dir() else []
