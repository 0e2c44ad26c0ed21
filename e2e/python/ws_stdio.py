"""What `websocat --binary - <url>` does: bytes between a WebSocket and standard input and output. A ProxyCommand for ssh.

The second argument is the server's address: the URL's host is only a name that no resolver has to know.
"""

import asyncio
import os
import sys
from urllib.parse import urlsplit

import websockets


async def main(url, address):
    address = urlsplit(address)
    async with websockets.connect(url, host=address.hostname, port=address.port, max_size=None) as socket:

        async def outward():
            async for data in socket:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()

        out = asyncio.create_task(outward())
        while data := await asyncio.to_thread(os.read, 0, 65536):
            await socket.send(data)
        await socket.close()
        await out


asyncio.run(main(*sys.argv[1:]))
