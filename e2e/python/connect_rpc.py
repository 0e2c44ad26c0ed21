"""The Connect protocol by hand, for what the clients never send."""

import base64
import json
import struct

import httpx
from conftest import SANDBOX_URL, route

AGENT = 49983
MESSAGE, END = 0, 2


def envelope(message, flags=MESSAGE):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">BI", flags, len(data)) + data


def headers(sandbox, user=None, **extra):
    """The headers of a call, with the sandbox's token."""
    found = {**route(sandbox, AGENT), "X-Access-Token": sandbox._envd_access_token, "Connect-Protocol-Version": "1"}
    if user is not None:
        found["Authorization"] = "Basic " + base64.b64encode(f"{user}:".encode()).decode()
    return {**found, **{name.replace("_", "-"): value for name, value in extra.items()}}


def unary(sandbox, method, body, **extra):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **headers(sandbox, **extra)}
    return httpx.post(f"{SANDBOX_URL}/{method}", content=content, headers=sent, timeout=60)


class Stream:
    """A streaming call: `request` is the whole body; messages are read one by one."""

    def __init__(self, sandbox, method, request, content_type="application/connect+json", **extra):
        content = request if not isinstance(request, dict) else envelope(request)
        self.client = httpx.Client(timeout=60)
        sent = {"Content-Type": content_type, **headers(sandbox, **extra)}
        self.call = self.client.stream("POST", f"{SANDBOX_URL}/{method}", content=content, headers=sent)

    def __enter__(self):
        self.response = self.call.__enter__()
        self.raw = self.response.iter_raw()
        self.buffer = b""
        return self

    def __exit__(self, *error):
        self.call.__exit__(*error)
        self.client.close()

    def take(self, size):
        while len(self.buffer) < size:
            self.buffer += next(self.raw)
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def next(self):
        """Flags and content of the next envelope."""
        flags, length = struct.unpack(">BI", self.take(5))
        return flags, json.loads(self.take(length) or b"null")

    def event(self):
        """The next event of a process."""
        flags, message = self.next()
        assert flags == MESSAGE, message
        return message["event"]

    def end(self):
        """The end of the stream, after any messages: its error, if it has one."""
        while True:
            flags, message = self.next()
            if flags & END:
                return message.get("error")


def start(script, **more):
    return {"process": {"cmd": "/bin/bash", "args": ["-c", script]}, "stdin": False, **more}
