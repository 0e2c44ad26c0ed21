"""E2B's recipe for SSH: sshd in the sandbox, reached over a WebSocket through the proxy (contract 4.14)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import INSIDE, SANDBOX_URL, eventually

HERE = Path(__file__).parent


@pytest.mark.internet
@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh on this host")
def test_sshd_in_the_sandbox_is_reached_over_a_websocket(make, tmp_path):
    sandbox = make(timeout=600)
    install = "apt-get update -q && apt-get install -qy --no-install-recommends openssh-server && mkdir -p /run/sshd"
    sandbox.commands.run(install, user="root", timeout=300)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    sandbox.files.write("/home/user/.ssh/authorized_keys", (tmp_path / "key.pub").read_text())
    sandbox.commands.run("chmod 700 ~/.ssh && chmod 600 ~/.ssh/authorized_keys")
    sandbox.commands.run("exec /usr/sbin/sshd -D -e", user="root", background=True, timeout=0)
    sandbox.files.write("/home/user/bridge.py", (INSIDE / "ws_to_tcp.py").read_text())
    sandbox.commands.run("exec python3 bridge.py 8081 22", background=True, timeout=0)
    listening = "ss -ltn 2>/dev/null | grep -cE ':(22|8081) ' || grep -cE ':(0016|1F91) .* 0A ' /proc/net/tcp"
    eventually(lambda: sandbox.commands.run(listening + " || true").stdout.strip() not in ("", "0", "1"), deadline=60, every=0.5)

    big = tmp_path / "big"
    big.write_bytes(os.urandom(8 << 20))
    proxy = f"{sys.executable} {HERE}/ws_stdio.py ws://8081-%h.localhost {SANDBOX_URL}"
    options = ["-F", "none", "-i", str(tmp_path / "key"), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"]
    options += ["-o", f"UserKnownHostsFile={tmp_path}/known", "-o", "LogLevel=ERROR", "-o", f"ProxyCommand={proxy}"]
    command = ["ssh", *options, f"user@{sandbox.sandbox_id}", "echo $SSH_CONNECTION >&2; cat"]
    with open(big, "rb") as source:
        done = subprocess.run(command, stdin=source, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == big.read_bytes()
