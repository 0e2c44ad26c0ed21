"""What a server's sandboxes are made of on the host."""

import os
import signal
from pathlib import Path


def processes(data: Path):
    """The processes of all sandboxes of a server, by instance and kind: `{instance: {"shim": [pid], "runsc": [pid, …]}}`.

    They are known by their command lines, which name the directory of the instance.
    """
    sandboxes = f"{data}/sandboxes/"
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        for part in line:
            _, mark, rest = part.partition(sandboxes)
            if mark:
                kind = "shim" if "shim" in line else "runsc"
                found.setdefault(rest.split("/")[0], {"shim": [], "runsc": []})[kind].append(int(entry.name))
                break
    return found


def instances(data: Path):
    """The names of all instances that there are, or are being made."""
    sandboxes = data / "sandboxes"
    return {entry.name for entry in sandboxes.iterdir()} if sandboxes.is_dir() else set()


def cgroups(names):
    """Which of these instances have a cgroup."""
    return {name for _, dirs, _ in os.walk("/sys/fs/cgroup") for name in dirs if name in names}


def send(pid, what=signal.SIGKILL):
    """Sends a signal to a process, if it is still there."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        pass
