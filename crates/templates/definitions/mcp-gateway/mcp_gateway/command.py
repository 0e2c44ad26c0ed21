"""The command: `mcp-gateway --config JSON` starts the gateway and returns when it answers; `mcp-gateway pull NAME...` fetches
servers ahead of time, while a template is built."""

import argparse
import asyncio
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

from . import catalog

USER = "user"
TOKEN_FILE = Path("/etc/mcp-gateway/.token")
LOG_FILE = Path("/var/log/mcp-gateway.log")


def main():
    parser = argparse.ArgumentParser(prog="mcp-gateway", description=__doc__)
    parser.add_argument("--config", metavar="JSON", help="which servers to start, and their settings")
    commands = parser.add_subparsers(dest="command")
    pull = commands.add_parser("pull", help="fetch servers ahead of time")
    pull.add_argument("names", nargs="+", metavar="NAME")
    commands.add_parser("serve", help="run in the foreground; the configuration is on standard input")
    options = parser.parse_args()
    try:
        if options.command == "pull":
            fetch(options.names)
        elif options.command == "serve":
            serve()
        elif options.config is not None:
            start(options.config)
        else:
            parser.error("--config is missing")
    except catalog.BadConfiguration as error:
        sys.exit(f"mcp-gateway: {error}")


def start(configuration):
    """Starts the gateway in the background, as the sandbox's user, and waits until it answers."""
    catalog.read(configuration)
    token = os.environ.get("GATEWAY_ACCESS_TOKEN")
    if not token:
        raise catalog.BadConfiguration("GATEWAY_ACCESS_TOKEN is not set")
    TOKEN_FILE.parent.mkdir(parents=True, exist_ok=True)
    TOKEN_FILE.touch(mode=0o600)
    TOKEN_FILE.write_text(token)
    told, tell = os.pipe()
    with LOG_FILE.open("wb") as log:
        gateway = subprocess.Popen(
            [sys.executable, "-m", "mcp_gateway", "serve"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[tell],
            start_new_session=True,
            env={**environment(), "GATEWAY_ACCESS_TOKEN": token, "GATEWAY_READY": str(tell)},
            **as_user(),
        )
    os.close(tell)
    gateway.stdin.write(configuration.encode())
    gateway.stdin.close()
    # The other end is closed unwritten when the gateway ends before it is ready.
    if os.read(told, 1) != b"1":
        raise catalog.BadConfiguration(f"the gateway did not start:\n{LOG_FILE.read_text(errors='replace')[-4000:]}")


def serve():
    from . import service

    servers = catalog.read(sys.stdin.read())
    tell = int(os.environ.pop("GATEWAY_READY", "-1"))

    def ready():
        if tell >= 0:
            os.write(tell, b"1")
            os.close(tell)

    asyncio.run(service.serve(servers, os.environ.pop("GATEWAY_ACCESS_TOKEN"), ready))


def fetch(names):
    """Has npm and uv fetch the packages, so that the first start needs no network."""
    for name in names:
        if name not in catalog.ENTRIES:
            catalog.server_of(name, {"runCmd": "true"})
            raise catalog.BadConfiguration(f"{name} can only be fetched when it starts")
        command, _ = catalog.ENTRIES[name]
        quiet = {"stdin": subprocess.DEVNULL, "env": environment(), **as_user()}
        fetching = ["uv", "tool", "install", *command[1:]] if command[0] == "uvx" else ["npm", "install", "--global", command[2]]
        if subprocess.run(fetching, **quiet).returncode != 0:
            raise catalog.BadConfiguration(f"{name} could not be fetched")


def environment():
    home = pwd.getpwnam(USER).pw_dir if as_user() else os.environ.get("HOME", "/root")
    path = f"{home}/.local/bin:" + os.environ.get("PATH", os.defpath)
    return {**os.environ, "HOME": home, "PATH": path}


def as_user():
    """Servers are programs of strangers: they run as the sandbox's user, not as root."""
    if os.geteuid() != 0 or shutil.which("sudo") is None:
        return {}
    entry = pwd.getpwnam(USER)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": entry.pw_dir}
