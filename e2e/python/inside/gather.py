"""A server that runs inside a sandbox: it answers nobody before COUNT clients wait, and then all of them.

Usage: gather.py PORT COUNT. Only the standard library.
"""

import asyncio
import resource
import sys

port, count = int(sys.argv[1]), int(sys.argv[2])
waiting = 0
all_there = asyncio.Event()


async def attend(reader, writer):
    global waiting
    await reader.readuntil(b"\r\n\r\n")
    waiting += 1
    if waiting == count:
        all_there.set()
    await all_there.wait()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nthere")
    await writer.drain()
    writer.close()


async def main():
    server = await asyncio.start_server(attend, "0.0.0.0", port, backlog=4096)
    print("listening", flush=True)
    await server.serve_forever()


resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, max(count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
asyncio.run(main())
