"""The gateway itself: one HTTP endpoint in front of servers that speak over their standard streams."""

import asyncio
import collections
import contextlib
import hmac
import json
import os
import socket
import subprocess
import sys

import uvicorn
from fastmcp import Client, FastMCP
from fastmcp.client.transports import StdioTransport
from fastmcp.server import create_proxy
from starlette.middleware import Middleware

from . import catalog

PORT = 50005
INSTALL_SECONDS = 600
START_SECONDS = 120


class Bearer:
    """Lets only requests with the gateway's token pass."""

    def __init__(self, application, token):
        self.application = application
        self.expected = f"Bearer {token}".encode()

    async def __call__(self, scope, receive, send):
        given = dict(scope.get("headers", [])).get(b"authorization", b"")
        if scope["type"] != "http" or hmac.compare_digest(given, self.expected):
            return await self.application(scope, receive, send)
        body = json.dumps({"error": "the gateway's token is missing or wrong"}).encode()
        headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def prepare(servers):
    """Installs what servers of repositories need."""
    for server in servers:
        if server.install:
            done = subprocess.run(["bash", "-c", server.install], capture_output=True, text=True, timeout=INSTALL_SECONDS)
            if done.returncode != 0:
                raise catalog.BadConfiguration(f"{server.name} could not be installed: {done.stderr.strip()[-2000:]}")


async def connect(server, stack):
    """Starts a server and returns its client and the names of its tools."""
    # The programs find their proxies, certificates and caches in the environment, which the transport would not pass on.
    environment = {**os.environ, **server.environment}
    transport = StdioTransport(server.command[0], server.command[1:], env=environment, keep_alive=True)
    try:
        async with asyncio.timeout(START_SECONDS):
            client = await stack.enter_async_context(Client(transport))
            return client, [tool.name for tool in await client.list_tools()]
    except Exception as error:
        raise catalog.BadConfiguration(f"{server.name} did not start: {error!r}") from error


async def gateway(servers, stack):
    """All tools of all servers; the names of two servers' tools that would be the same begin with their server's name."""
    connected = [(server, *await connect(server, stack)) for server in servers]
    counts = collections.Counter(name for _, _, names in connected for name in names)
    front = FastMCP("mcp-gateway")
    for server, client, names in connected:
        unique = all(counts[name] == 1 for name in names)
        front.mount(create_proxy(client), namespace=None if unique else server.name)
    return front, counts.total()


async def serve(servers, token, ready):
    """Serves until it is killed; calls `ready` when every server has told its tools."""
    prepare(servers)
    async with contextlib.AsyncExitStack() as stack:
        front, tools = await gateway(servers, stack)
        application = front.http_app(path="/mcp", middleware=[Middleware(Bearer, token=token)], host_origin_protection=False)
        # Listening begins here: whoever connects after `ready` waits in the socket's queue at most.
        listener = socket.create_server(("0.0.0.0", PORT))
        ready()
        print(f"{tools} tools of {len(servers)} servers on port {PORT}", file=sys.stderr)
        await uvicorn.Server(uvicorn.Config(application, log_level="warning")).serve(sockets=[listener])
