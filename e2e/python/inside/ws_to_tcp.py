"""What `websocat -b ws-l:0.0.0.0:<port> tcp:127.0.0.1:<target>` does, with the standard library alone (RFC 6455, binary frames)."""

import asyncio
import base64
import hashlib
import struct
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


def frame(opcode, payload):
    head = bytes([0x80 | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return head + b"\x7e" + struct.pack(">H", len(payload)) + payload
    return head + b"\x7f" + struct.pack(">Q", len(payload)) + payload


async def read_frame(reader):
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", await reader.readexactly(2))
    elif length == 127:
        (length,) = struct.unpack(">Q", await reader.readexactly(8))
    mask = await reader.readexactly(4)
    data = await reader.readexactly(length)
    key = (mask * (length // 4 + 1))[:length]
    plain = int.from_bytes(data, "big") ^ int.from_bytes(key, "big")
    return first & 0xF, plain.to_bytes(length, "big")


async def serve(reader, writer, target):
    head = await reader.readuntil(b"\r\n\r\n")
    lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    key = next(value for name, value in lines.items() if name.lower() == b"sec-websocket-key")
    accept = base64.b64encode(hashlib.sha1(key.strip() + GUID).digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n")
    writer.write(b"sec-websocket-accept: " + accept + b"\r\n\r\n")
    tcp_reader, tcp_writer = await asyncio.open_connection("127.0.0.1", target)

    async def outward():
        while data := await tcp_reader.read(65536):
            writer.write(frame(BINARY, data))
            await writer.drain()
        writer.write(frame(CLOSE, b""))

    out = asyncio.create_task(outward())
    try:
        while True:
            opcode, data = await read_frame(reader)
            if opcode == CLOSE:
                break
            if opcode == PING:
                writer.write(frame(PONG, data))
            else:
                tcp_writer.write(data)
                await tcp_writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    tcp_writer.close()
    await out
    writer.close()


async def main(port, target):
    server = await asyncio.start_server(lambda r, w: serve(r, w, target), "0.0.0.0", port)
    await server.serve_forever()


asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
