"""The gateway itself: one HTTP endpoint in front of servers that speak over their standard streams."""

import asyncio
import hmac
import json
import subprocess
import sys

import uvicorn
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


def gateway(servers):
    """With several servers each tool's name begins with its server's."""
    entries = {
        server.name: {
            "transport": "stdio",
            "command": server.command[0],
            "args": server.command[1:],
            "env": server.environment,
            "keep_alive": True,
        }
        for server in servers
    }
    return create_proxy({"mcpServers": entries}, name="mcp-gateway")


async def serve(servers, token, ready):
    """Serves until it is killed; calls `ready` when every server has told its tools."""
    prepare(servers)
    proxy = gateway(servers)
    async with asyncio.timeout(START_SECONDS):
        tools = await proxy.list_tools() if servers else []
    application = proxy.http_app(path="/mcp", middleware=[Middleware(Bearer, token=token)], host_origin_protection=False)
    server = uvicorn.Server(uvicorn.Config(application, host="0.0.0.0", port=PORT, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.05)
    if server.started:
        print(f"{len(tools)} tools of {len(servers)} servers on port {PORT}", file=sys.stderr)
        ready()
    await serving
