"""A server that runs inside a sandbox: it tells what it received, streams, speaks WebSocket, and keeps state.

Usage: server.py HOST PORT. Only the standard library, so that it runs in the base template as it is.
"""

import base64
import hashlib
import json
import os
import socket
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

START_TOKEN = os.urandom(8).hex()

# What must survive a sleep: an unlinked file that is still open, a pair of sockets with bytes in flight, a thread
# that counts.
unlinked = tempfile.TemporaryFile()
unlinked.write(b"kept open")
unlinked.flush()
near, far = socket.socketpair()
near.sendall(b"in flight")
loopback_listener = socket.create_server(("127.0.0.1", 0))
loopback_client = socket.create_connection(loopback_listener.getsockname())
loopback_server, _ = loopback_listener.accept()
ticks = 0


def count():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.01)


def state():
    unlinked.seek(0)
    loopback_client.sendall(b"x")
    return {
        "pid": os.getpid(),
        "token": START_TOKEN,
        "ticks": ticks,
        "unlinked": unlinked.read().decode(),
        "in_flight": far.recv(100, socket.MSG_PEEK).decode(),
        "loopback": loopback_server.recv(1).decode(),
        "time": time.time(),
        "marker": os.environ.get("MARKER"),
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while True:
                size = int(self.rfile.readline().strip(), 16)
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if size == 0:
                    return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send(self, status, content, kind="application/json", extra=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in extra:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def any(self):
        path = self.path.split("?")[0]
        if path == "/state":
            return self.send(200, json.dumps(state()).encode())
        if path == "/ws":
            return self.websocket()
        if path == "/sse":
            return self.events()
        if path == "/big":
            return self.send(200, b"\0" * (16 << 20), "application/octet-stream")
        if path.startswith("/status/"):
            return self.send(int(path.rsplit("/", 1)[1]), b"x", "text/plain", [("X-From-Inside", "yes")])
        body = self.body()
        self.send(200, json.dumps({
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }).encode())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_HEAD = any

    def events(self):
        """Each event is sent when the one before was acknowledged with a request to /sse?ack: no timing, no luck."""
        if self.path.endswith("?ack"):
            acknowledged.release()
            return self.send(200, b"{}")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(3):
            self.wfile.write(f"data: {number}\n\n".encode())
            self.wfile.flush()
            if not acknowledged.acquire(timeout=20):
                break
        self.close_connection = True

    def websocket(self):
        """Echoes text and binary messages until the client closes."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            opcode, length = head[0] & 15, head[1] & 127
            if length == 126:
                length = int.from_bytes(self.rfile.read(2))
            elif length == 127:
                length = int.from_bytes(self.rfile.read(8))
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(self.rfile.read(length)))
            size = bytes([length]) if length < 126 else b"\x7e" + length.to_bytes(2)
            self.wfile.write(bytes([0x80 | opcode]) + size + data)
            if opcode == 8:
                return


acknowledged = threading.Semaphore(0)
threading.Thread(target=count, daemon=True).start()
ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
